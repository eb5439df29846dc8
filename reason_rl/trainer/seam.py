"""Puts a rollout backend in the place of TRL's vLLM engine, so that every engine has budgets, seeds and log-probs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reason_rl.algorithm.opening import Opening
from reason_rl.errors import RunError
from reason_rl.rollout.backend import Backend, Sample, SamplingOptions, SamplingRequest


@dataclass(frozen=True)
class RowPlan:
    """What the next rollout round wants of each row: its token budget, its seed, and how it begins.

    Args:
        budgets: completion tokens allowed, opening included.
        seeds: seeds of the rows' random streams.
        openings: what each row begins with, or None for nothing; left out = nothing for all.
        prompt_ids: what each row goes on from, instead of the tokens of its prompt; None = those of the prompts.
        stop_ids: tokens that end a completion like its end token.
        group_size: rows that belong together when they are graded; None = the trainer's.
        group_sizes: rows of each group, where they differ.
        closed: the prompts close the thinking, so that completions are answers.
    """

    budgets: tuple[int, ...]
    seeds: tuple[int, ...]
    openings: tuple[Opening | None, ...] | None = None
    prompt_ids: tuple[tuple[int, ...], ...] | None = None
    stop_ids: tuple[int, ...] = ()
    group_size: int | None = None
    closed: bool = False
    group_sizes: tuple[int, ...] | None = None

    def opening(self, row: int) -> Opening | None:
        """Return what a row begins with."""
        return self.openings[row] if self.openings is not None else None


def put_before(opening: Opening | None, sample: Sample) -> Sample:
    """Return the sample with its opening, which is part of the completion.

    >>> put_before(Opening((6,), 0.5), Sample((7, 1), (-0.1, -0.2), "stop")).token_ids
    (6, 7, 1)
    """
    if opening is None:
        return sample
    ids, logps = (*opening.token_ids, *sample.token_ids), (*opening.logps, *sample.logps)
    put = len(opening.token_ids)
    sampled = None if sample.sampled is None else ((True,) * put + sample.sampled)
    return Sample(ids, logps, sample.finish_reason, put, sampled)


class BackendSeam:
    """Looks like ``trl.generation.VLLMGeneration`` to the trainer and forwards to a :class:`Backend`.

    TRL passes prompts only; the plan of the round is set just before by the trainer, and the samples, with their finish
    reasons, are read just after.
    """

    def __init__(self, backend: Backend, options: SamplingOptions, on_progress: Callable[[int, int], None] | None):
        self.backend = backend
        self.options = options
        self.on_progress = on_progress
        self.version = -1
        self.plan: RowPlan | None = None
        self.prompt_ids: list[tuple[int, ...]] = []
        self.samples: list[Sample] = []
        self.sampled_version = -1
        # What was sampled ahead for the next call, and by which policy version.
        self.sampled: tuple[list[Sample], int] | None = None

    def sync_weights(self) -> None:
        """Bring the engine to the trainer's weights and count the policy version."""
        self.backend.sync_weights(self.version + 1)
        self.version += 1

    def generate(
        self, prompts: Sequence[Sequence[int]], images: Any = None, num_generations: int = 1, profiler: Any = None
    ) -> tuple[None, list[list[int]], list[list[list[float]]], None]:
        """Sample one completion a row; see the brief of ``VLLMGeneration.generate`` for the shape of the result."""
        plan = self.plan
        if plan is None or len(plan.budgets) != len(prompts):
            raise RunError(f"rollout asked for {len(prompts)} rows without a plan of budgets and seeds")
        self.prompt_ids = [tuple(prompt) for prompt in prompts]
        if self.sampled is None:
            self.samples, self.sampled_version = self.draw(self.prompt_ids, plan), self.version
        else:
            (self.samples, self.sampled_version), self.sampled = self.sampled, None
        completion_ids = [list(sample.token_ids) for sample in self.samples]
        return None, completion_ids, [_sampler_logps(sample) for sample in self.samples], None

    def draw(self, prompt_ids: Sequence[tuple[int, ...]], plan: RowPlan) -> list[Sample]:
        """Sample one completion a row by a plan; openings are part of them.

        Raises:
            RunError: when the engine holds other weights than it was given last, or rows are missing or empty.
        """
        requests = [self._request(plan, row, prompt) for row, prompt in enumerate(prompt_ids)]
        if self.backend.version != self.version:
            raise RunError(
                f"the rollout engine is at policy version {self.backend.version}, the trainer at {self.version}: its "
                "rollouts would be stale"
            )
        drawn = self.backend.generate(requests, replace(self.options, stop_ids=plan.stop_ids), self.on_progress)
        if len(drawn) != len(requests):
            raise RunError(f"the rollout engine returned {len(drawn)} of {len(requests)} rows")
        empty = sum(not sample.token_ids for sample in drawn)
        if empty:
            raise RunError(f"the rollout engine returned {empty} of {len(drawn)} rows without a single token")
        return [put_before(plan.opening(row), sample) for row, sample in enumerate(drawn)]

    def drawn_tokens(self) -> list[list[int]] | None:
        """Return for each token of the last rows 1 where it was sampled, 0 where it was written; None where all were."""
        if all(sample.sampled is None for sample in self.samples):
            return None
        return [[int(here) for here in sample.sampled or (True,) * len(sample.token_ids)] for sample in self.samples]

    def _request(self, plan: RowPlan, row: int, prompt: tuple[int, ...]) -> SamplingRequest:
        opening = plan.opening(row)
        put = opening.token_ids if opening is not None else ()
        if plan.budgets[row] <= len(put):
            raise RunError(f"a budget of {plan.budgets[row]} tokens leaves no room after an opening of {len(put)}")
        return SamplingRequest((*prompt, *put), plan.budgets[row] - len(put), plan.seeds[row])


def _sampler_logps(sample: Sample) -> list[list[float]]:
    """Return a log-probability a token as vLLM would; nan, which TRL does not correct, where nothing was sampled."""
    drawn = sample.sampled or (True,) * len(sample.logps)
    return [
        [logp if here and place >= sample.forced else math.nan]
        for place, (logp, here) in enumerate(zip(sample.logps, drawn, strict=True))
    ]
