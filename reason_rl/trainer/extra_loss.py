"""What a run may add to the loss of the policy."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor

from reason_rl.algorithm.store import Store


class ExtraLoss(Protocol):
    """A term beside the loss of the policy, computed from its forward passes.

    ``name``: of its metric.
    """

    name: str

    def factor(self, progress: float, store: Store) -> float:
        """Return what the term is multiplied by at this share of the run; 0 = it is not computed."""
        ...

    def figures(self, store: Store) -> dict[str, float]:
        """Return what else is logged while the term is on."""
        ...

    def watching(self) -> AbstractContextManager[None]:
        """Watch the forward passes of the block."""
        ...

    def term(self, step: int) -> Tensor:
        """Return the term, a mean over what was watched."""
        ...
