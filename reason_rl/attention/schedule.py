"""How strong a prior is over a run."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Strength:
    """Linear up to ``peak`` over ``warm`` of the run, level, then half a cosine down to exactly 0 from ``fall`` to ``end``.

    Args:
        peak: largest strength.
        warm, fall, end: shares of the run; ``fall`` None = never falls.
        begin: share of the run before which the strength is 0.

    >>> strength = Strength(0.5)
    >>> [round(strength(p), 4) for p in (0.0, 0.025, 0.05, 0.6, 0.75, 0.9, 1.0)]
    [0.0, 0.25, 0.5, 0.5, 0.25, 0.0, 0.0]

    Source: our choice.
    """

    peak: float
    warm: float = 0.05
    fall: float | None = 0.6
    end: float = 0.9
    begin: float = 0.0

    def __call__(self, progress: float) -> float:
        """Return the strength at a share of the run, in [0, 1]."""
        since = progress - self.begin
        if since < 0:
            return 0.0
        rising = min(1.0, since / self.warm) if self.warm > 0 else 1.0
        if self.fall is None or progress <= self.fall:
            return self.peak * rising
        done = min(1.0, (progress - self.fall) / max(self.end - self.fall, 1e-9))
        return 0.0 if done >= 1 else self.peak * rising * (1 + math.cos(math.pi * done)) / 2
