"""Paired differences between two evaluations, with intervals that respect that samples of a problem belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reason_rl.errors import RecipeError
from reason_rl.evaluate.metrics import METRICS, summarise, values
from reason_rl.evaluate.records import EvalRow, EvalRows

CONFIDENCE = 0.95
NON_INFERIORITY_MARGIN = -0.01  # "no loss" = the interval of the accuracy difference lies above this; our choice
CHUNK_RESAMPLES = 500
SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "seed")

Table = NDArray[np.float64]
Estimate = dict[str, float | None]


def paired_summary(before: EvalRows, after: EvalRows, *, resamples: int = 10_000, seed: int = 0) -> dict[str, Any]:
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

    Raises:
        RecipeError: when the two do not hold the same problems and samples, or were sampled differently.
    """
    check_pair(before, after)
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


def resampled_means(table: Table, resamples: int, seed: int) -> Table:
    """Return the column means of bootstrap resamples of the rows, [resamples, columns].

    A resample is a count for each row, so its means are one matrix product; a few resamples at a time keep memory small.
    """
    index = np.random.default_rng(seed)
    rows = len(table)
    parts = []
    for start in range(0, resamples, CHUNK_RESAMPLES):
        size = min(CHUNK_RESAMPLES, resamples - start)
        draws = index.integers(0, rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        counts = np.bincount(draws.ravel(), minlength=size * rows).reshape(size, rows)
        parts.append(counts @ table / rows)
    return np.concatenate(parts)


def interval(resampled: Table, problems: int) -> tuple[float, float]:
    """Return the expanded percentile interval of bootstrap statistics.

    The plain percentile interval is too short for few problems, by the factor sqrt((n-1)/n) and for want of Student's t;
    the tails are therefore ``Phi(-sqrt(n / (n - 1)) t(n - 1))`` (Hesterberg 2015, "What teachers should know about the
    bootstrap"). With hundreds of problems the difference vanishes.
    """
    from scipy import stats

    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, problems - 1)
    tail = 100 * stats.norm.cdf(-np.sqrt(problems / (problems - 1)) * quantile)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return float(low), float(high)


def estimate(mean: float, resampled: Table, problems: int) -> Estimate:
    """Return mean and interval; one problem has no interval."""
    low, high = interval(resampled, problems) if problems > 1 else (None, None)
    return {"mean": float(mean), "low": low, "high": high}


def cut(ratio: float | None, before: Table, after: Table, problems: int) -> Estimate:
    """Return ``1 - ratio`` with its interval; None where there were no tokens before.

    Percentiles do not care for a monotone map, so this is the interval of the bootstrapped log ratio.
    """
    if ratio is None:
        return {"mean": None, "low": None, "high": None}
    if problems < 2 or not (before > 0).all():
        return {"mean": float(1 - ratio), "low": None, "high": None}
    return estimate(1 - ratio, 1 - after / before, problems)


def check_pair(before: EvalRows, after: EvalRows) -> None:
    """Refuse two evaluations whose difference would not be paired.

    Raises:
        RecipeError: naming the first thing that differs.
    """
    for key in SAMPLING:
        if before.header.get(key) != after.header.get(key):
            raise RecipeError(
                f"not a pair: {key} is {before.header.get(key)} before and {after.header.get(key)} after; evaluate both "
                "with the same eval section"
            )
    first, second = _cells(before.rows, "before"), _cells(after.rows, "after")
    odd = sorted(first.keys() ^ second.keys())
    if odd:
        problem, sample = odd[0]
        side = "before" if odd[0] in first else "after"
        raise RecipeError(
            f"not a pair: {len(odd)} samples are on one side only, the first is sample {sample} of problem {problem} ({side})"
        )
    for cell, answer in first.items():
        if second[cell] != answer:
            raise RecipeError(
                f"not a pair: the answer of problem {cell[0]} is {answer} before and {second[cell]} after"
            )


def _cells(rows: Sequence[EvalRow], side: str) -> dict[tuple[str, int], str]:
    """Return the gold answer of each (problem, sample), checked to be a full table."""
    if not rows:
        raise RecipeError(f"not a pair: {side} has no rows")
    cells = {(row.problem_id, row.sample): row.answer for row in rows}
    if len(cells) < len(rows):
        (problem, sample), _ = Counter((row.problem_id, row.sample) for row in rows).most_common(1)[0]
        raise RecipeError(
            f"not a pair: {side} has sample {sample} of problem {problem} more than once; are ids unique?"
        )
    counts = Counter(problem for problem, _ in cells)
    (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
    if many != few:
        raise RecipeError(f"not a pair: {side} has {many} samples of problem {most} and {few} of {least}")
    return cells


def _levels(rows: Sequence[EvalRow], problems: Sequence[str]) -> dict[int, NDArray[np.int64]]:
    """Return the positions of each level's problems; problems without a level are in none."""
    level_of = {row.problem_id: row.level for row in rows}
    levels = sorted({level for level in level_of.values() if level is not None})
    return {level: np.array([i for i, p in enumerate(problems) if level_of[p] == level]) for level in levels}
