"""Budgets: how many completion tokens each row may use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Int
from torch import Tensor

State = dict[str, Any]


class BudgetPolicy(Protocol):
    """Assigns budgets from explicit state; the state is plain JSON, checkpointed, the same on all ranks."""

    def initial_state(self) -> State:
        """Return the state at the start of a run."""
        ...

    def largest(self) -> int:
        """Return the largest budget that can ever be assigned, in completion tokens."""
        ...

    def assign(
        self,
        problem_ids: Sequence[str],
        columns: Mapping[str, tuple[Any, ...]],
        state: State,
        step: int,
        progress: float,
    ) -> Int[Tensor, " rows"]:
        """Return the budget of each row, in completion tokens."""
        ...

    def update(self, state: State, pass_rates: Sequence[tuple[str, float]]) -> State:
        """Return the state after a generation step, from the pass rates gathered over all ranks."""
        ...


@dataclass(frozen=True)
class FixedBudget:
    """The same budget for every row.

    >>> FixedBudget(64).assign(["a", "b"], {}, {}, 0, 0.0).tolist()
    [64, 64]
    """

    tokens: int

    def initial_state(self) -> State:
        """Return no state."""
        return {}

    def largest(self) -> int:
        """Return the budget."""
        return self.tokens

    def assign(
        self,
        problem_ids: Sequence[str],
        columns: Mapping[str, tuple[Any, ...]],
        state: State,
        step: int,
        progress: float,
    ) -> Int[Tensor, " rows"]:
        """Return ``tokens`` for each row."""
        return torch.full((len(problem_ids),), self.tokens)

    def update(self, state: State, pass_rates: Sequence[tuple[str, float]]) -> State:
        """Return the state unchanged."""
        return state


def make_budget(spec: Any) -> BudgetPolicy:
    """Build the policy that the recipe's ``algorithm.budget`` names."""
    if spec.use == "fixed":
        return FixedBudget(spec.tokens)
    raise ValueError(f"unknown budget {spec.use!r}")
