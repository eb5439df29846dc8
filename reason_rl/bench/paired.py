"""Differences between two sides over seeds: mean and a 95 % interval of Student's t."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import TypedDict


class Difference(TypedDict):
    """A mean difference over seeds with its interval."""

    mean: float
    low: float
    high: float
    seeds: int


def seed_difference(theirs: Sequence[float], ours: Sequence[float]) -> Difference:
    """Return ours minus theirs, paired by seed, with a 95 % interval of Student's t; three seeds make it wide.

    Raises:
        ValueError: for fewer than two seeds.

    >>> {key: round(value, 3) for key, value in seed_difference([1.0, 2.0, 3.0], [0.9, 1.8, 2.7]).items()}
    {'mean': -0.2, 'low': -0.448, 'high': 0.048, 'seeds': 3}
    """
    if len(ours) < 2:
        raise ValueError(f"{len(ours)} seed has no interval; take at least two")
    from scipy.stats import t

    differences = [b - a for a, b in zip(theirs, ours, strict=True)]
    mean, n = fmean(differences), len(differences)
    half = float(t.ppf(0.975, n - 1)) * stdev(differences) / sqrt(n)
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": n}
