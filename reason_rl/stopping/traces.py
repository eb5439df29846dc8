"""Traces with the answers that an exit at each cue would have given: what probes are fitted and calibrated on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from reason_rl.problem.record import Problem
from reason_rl.rollout.backend import Backend, Sample, SamplingOptions, SamplingRequest, sampling_seed
from reason_rl.rollout.grading import Grader
from reason_rl.rollout.hf import HFBackend, sampling_mode
from reason_rl.stopping.cues import Cues
from reason_rl.stopping.generate import Stopped, StoppingBackend
from reason_rl.stopping.label import Exits, Text, check_tries, cue_places, try_exits
from reason_rl.stopping.rule import GO, Action, Elicitor, Look

Target = Literal["right", "safe", "same"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True)
class CueLook:
    """One cue of a trace: where, its states, and what an exit there would have written after the elicitor."""

    position: int
    features: Float[Tensor, " width"]
    answer_ids: tuple[int, ...]


@dataclass(frozen=True)
class Recorder:
    """Says what to record; as a rule it never exits, keeps the states at cues and tries the exit on a fork of the cache."""

    cues: Cues
    elicitor: Elicitor
    layers: tuple[int, ...]

    def start(self) -> tuple[CueLook, ...]:
        """Return nothing recorded."""
        return ()

    def decide(self, state: tuple[CueLook, ...], look: Look) -> tuple[tuple[CueLook, ...], Action]:
        """Ask at cues and keep what comes back."""
        if look.trial is not None:
            assert look.features is not None
            return (*state, CueLook(len(look.token_ids), look.features.cpu(), look.trial.token_ids)), GO
        return state, self.elicitor.ask() if self.cues.at(look.token_ids, look.think_tokens) else GO


@dataclass(frozen=True)
class Trace:
    """One full trace of one problem and the exits it offers.

    Args:
        problem_id, level: of the problem.
        tokens: completion tokens of the full trace.
        answer: of the full trace; None when cut or missing.
        right: whether that answer is right.
        positions: completion tokens before each cue's exit.
        features: states at each cue, [cues, width].
        answers: what an exit at each cue would have answered.
        exits_right: whether that is right.
        exit_tokens: completion tokens of the trace with that exit.
        label_tokens: side tokens that finding the labels took.
    """

    problem_id: str
    level: int | None
    tokens: int
    answer: str | None
    right: bool
    positions: tuple[int, ...]
    features: Float[Tensor, "cues width"]
    answers: tuple[str | None, ...]
    exits_right: tuple[bool, ...]
    exit_tokens: tuple[int, ...]
    label_tokens: int

    def bad(self, loss: str) -> list[bool]:
        """Return at which cues an exit is bad: a right full trace spoiled, or another answer than the full trace's.

        Raises:
            ValueError: for an unknown loss.
        """
        if loss == "harm":
            return [self.right and not exit_right for exit_right in self.exits_right]
        if loss == "disagreement":
            return [answer is None or answer != self.answer for answer in self.answers]
        raise ValueError(f"loss {loss!r} is not harm or disagreement")

    def labels(self, target: Target) -> list[bool]:
        """Return at which cues an exit is ``right``, ``safe`` (it spoils no right answer) or gives the ``same`` answer."""
        if target == "right":
            return list(self.exits_right)
        return [not bad for bad in self.bad({"safe": "harm", "same": "disagreement"}[target])]


def collect(
    backend: StoppingBackend,
    grader: Grader,
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    recorder: Recorder,
    options: SamplingOptions,
    max_tokens: int,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
    on_tried: Callable[[int, int], None] | None = None,
    sampler: Backend | None = None,
    on_samples: Callable[[Sequence[Sample]], None] | None = None,
) -> list[Trace]:
    """Sample one trace a problem, then try the exit at each of its cues.

    Gives what decoding under the recorder gives (a test compares them), for a fraction of the work.

    Args:
        backend: its model is sampled from; its policy has no part in it.
        grader: extracts and verifies.
        problems, prompts: one prompt a problem, as token ids.
        recorder: cues, elicitor and layers.
        options: how the full traces are sampled; exits are greedy.
        max_tokens: completion tokens allowed; a trace cut there counts as wrong.
        seed: of the traces.
        on_progress: called with (traces sampled, traces).
        on_tried: called with (traces whose exits were tried, traces).
        sampler: another engine with the same weights that writes the traces; their exits are tried with the backend's model.
        on_samples: shown the traces as they were written.

    Raises:
        RecipeError: for a model that exits cannot be tried with, before anything is sampled.
    """
    check_tries(backend.model, recorder.layers)
    requests = [
        SamplingRequest(tuple(prompt), max_tokens, sampling_seed(seed, problem.id, 0))
        for problem, prompt in zip(problems, prompts, strict=True)
    ]
    plain = HFBackend(backend.model, backend.tokens.eos, backend.pad_token_id, backend.max_batch_rows)
    samples = (sampler or plain).generate(requests, options, on_progress)
    if on_samples:
        on_samples(samples)
    texts = [
        Text(tuple(prompt), ids, cue_places(prompt, ids, backend.tokens, recorder.cues))
        for prompt, ids in zip(prompts, [sample.token_ids for sample in samples], strict=True)
    ]
    with sampling_mode(backend.model):
        exits = try_exits(backend.model, texts, recorder.elicitor.ask(), recorder.layers, on_progress=on_tried)
    decoded = [_recorded(*row, recorder) for row in zip(samples, texts, exits, strict=True)]
    return grade_traces(decoded, problems, grader, recorder, max_tokens)


def _recorded(sample: Sample, text: Text, exits: Exits, recorder: Recorder) -> Stopped:
    """Return what the recorder would have seen while the trace was written."""
    looks = tuple(
        CueLook(place, features, trial.token_ids)
        for place, features, trial in zip(text.cues, exits.features, exits.trials, strict=True)
    )
    side = sum(len(recorder.elicitor.ids) + len(look.answer_ids) for look in looks)
    return Stopped(sample, (False,) * len(sample.token_ids), None, side, looks)


def grade_traces(
    decoded: Sequence[Stopped], problems: Sequence[Problem], grader: Grader, recorder: Recorder, max_tokens: int
) -> list[Trace]:
    """Return the traces with their answers and those of their exits verified, all in one call of the verifier."""
    answers: list[list[str | None]] = []
    for stopped in decoded:
        exits = [_answer(look, recorder.elicitor, max_tokens, grader) for look in stopped.state]
        cut = stopped.sample.finish_reason == "length"
        answers.append([None if cut else grader.extracted(stopped.sample.token_ids), *exits])
    gold = [problem.answer for problem, row in zip(problems, answers, strict=True) for _ in row]
    verdicts = iter(grader.verifier.verify([answer for row in answers for answer in row], gold))
    traces = []
    for stopped, problem, row in zip(decoded, problems, answers, strict=True):
        right = [next(verdicts) for _ in row]
        looks: tuple[CueLook, ...] = stopped.state
        width = len(looks[0].features) if looks else 0
        traces.append(
            Trace(
                problem_id=problem.id,
                level=problem.level,
                tokens=len(stopped.sample.token_ids),
                answer=row[0],
                right=right[0],
                positions=tuple(look.position for look in looks),
                features=torch.stack([look.features for look in looks]) if looks else torch.zeros(0, width),
                answers=tuple(row[1:]),
                exits_right=tuple(right[1:]),
                exit_tokens=tuple(_exit_length(look, recorder.elicitor, max_tokens) for look in looks),
                label_tokens=stopped.side_tokens,
            )
        )
    return traces


def _answer(look: CueLook, elicitor: Elicitor, max_tokens: int, grader: Grader) -> str | None:
    """Return the answer of an exit; None when it was cut, by its own limit or by the cap."""
    written = look.answer_ids[: max(0, max_tokens - look.position - len(elicitor.ids))]
    if not written or written[-1] not in elicitor.eos:
        return None
    return grader.extracted((*elicitor.ids, *written))


def _exit_length(look: CueLook, elicitor: Elicitor, max_tokens: int) -> int:
    return min(max_tokens, look.position + len(elicitor.ids) + len(look.answer_ids))
