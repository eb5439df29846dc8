"""What an advantage policy sees, and what it is: from judged rollouts and explicit state to advantages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

State = dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """Rollouts of the kept groups of all ranks, groups of ``group_size`` consecutive rows.

    Args:
        rewards: nan = unscorable, [rows].
        lengths: completion tokens, [rows].
        correct: 1 right, 0 wrong, nan unscored, [rows].
        surprise: mean of -log p over the completion's tokens as sampled, in nats a token, [rows].
        group_size: rows a problem.
    """

    rewards: Float[Tensor, " rows"]
    lengths: Float[Tensor, " rows"]
    correct: Float[Tensor, " rows"]
    surprise: Float[Tensor, " rows"]
    group_size: int


class AdvantagePolicy(Protocol):
    """Makes advantages of judged rollouts; the state is plain JSON, checkpointed, the same on all ranks."""

    def initial_state(self) -> State:
        """Return the state at the start of a run."""
        ...

    def advantages(self, judged: Judged, state: State) -> Float[Tensor, " rows"]:
        """Return one advantage a row; 0 where the reward is nan."""
        ...

    def update(self, state: State, pass_rates: Sequence[tuple[str, float]]) -> State:
        """Return the state after a generation step, from the pass rates gathered over all ranks."""
        ...
