"""The store: what was measured of each problem, keyed by its id, and the state of policies; plain JSON in a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reason_rl.rollout.batch import RolloutBatch

State = dict[str, Any]

RECENT_LENGTHS = 32
LOW_QUANTILE = 0.2


@dataclass(frozen=True)
class Observed:
    """One group of rollouts of one problem: verdicts (1 right, 0 wrong, nan unscored) and completion tokens.

    Where a rollout is judged by several answers its verdict is the share of them that is right.
    """

    problem_id: str
    correct: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def scored(self) -> int:
        """How many rollouts have a verdict."""
        return sum(not math.isnan(value) for value in self.correct)

    @property
    def right(self) -> float:
        """How many rollouts are right, shares added up."""
        return math.fsum(value for value in self.correct if not math.isnan(value))

    @property
    def right_tokens(self) -> tuple[int, ...]:
        """Completion tokens of the rollouts that are right, not in part."""
        return tuple(n for value, n in zip(self.correct, self.tokens, strict=True) if value == 1)

    @property
    def tokens_by_share(self) -> float:
        """Completion tokens of the right rollouts added up, each by its share."""
        rows = zip(self.correct, self.tokens, strict=True)
        return math.fsum(value * n for value, n in rows if not math.isnan(value))


@dataclass(frozen=True)
class History:
    """What was seen of one problem so far; lengths in completion tokens.

    Args:
        visits: groups seen; rollouts, right: scored rollouts and right ones over all of them, shares added up.
        pass_rate: share right at the last visit, None before the first.
        shortest_right: the shortest right rollout, None before there is one.
        right_tokens: sum over all right rollouts, by their shares.
        recent_right: the last 32 right rollouts, oldest first.
    """

    visits: int = 0
    rollouts: int = 0
    right: float = 0
    pass_rate: float | None = None
    shortest_right: int | None = None
    right_tokens: float = 0
    recent_right: tuple[int, ...] = ()

    def after(self, seen: Observed) -> History:
        """Return the history after one more group; a group without a verdict changes nothing.

        >>> h = History().after(Observed("a", (1, 1, 0), (40, 30, 90))).after(Observed("a", (0, 0), (50, 60)))
        >>> h.visits, h.right, h.pass_rate, h.shortest_right, h.right_tokens
        (2, 2.0, 0.0, 30, 70.0)
        """
        if not seen.scored:
            return self
        lengths = seen.right_tokens
        known = lengths if self.shortest_right is None else (self.shortest_right, *lengths)
        return History(
            visits=self.visits + 1,
            rollouts=self.rollouts + seen.scored,
            right=self.right + seen.right,
            pass_rate=seen.right / seen.scored,
            shortest_right=min(known, default=None),
            right_tokens=self.right_tokens + seen.tokens_by_share,
            recent_right=(*self.recent_right, *lengths)[-RECENT_LENGTHS:],
        )


@dataclass(frozen=True)
class Reference:
    """What a given model reached on a problem: rollouts, right ones, and their mean completion tokens."""

    rollouts: int
    right: int
    tokens: float

    @property
    def pass_rate(self) -> float:
        """Share right."""
        return self.right / self.rollouts


@dataclass(frozen=True)
class Store:
    """Everything that survives a resume and that policies read; the same on all ranks.

    Args:
        generation: rollout batches trained on so far.
        histories: by problem id.
        references: by problem id, from a difficulty table; they do not change during a run.
        states: plain JSON of each policy with a state of its own, by the policy's name.
    """

    generation: int = 0
    histories: Mapping[str, History] = field(default_factory=dict)
    references: Mapping[str, Reference] = field(default_factory=dict)
    states: Mapping[str, State] = field(default_factory=dict)

    def history(self, problem_id: str) -> History:
        """Return what was seen of a problem, an empty history before its first visit."""
        return self.histories.get(problem_id, History())

    def pass_rate(self, problem_id: str) -> float | None:
        """Return the share right at the last visit, else that of the reference, None when neither is known."""
        seen = self.history(problem_id).pass_rate
        if seen is None and problem_id in self.references:
            return self.references[problem_id].pass_rate
        return seen


@dataclass(frozen=True)
class Probe:
    """Problems that a policy wants rolled out, ``rollouts`` times each, at the largest budget and without training."""

    problem_ids: tuple[str, ...]
    rollouts: int


class Policy:
    """Base of policies with a state: what they may ask for and learn from. Each method is a pure function.

    ``name`` keys the state in the store.
    """

    name = ""

    def initial_state(self) -> State:
        """Return the state at the start of a run."""
        return {}

    def probe(self, store: Store, problem_ids: Sequence[str]) -> Probe | None:
        """Return what is to be rolled out before the coming generation; ``problem_ids`` are the training problems."""
        return None

    def after_probe(self, state: State, groups: Sequence[Observed]) -> State:
        """Return the state after the probe asked for, whose groups were gathered over all ranks."""
        return state

    def after_generation(self, state: State, groups: Sequence[Observed]) -> State:
        """Return the state after a generation, whose groups were gathered over all ranks."""
        return state

    def known(self, store: Store, problem_ids: Sequence[str]) -> dict[str, Tensor]:
        """Return what the policy tells rewards of each row, float [rows]."""
        return {}


def start_store(policies: Sequence[Policy], references: Mapping[str, Reference] | None = None) -> Store:
    """Return the store at the start of a run.

    >>> start_store([]).generation
    0
    """
    return Store(references=references or {}, states={policy.name: policy.initial_state() for policy in policies})


def after_generation(store: Store, policies: Sequence[Policy], groups: Sequence[Observed]) -> Store:
    """Return the store after a generation; all groups that were sampled count, also those not trained on.

    >>> after_generation(Store(), [], [Observed("a", (1.0, 0.0), (30, 40))]).pass_rate("a")
    0.5
    """
    histories = dict(store.histories)
    for group in groups:
        histories[group.problem_id] = histories.get(group.problem_id, History()).after(group)
    states = {policy.name: policy.after_generation(store.states[policy.name], groups) for policy in policies}
    return replace(store, generation=store.generation + 1, histories=histories, states=states)


def after_probe(store: Store, policy: Policy, groups: Sequence[Observed]) -> Store:
    """Return the store after the probe of one policy; histories are of training rollouts only and stay."""
    state = policy.after_probe(store.states[policy.name], groups)
    return replace(store, states={**store.states, policy.name: state})


def observed(batch: RolloutBatch) -> list[Observed]:
    """Return the groups of a batch as they are kept, by its verdicts (a rollout that was cut is graded as wrong).

    >>> from reason_rl.rollout.batch import example_batch
    >>> observed(example_batch([1, 0], [9, 64], cut=[False, True]))
    [Observed(problem_id='p0', correct=(1.0, 0.0), tokens=(9, 64))]
    """
    correct, tokens = batch.correct.tolist(), batch.length.tolist()
    groups, start = [], 0
    for size in batch.sizes:
        rows = slice(start, start + size)
        groups.append(Observed(batch.problem_id[start], tuple(correct[rows]), tuple(tokens[rows])))
        start += size
    return groups


def facts(store: Store, problem_ids: Sequence[str]) -> dict[str, Tensor]:
    """Return what the store knows of each row's problem, float [rows], nan where nothing is known.

    ``pass_rate``: of the last visit; ``shortest_right``, ``mean_right``, ``low_right``: completion tokens of the right
    rollouts seen (the last: 20th percentile of the newest 32); ``reference_accuracy``, ``reference_tokens``: of the
    reference.

    >>> store = after_generation(Store(), [], [Observed("a", (1.0, 1.0), (30, 40))])
    >>> {name: value.tolist() for name, value in facts(store, ["a", "b"]).items()}["shortest_right"]
    [30.0, nan]
    """
    rows = {name: _facts_of(store, name) for name in dict.fromkeys(problem_ids)}
    return {key: torch.tensor([rows[name][key] for name in problem_ids]) for key in _facts_of(store, "")}


def _facts_of(store: Store, problem_id: str) -> dict[str, float]:
    seen, reference = store.history(problem_id), store.references.get(problem_id)
    nan = math.nan
    return {
        "pass_rate": nan if seen.pass_rate is None else seen.pass_rate,
        "shortest_right": nan if seen.shortest_right is None else float(seen.shortest_right),
        "mean_right": seen.right_tokens / seen.right if seen.right else nan,
        "low_right": float(np.quantile(seen.recent_right, LOW_QUANTILE)) if seen.recent_right else nan,
        "reference_accuracy": nan if reference is None else reference.pass_rate,
        "reference_tokens": nan if reference is None else reference.tokens,
    }


def to_json(store: Store) -> dict[str, Any]:
    """Return the store as plain JSON.

    >>> store = after_generation(Store(), [], [Observed("a", (1.0, 0.0), (30, 40))])
    >>> from_json(to_json(store)) == store
    True
    """
    return {
        "generation": store.generation,
        "histories": {name: {**asdict(h), "recent_right": list(h.recent_right)} for name, h in store.histories.items()},
        "references": {name: asdict(reference) for name, reference in store.references.items()},
        "states": dict(store.states),
    }


def from_json(saved: Mapping[str, Any]) -> Store:
    """Return the store that :func:`to_json` wrote."""
    histories = {
        name: History(**{**h, "recent_right": tuple(h["recent_right"])}) for name, h in saved["histories"].items()
    }
    references = {name: Reference(**reference) for name, reference in saved["references"].items()}
    return Store(saved["generation"], histories, references, dict(saved["states"]))
