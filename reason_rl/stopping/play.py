"""Playing exit rules over recorded traces: what each would have done, without decoding anything again.

A rule that only exits sees, up to its exit, the full trace. So one recording with the exit tried at every think position
tells what every such rule does, and all of them are judged on the same traces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reason_rl.problem.record import Problem
from reason_rl.rollout.backend import SamplingOptions, SamplingRequest
from reason_rl.rollout.grading import Grader
from reason_rl.rollout.hf import HFBackend, sampling_mode
from reason_rl.stopping.generate import StoppingBackend
from reason_rl.stopping.label import Exits, Text, think_places, try_exits
from reason_rl.stopping.rule import Action, Ask, Elicitor, Exit, ExitRule, Go, Look, Score, Trial

Flags = Bool[np.ndarray, " traces"]
Counts = Int[np.ndarray, " traces"]


@dataclass(frozen=True)
class Recording:
    """One full trace and what an exit at each of its think positions would have written.

    Args:
        problem: whose trace it is.
        text: prompt, completion, and the think positions as ``cues``.
        think_tokens: at each think position.
        cut: whether the trace was cut at the cap.
        right: whether its answer is right.
        exits: states and trials at the think positions.
        layers: whose states.
    """

    problem: Problem
    text: Text
    think_tokens: tuple[int, ...]
    cut: bool
    right: bool
    exits: Exits
    layers: tuple[int, ...]

    def features(self, layers: Sequence[int], number: int) -> Float[Tensor, " width"] | None:
        """Return the states of some of the recorded layers at a think position; None for no layers.

        Raises:
            ValueError: for a layer that was not recorded.
        """
        if not layers:
            return None
        missing = set(layers) - set(self.layers)
        if missing:
            raise ValueError(f"layers {sorted(missing)} were not recorded")
        parts = self.exits.features[number].chunk(len(self.layers))
        return torch.cat([parts[self.layers.index(layer)] for layer in layers])


@dataclass(frozen=True)
class Played:
    """What a rule did: the think position of its exit (its place in ``text.cues``; None = never), side tokens, last state."""

    exit_at: int | None
    side_tokens: int
    state: Any


@dataclass(frozen=True)
class Outcome:
    """A rule over all traces.

    Args:
        right: of each trace.
        tokens: completion tokens of each trace.
        side_tokens: fed and decoded on the side.
        exits: which traces exited.
    """

    right: Flags
    tokens: Counts
    side_tokens: Counts
    exits: Flags


def record(
    backend: StoppingBackend,
    grader: Grader,
    problems: Sequence[Problem],
    requests: Sequence[SamplingRequest],
    options: SamplingOptions,
    elicitor: Elicitor,
    layers: Sequence[int],
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Recording]:
    """Sample a trace a request and try the exit at each of its think positions.

    Args:
        backend: its model is sampled from; its policy has no part in it.
        grader: extracts and verifies.
        problems, requests: one problem a request.
        options: how the traces are sampled; exits are greedy.
        elicitor: how the answer is opened at every exit.
        layers: whose states to keep.
        on_progress: called with (traces sampled, traces).
    """
    plain = HFBackend(backend.model, backend.tokens.eos, backend.pad_token_id, backend.max_batch_rows)
    samples = plain.generate(requests, options, on_progress)
    places = [
        think_places(request.prompt_ids, sample.token_ids, backend.tokens)
        for request, sample in zip(requests, samples, strict=True)
    ]
    texts = [
        Text(request.prompt_ids, sample.token_ids, tuple(written for written, _ in row))
        for request, sample, row in zip(requests, samples, places, strict=True)
    ]
    with sampling_mode(backend.model):
        exits = try_exits(backend.model, texts, elicitor.ask(), layers)
    cut = [sample.finish_reason == "length" for sample in samples]
    verdicts = grader.verifier.verify(
        [grader.extracted(sample.token_ids) for sample in samples], [problem.answer for problem in problems]
    )
    return [
        Recording(problem, text, tuple(n for _, n in row), ended, verdict and not ended, tried, tuple(layers))
        for problem, text, row, ended, verdict, tried in zip(problems, texts, places, cut, verdicts, exits, strict=True)
    ]


def play(rule: ExitRule, recording: Recording, elicitor: Elicitor) -> Played:
    """Return what a rule would have done to a trace.

    Raises:
        ValueError: for a rule that writes into the thinking, asks for something else than the exit, or exits otherwise.
    """
    text, state, spent = recording.text, rule.start(), 0
    action: Action
    for number, place in enumerate(text.cues):
        features = recording.features(rule.layers, number)
        written, drawn = text.completion[:place], text.completion[place]
        look = Look(written, recording.think_tokens[number], drawn, features)
        while True:
            state, action = rule.decide(state, look)
            if isinstance(action, Ask):
                trial = _recorded(recording.exits.trials[number], action, elicitor)
                spent += len(action.suffix) + len(trial.token_ids)
                look = look._replace(trial=trial, score=None)
            elif isinstance(action, Score):
                assert features is not None
                look = look._replace(trial=None, score=float(action.probe.score(features[None])[0]))
            else:
                break
        if isinstance(action, Go):
            continue
        if not isinstance(action, Exit) or action != elicitor.exit():
            raise ValueError(f"{type(rule).__name__} wants {action}: only exits by the elicitor can be played")
        return Played(number, spent, state)
    return Played(None, spent, state)


def outcome(
    rules: Callable[[Problem], ExitRule], recordings: Sequence[Recording], elicitor: Elicitor, grader: Grader, cap: int
) -> Outcome:
    """Play a rule over all traces and grade its exits.

    Args:
        rules: the rule for a problem's traces; most do not look at the problem.
        recordings: the traces.
        elicitor: the one that was recorded.
        grader: extracts and verifies.
        cap: completion tokens allowed; an answer that does not end within them counts as none.
    """
    played = [play(rules(recording.problem), recording, elicitor) for recording in recordings]
    taken = exits_at([done.exit_at for done in played], recordings, elicitor, grader, cap)
    return replace(taken, side_tokens=np.array([done.side_tokens for done in played]))


def exits_at(
    places: Sequence[int | None], recordings: Sequence[Recording], elicitor: Elicitor, grader: Grader, cap: int
) -> Outcome:
    """Grade exits at given think positions (None = no exit), for nothing on the side."""
    answers: list[str | None] = []
    tokens = []
    for recording, number in zip(recordings, places, strict=True):
        if number is None:
            answers.append(None)
            tokens.append(len(recording.text.completion))
            continue
        answer, length = _exit(recording, number, elicitor, grader, cap)
        answers.append(answer)
        tokens.append(length)
    verdicts = grader.verifier.verify(answers, [recording.problem.answer for recording in recordings])
    exits = np.array([number is not None for number in places])
    full = np.array([recording.right for recording in recordings])
    right = np.where(exits, np.array(verdicts, dtype=bool), full)
    return Outcome(right, np.array(tokens), np.zeros(len(tokens), dtype=int), exits)


def harmless_places(recordings: Sequence[Recording], elicitor: Elicitor, grader: Grader, cap: int) -> list[int | None]:
    """Return the earliest exit that spoils nothing: right where the full trace is right, any where it is wrong.

    No rule can know it; it bounds from above what exits can save without losing a right answer.
    """
    places: list[int | None] = []
    for recording in recordings:
        count = len(recording.text.cues)
        if not recording.right:
            places.append(0 if count else None)
            continue
        answers = [_exit(recording, number, elicitor, grader, cap)[0] for number in range(count)]
        verdicts = grader.verifier.verify(answers, [recording.problem.answer] * count)
        places.append(next((number for number, right in enumerate(verdicts) if right), None))
    return places


def _exit(recording: Recording, number: int, elicitor: Elicitor, grader: Grader, cap: int) -> tuple[str | None, int]:
    """Return the answer of an exit (None when cut) and the completion tokens of the trace with it."""
    place = recording.text.cues[number]
    written = recording.exits.trials[number].token_ids[: max(0, cap - place - len(elicitor.ids))]
    ended = bool(written) and written[-1] in elicitor.eos
    answer = grader.extracted((*elicitor.ids, *written)) if ended else None
    return answer, min(cap, place + len(elicitor.ids) + len(written))


def _recorded(trial: Trial, ask: Ask, elicitor: Elicitor) -> Trial:
    """Return the recorded trial as the rule asked for it, which may be shorter."""
    wanted = elicitor.ask()
    if (
        ask.suffix != wanted.suffix
        or ask.max_tokens > wanted.max_tokens
        or (ask.max_tokens and ask.stop != wanted.stop)
    ):
        raise ValueError(f"{ask} was not recorded; the recording tried {wanted}")
    return Trial(trial.token_ids[: ask.max_tokens], trial.logps[: ask.max_tokens], trial.entropy)
