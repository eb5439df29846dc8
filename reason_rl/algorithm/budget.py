"""Budgets: how many completion tokens each row may use, as functions of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from reason_rl.algorithm.schedule import Shape, cycle, cycle_end, stairs
from reason_rl.algorithm.store import Store, facts
from reason_rl.algorithm.tiers import check_tiers, tier_tokens

Columns = Mapping[str, tuple[Any, ...]]


class BudgetPolicy(Protocol):
    """Assigns budgets from the store, which is the same on all ranks."""

    def largest(self) -> int:
        """Return the largest budget that can ever be assigned, in completion tokens."""
        ...

    def assign(
        self, problem_ids: Sequence[str], columns: Columns, store: Store, step: int, progress: float
    ) -> Int[Tensor, " rows"]:
        """Return the budget of each row, in completion tokens."""
        ...

    def milestone(self, generations: int) -> str | None:
        """Return the name of the model after so many rollout batches when it is one to keep for good."""
        ...


@dataclass(frozen=True)
class FixedBudget:
    """The same budget for every row.

    >>> FixedBudget(64).assign(["a", "b"], {}, Store(), 0, 0.0).tolist()
    [64, 64]
    """

    tokens: int

    def largest(self) -> int:
        """Return the budget."""
        return self.tokens

    def assign(
        self, problem_ids: Sequence[str], columns: Columns, store: Store, step: int, progress: float
    ) -> Int[Tensor, " rows"]:
        """Return ``tokens`` for each row."""
        return torch.full((len(problem_ids),), self.tokens)

    def milestone(self, generations: int) -> str | None:
        """Return none."""
        return None


@dataclass(frozen=True)
class StairsBudget:
    """A budget that goes down in steps, ``every`` rollout batches each; the model at the end of a step is kept.

    >>> StairsBudget((90, 60), 4).assign(["a"], {}, Store(generation=4), 0, 0.0).tolist()
    [60]

    Source: ThinkPrune (arXiv 2504.01296).
    """

    tokens: tuple[int, ...]
    every: int

    def __post_init__(self) -> None:
        stairs(0, self.tokens, self.every)

    def largest(self) -> int:
        """Return the first budget."""
        return self.tokens[0]

    def assign(
        self, problem_ids: Sequence[str], columns: Columns, store: Store, step: int, progress: float
    ) -> Int[Tensor, " rows"]:
        """Return the budget of the stage for each row."""
        return torch.full((len(problem_ids),), stairs(store.generation, self.tokens, self.every))

    def milestone(self, generations: int) -> str | None:
        """Return ``stage-1`` and so on after the last rollout batch of a stage."""
        stage, rest = divmod(generations, self.every)
        return f"stage-{stage}" if rest == 0 and 1 <= stage <= len(self.tokens) else None


@dataclass(frozen=True)
class CycleBudget:
    """A budget that falls and rises in cycles; the models at the lowest cap and at the end of a cycle are kept.

    >>> CycleBudget("cosine", 40, 80, 8).assign(["a"], {}, Store(generation=4), 0, 0.0).tolist()
    [40]

    Source: SIRI (arXiv 2509.25176) section 3.2.
    """

    shape: Shape
    low_tokens: int
    high_tokens: int
    period: int

    def __post_init__(self) -> None:
        cycle(0, self.shape, self.low_tokens, self.high_tokens, self.period)

    def largest(self) -> int:
        """Return the high cap."""
        return self.high_tokens

    def assign(
        self, problem_ids: Sequence[str], columns: Columns, store: Store, step: int, progress: float
    ) -> Int[Tensor, " rows"]:
        """Return the cap of this rollout batch for each row."""
        cap = round(cycle(store.generation, self.shape, self.low_tokens, self.high_tokens, self.period))
        return torch.full((len(problem_ids),), cap)

    def milestone(self, generations: int) -> str | None:
        """Return ``low-1``, ``high-1`` and so on."""
        return cycle_end(generations, self.period)


@dataclass(frozen=True)
class PassRateBudget:
    """A budget by the pass rate that the store knows of a problem; the longest before the first visit.

    ``tokens[k]`` for problems whose pass rate is at least ``k`` of the ``thresholds``.

    >>> from reason_rl.algorithm.store import Observed, after_generation
    >>> store = after_generation(Store(), [], [Observed("a", (1.0, 0.0), (30, 40))])
    >>> PassRateBudget((0.5,), (4000, 2000)).assign(["a", "b"], {}, store, 0, 0.0).tolist()
    [2000, 4000]

    Source: the tiers of DA-DLER (arXiv 2510.15110) section 3.5, on the last visit's pass rate (our choice), or on that of
    a difficulty table before the first visit.
    """

    thresholds: tuple[float, ...]
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        check_tiers("algorithm.budget", self.thresholds, self.tokens)

    def largest(self) -> int:
        """Return the longest tier."""
        return self.tokens[0]

    def assign(
        self, problem_ids: Sequence[str], columns: Columns, store: Store, step: int, progress: float
    ) -> Int[Tensor, " rows"]:
        """Return the tier of each row's problem."""
        rates = [store.pass_rate(name) for name in problem_ids]
        known = torch.tensor([0.0 if rate is None else rate for rate in rates])
        tiers = tier_tokens(known, self.thresholds, self.tokens)
        return torch.where(torch.tensor([rate is None for rate in rates]), self.tokens[0], tiers)

    def milestone(self, generations: int) -> str | None:
        """Return none."""
        return None


@dataclass(frozen=True)
class HistoryBudget:
    """``factor`` times the length of a problem's own right rollouts so far (20th percentile of the newest 32).

    Between ``smallest_tokens`` and ``largest_tokens``; the largest before the first right rollout. All of it is our choice.

    >>> from reason_rl.algorithm.store import Observed, after_generation
    >>> store = after_generation(Store(), [], [Observed("a", (1.0, 0.0), (30, 40))])
    >>> HistoryBudget(2.0, 16, 80).assign(["a", "b"], {}, store, 0, 0.0).tolist()
    [60, 80]
    """

    factor: float
    smallest_tokens: int
    largest_tokens: int

    def largest(self) -> int:
        """Return the largest budget."""
        return self.largest_tokens

    def assign(
        self, problem_ids: Sequence[str], columns: Columns, store: Store, step: int, progress: float
    ) -> Int[Tensor, " rows"]:
        """Return the budget of each row's problem."""
        wanted = (self.factor * facts(store, problem_ids)["low_right"]).nan_to_num(nan=float(self.largest_tokens))
        return wanted.ceil().clamp(self.smallest_tokens, self.largest_tokens).long()

    def milestone(self, generations: int) -> str | None:
        """Return none."""
        return None


def make_budget(spec: Any) -> BudgetPolicy:
    """Build the policy that the recipe's ``algorithm.budget`` names.

    Raises:
        RecipeError: when its numbers do not fit together.
        ValueError: for an unknown name.
    """
    if spec.use == "fixed":
        return FixedBudget(spec.tokens)
    if spec.use == "stairs":
        return StairsBudget(tuple(spec.tokens), spec.every)
    if spec.use == "cycle":
        return CycleBudget(spec.shape, spec.low_tokens, spec.high_tokens, spec.period)
    if spec.use == "pass_rate":
        return PassRateBudget(tuple(spec.thresholds), tuple(spec.tokens))
    if spec.use == "history":
        return HistoryBudget(spec.factor, spec.smallest_tokens, spec.largest_tokens)
    raise ValueError(f"unknown budget {spec.use!r}")
