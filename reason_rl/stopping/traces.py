"""Traces with the answers that an exit at each cue would have given: what probes are fitted and calibrated on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from reason_rl.problem.record import Problem
from reason_rl.rollout.backend import SamplingOptions, SamplingRequest, sampling_seed
from reason_rl.rollout.grading import Grader
from reason_rl.stopping.cues import Cues
from reason_rl.stopping.generate import Stopped, StoppingBackend
from reason_rl.stopping.rule import GO, Action, Elicitor, Look, StopPolicy


@dataclass(frozen=True)
class CueLook:
    """One cue of a trace: where, its states, and what an exit there would have written after the elicitor."""

    position: int
    features: Float[Tensor, " width"]
    answer_ids: tuple[int, ...]


@dataclass(frozen=True)
class Recorder:
    """Never exits; at each cue it keeps the states and tries the exit on a fork of the cache."""

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
) -> list[Trace]:
    """Sample one trace a problem, with the exit at each cue tried as the trace is written; full traces are unchanged.

    Args:
        backend: decodes; its policy is replaced by the recorder.
        grader: extracts and verifies.
        problems, prompts: one prompt a problem, as token ids.
        recorder: cues, elicitor and layers.
        options: how the full traces are sampled; exits are greedy.
        max_tokens: completion tokens allowed; a trace cut there counts as wrong.
        seed: of the traces.
        on_progress: called with (traces done, traces).
    """
    requests = [
        SamplingRequest(tuple(prompt), max_tokens, sampling_seed(seed, problem.id, 0))
        for problem, prompt in zip(problems, prompts, strict=True)
    ]
    recording = replace(backend, policy=StopPolicy(rule=recorder))
    decoded = recording.decode(requests, options, on_progress)
    return grade_traces(decoded, problems, grader, recorder, max_tokens)


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
