"""Accuracy as a function of the tokens spent, and areas under it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from reason_rl.evaluate.grid import Samples

Points = Float[np.ndarray, " points"]


class CapCurve(NamedTuple):
    """What a model would have scored under smaller caps: ``accuracy`` and mean ``tokens`` spent, [problems, caps] each."""

    caps: Float[np.ndarray, " caps"]
    accuracy: Float[np.ndarray, "problems caps"]
    tokens: Float[np.ndarray, "problems caps"]


class Area(NamedTuple):
    """Areas under an accuracy curve, as mean accuracies in [0, 1]."""

    linear: float
    log: float
    grid_mean: float


def cap_curve(correct: Samples, tokens: Samples, caps: Sequence[float] | Points) -> CapCurve:
    """Return accuracy and mean completion tokens under each cap, from one evaluation under the largest.

    ``accuracy(c) = mean_s ok * 1[T <= c]``, ``tokens(c) = mean_s min(T, c)``. A completion longer than the cap would have
    been cut and counted as wrong, so for caps up to the evaluation's own the curve is what evaluations at those caps give;
    it is not the curve of forced early answers, which asks the model again.

    Args:
        correct: 1 right, 0 wrong (cut ones are wrong), [problems, samples].
        tokens: completion tokens, [problems, samples].
        caps: completion tokens, increasing.

    >>> curve = cap_curve(np.array([[1.0, 1.0, 0.0]]), np.array([[100.0, 300.0, 200.0]]), [100, 200, 300])
    >>> curve.accuracy.round(3).tolist(), curve.tokens.round(1).tolist()
    ([[0.333, 0.333, 0.667]], [[100.0, 166.7, 200.0]])
    """
    grid = np.asarray(caps, dtype=float)
    accuracy = np.stack([(correct * (tokens <= cap)).mean(axis=1) for cap in grid], axis=1)
    spent = np.stack([np.minimum(tokens, cap).mean(axis=1) for cap in grid], axis=1)
    return CapCurve(grid, accuracy, spent)


def cap_grid(*token_tables: Samples, points: int = 64) -> Points:
    """Return caps, equally far apart in log tokens, from the shortest completion to the longest of all tables.

    >>> cap_grid(np.array([[10.0, 1000.0]]), points=3).round(6).tolist()
    [10.0, 100.0, 1000.0]
    """
    shortest = max(1.0, min(float(table.min()) for table in token_tables))
    longest = max(float(table.max()) for table in token_tables)
    grid = np.geomspace(shortest, max(longest, shortest), points)
    grid[-1] = max(longest, shortest)
    return grid


def area_under(budget_tokens: Sequence[float] | Points, accuracy: Sequence[float] | Points) -> Area:
    """Return the anytime accuracy: the area under accuracy against budget, divided by its width.

    ``int acc dt / (t_max - t_min)`` by trapezoids, the same over log t, and the plain mean over the grid. A constant curve
    has its constant in all three. Two models compare only on the same grid.

    Args:
        budget_tokens: budgets, increasing (think tokens when thinking is cut, completion tokens under a cap).
        accuracy: at each budget, in [0, 1].

    Raises:
        ValueError: for fewer than two budgets, or budgets that do not increase from above 0.

    >>> area = area_under([500, 1000, 2000, 4000, 8000], [0.2, 0.4, 0.55, 0.62, 0.65])
    >>> [round(x, 3) for x in area]
    [0.578, 0.499, 0.484]

    Source: AnytimeReasoner (arXiv 2505.13438) takes the grid mean; the trapezoids are our choice.
    """
    budgets, values = np.asarray(budget_tokens, dtype=float), np.asarray(accuracy, dtype=float)
    if len(budgets) < 2 or (np.diff(budgets) <= 0).any() or budgets[0] <= 0:
        raise ValueError("an area needs two or more budgets that increase from above 0")
    logs = np.log(budgets)
    linear = _trapezoid(values, budgets) / (budgets[-1] - budgets[0])
    return Area(float(linear), float(_trapezoid(values, logs) / (logs[-1] - logs[0])), float(values.mean()))


def _trapezoid(values: Points, at: Points) -> float:
    return float(((values[1:] + values[:-1]) / 2 * np.diff(at)).sum())


def overthinking_area(correct: Samples, think_tokens: Samples, max_tokens: int = 1000) -> float:
    """Return the mean over thresholds of the accuracy among completions that think less than the threshold.

    ``AUC = mean_{t=0..max-1} mean ok * 1[think < t] = mean ok * max(0, 1 - (think + 1) / max)``; 1 is all right without
    thinking.

    Args:
        correct: 1 right, 0 wrong, [problems, samples].
        think_tokens: think tokens, whole numbers, [problems, samples].
        max_tokens: thresholds 0 .. max - 1, in think tokens.

    >>> round(overthinking_area(np.array([[1.0, 1, 1, 0]]), np.array([[100.0, 400, 900, 1200]])), 4)
    0.3992

    Source: OptimalThinkingBench (arXiv 2508.13141); the closed form is ours.
    """
    return float((correct * np.maximum(0.0, 1 - (think_tokens + 1) / max_tokens)).mean())


def thinking_score(easy_area: float, hard_accuracy: float) -> float:
    """Return the harmonic mean of `overthinking_area` on easy problems and accuracy on hard ones; 0 when either is 0.

    >>> thinking_score(0.4, 0.6)
    0.48

    Source: OptimalThinkingBench (arXiv 2508.13141).
    """
    if easy_area + hard_accuracy == 0:
        return 0.0
    return 2 * easy_area * hard_accuracy / (easy_area + hard_accuracy)
