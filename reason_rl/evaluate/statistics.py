"""Paired differences between two evaluations, with intervals that respect that samples of a problem belong together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reason_rl.evaluate.estimate import CONFIDENCE, Estimate, estimate, interval, resampled_means
from reason_rl.evaluate.metrics import METRICS, summarise, values
from reason_rl.evaluate.noninferiority import MARGIN
from reason_rl.evaluate.pairing import SAMPLING, make_pair
from reason_rl.evaluate.records import EvalRow, EvalRows

__all__ = ["compare", "interval", "paired_summary", "per_problem", "resampled_means"]

NON_INFERIORITY_MARGIN = -MARGIN  # "no loss" = the interval of the accuracy difference lies above this

Table = NDArray[np.float64]


def paired_summary(
    before: EvalRows, after: EvalRows, *, resamples: int = 10_000, seed: int = 0, allow_different: bool = False
) -> dict[str, Any]:
    """Compare two evaluations of the same problems, sample by sample; the result is plain JSON.

    Each metric is a mean over problems of the mean over a problem's samples. ``token_cut`` and ``think_token_cut`` are
    ``1 - after / before`` of the mean lengths (a ratio of means, not a mean of ratios). Intervals are bootstrap over
    problems (`resampled_means`): all samples of a problem stay together, and both sides get the same resampled problems,
    so they are clustered and paired. ``levels`` holds the same per difficulty level, resampled within the level.
    ``accuracy_held`` says whether the interval of the accuracy difference lies above ``accuracy_margin``.

    Args:
        before: rows of the starting model.
        after: rows of the trained one.
        resamples: bootstrap resamples.
        seed: of the bootstrap; the same input gives the same output.
        allow_different: compare, on the problems that both have, what was sampled differently; ``differences`` says what.

    Raises:
        RecipeError: when the two do not hold the same problems and samples, or were sampled differently.
    """
    before, after, found = make_pair(before, after, allow_different)
    problems = sorted({row.problem_id for row in before.rows})
    first, second = (per_problem(side.rows, problems) for side in (before, after))
    overall = compare(first, second, resamples, seed)
    levels = _levels(before.rows, problems)
    lower = overall["metrics"]["accuracy"]["difference"]["low"]
    return {
        "problems": len(problems),
        "samples": len(before.rows) // len(problems),
        "sampling": {key: before.header.get(key) for key in SAMPLING},
        "models": {"before": before.header.get("model"), "after": after.header.get("model")},
        "confidence": CONFIDENCE,
        "resamples": resamples,
        "differences": list(found),
        **overall,
        "accuracy_margin": NON_INFERIORITY_MARGIN,
        "accuracy_held": lower is not None and lower > NON_INFERIORITY_MARGIN,
        "levels": {
            str(level): {"problems": len(where), **compare(first[where], second[where], resamples, seed)}
            for level, where in levels.items()
        },
        "before": summarise(before.rows),
        "after": summarise(after.rows),
    }


def per_problem(rows: Sequence[EvalRow], problems: Sequence[str]) -> Table:
    """Return the mean of each metric over each problem's samples, [problems, metrics]."""
    position = {problem: i for i, problem in enumerate(problems)}
    where = np.array([position[row.problem_id] for row in rows])
    sums = np.zeros((len(problems), len(METRICS)))
    np.add.at(sums, where, values(rows))
    return sums / np.bincount(where)[:, None]


def compare(before: Table, after: Table, resamples: int, seed: int) -> dict[str, Any]:
    """Return means, paired differences and token cuts of per-problem metrics, [problems, metrics] each."""
    problems = len(before)
    means = resampled_means(np.hstack([before, after]), resamples, seed)
    first, second = means[:, : len(METRICS)], means[:, len(METRICS) :]
    metrics = {}
    for i, metric in enumerate(METRICS):
        metrics[metric] = {
            "before": estimate(before[:, i].mean(), first[:, i], problems),
            "after": estimate(after[:, i].mean(), second[:, i], problems),
            "difference": estimate((after[:, i] - before[:, i]).mean(), second[:, i] - first[:, i], problems),
        }
    cuts = {}
    for name, metric in (("token_cut", "completion_tokens"), ("think_token_cut", "think_tokens")):
        i = METRICS.index(metric)
        ratio = after[:, i].mean() / before[:, i].mean() if before[:, i].any() else None
        cuts[name] = cut(ratio, first[:, i], second[:, i], problems)
    return {"metrics": metrics, **cuts}


def cut(ratio: float | None, before: Table, after: Table, problems: int) -> Estimate:
    """Return ``1 - ratio`` with its interval; None where there were no tokens before.

    Percentiles do not care for a monotone map, so this is the interval of the bootstrapped log ratio.
    """
    if ratio is None:
        return {"mean": None, "low": None, "high": None}
    if problems < 2 or not (before > 0).all():
        return {"mean": float(1 - ratio), "low": None, "high": None}
    return estimate(1 - ratio, 1 - after / before, problems)


def _levels(rows: Sequence[EvalRow], problems: Sequence[str]) -> dict[int, NDArray[np.int64]]:
    """Return the positions of each level's problems; problems without a level are in none."""
    level_of = {row.problem_id: row.level for row in rows}
    levels = sorted({level for level in level_of.values() if level is not None})
    return {level: np.array([i for i, p in enumerate(problems) if level_of[p] == level]) for level in levels}
