"""The Pareto picture: fewer tokens, more accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from reason_rl.evaluate.estimate import Estimate, estimate, resampled_means

Points = Float[np.ndarray, "points 2"]


def frontier(points: Points | Sequence[tuple[float, float]]) -> list[int]:
    """Return which (tokens, accuracy) points no other dominates, by rising tokens; of equal points the first.

    A point is dominated when another has no more tokens and no less accuracy, and is not the same point.

    >>> frontier([(2000, 0.60), (3000, 0.70), (5000, 0.72), (4000, 0.65)])
    [0, 1, 2]
    """
    table = np.asarray(points, dtype=float).reshape(-1, 2)
    best, kept = -np.inf, []
    for i in np.lexsort((-table[:, 1], table[:, 0])):
        if table[i, 1] > best:
            best = table[i, 1]
            kept.append(int(i))
    return kept


def hypervolume(
    points: Points | Sequence[tuple[float, float]], reference: tuple[float, float], *, log_tokens: bool = False
) -> float:
    """Return the area that the points dominate, up to a reference of more tokens and less accuracy.

    By rising tokens, ``sum_i (t_ref - t_i) (a_i - best so far)``; points beyond the reference count nothing. In tokens
    times accuracy, or doublings times accuracy with ``log_tokens``.

    Args:
        points: (mean completion tokens, accuracy in [0, 1]).
        reference: (tokens, accuracy); fixed per benchmark: the cap, and the start model's accuracy without thinking.
        log_tokens: measure tokens in doublings, ``log2 t_ref - log2 t_i``.

    >>> points = [(2000, 0.60), (3000, 0.70), (5000, 0.72), (4000, 0.65)]
    >>> round(hypervolume(points, (8000, 0.5)), 6)
    1160.0
    >>> round(hypervolume(points, (8000, 0.5)) / (8000 * 0.5), 2)
    0.29

    Source: Zitzler and Thiele 1998 (hypervolume indicator); the reference is our choice.
    """
    limit, floor = reference
    table = np.asarray(points, dtype=float).reshape(-1, 2)
    inside = table[(table[:, 0] < limit) & (table[:, 1] > floor)]
    total = 0.0
    for tokens, accuracy in inside[frontier(inside)].tolist():
        width = np.log2(limit) - np.log2(tokens) if log_tokens else limit - tokens
        total += float(width) * (accuracy - floor)
        floor = accuracy
    return total


def hypervolume_estimate(
    tokens: Float[np.ndarray, "problems models"],
    accuracy: Float[np.ndarray, "problems models"],
    reference: tuple[float, float],
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Return the hypervolume of several models with its interval; all models get the same resampled problems.

    Args:
        tokens: mean completion tokens of each problem by each model, [problems, models].
        accuracy: mean accuracy, [problems, models].
        reference: (tokens, accuracy), see `hypervolume`.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    >>> flat = np.full((3, 1), 1000.0), np.full((3, 1), 0.75)
    >>> hypervolume_estimate(*flat, (2000, 0.5))
    {'mean': 250.0, 'low': 250.0, 'high': 250.0}
    """
    models = tokens.shape[1]
    table = np.hstack([tokens, accuracy])

    def volume(means: Float[np.ndarray, " columns"]) -> float:
        return hypervolume(np.stack([means[:models], means[models:]], axis=1), reference)

    draws = np.array([volume(row) for row in resampled_means(table, resamples, seed)])
    return estimate(volume(table.mean(axis=0)), draws, len(table))
