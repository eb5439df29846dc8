"""Puts a rollout backend in the place of TRL's vLLM engine, so that every engine has budgets, seeds and log-probs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reason_rl.errors import RunError
from reason_rl.rollout.backend import Backend, Sample, SamplingOptions, SamplingRequest


@dataclass(frozen=True)
class RowPlan:
    """What the next rollout round wants of each row: its token budget and its seed."""

    budgets: tuple[int, ...]
    seeds: tuple[int, ...]


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
        self.samples: list[Sample] = []

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
        requests = [
            SamplingRequest(tuple(prompt), budget, seed)
            for prompt, budget, seed in zip(prompts, plan.budgets, plan.seeds, strict=True)
        ]
        if self.backend.version != self.version:
            raise RunError(
                f"the rollout engine is at policy version {self.backend.version}, the trainer at {self.version}: its "
                "rollouts would be stale"
            )
        self.samples = self.backend.generate(requests, self.options, self.on_progress)
        if len(self.samples) != len(requests):
            raise RunError(f"the rollout engine returned {len(self.samples)} of {len(requests)} rows")
        completion_ids = [list(sample.token_ids) for sample in self.samples]
        return None, completion_ids, [[[logp] for logp in sample.logps] for sample in self.samples], None
