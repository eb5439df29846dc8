"""Paired differences between two evaluations, with intervals that respect that samples of a problem belong together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reason_rl.errors import RecipeError
from reason_rl.evaluate.metrics import METRICS, summarise, value
from reason_rl.evaluate.records import EvalRow, EvalRows

CONFIDENCE = 0.95
NON_INFERIORITY_MARGIN = -0.01
CHUNK_RESAMPLES = 500

Problems = NDArray[np.float64]


def paired_summary(before: EvalRows, after: EvalRows, *, resamples: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """Compare two evaluations of the same problems, sample by sample.

    Each metric is a mean over problems of the mean over a problem's samples. Intervals are percentile bootstrap over
    problems (all samples of a problem stay together; the same resampled problems on both sides), so they are clustered
    and paired. ``token_cut`` is ``1 - after / before`` of the mean completion tokens, its interval from the log ratio.

    Raises:
        RecipeError: when the two do not hold the same problems and samples, or were sampled differently.
    """
    _check_pair(before, after)
    index = np.random.default_rng(seed)
    problems = sorted({row.problem_id for row in before.rows})
    draws = index.integers(0, len(problems), size=(resamples, len(problems)), dtype=np.int32)
    metrics = {}
    for metric in METRICS:
        first, second = (per_problem(side.rows, problems, metric) for side in (before, after))
        metrics[metric] = {
            "before": estimate(first, draws),
            "after": estimate(second, draws),
            "difference": estimate(second - first, draws),
        }
    tokens = [per_problem(side.rows, problems, "completion_tokens") for side in (before, after)]
    lower = metrics["accuracy"]["difference"]["low"]
    return {
        "problems": len(problems),
        "samples": len(before.rows) // len(problems),
        "sampling": {key: before.header.get(key) for key in ("max_tokens", "temperature", "top_p", "top_k", "seed")},
        "models": {"before": before.header.get("model"), "after": after.header.get("model")},
        "confidence": CONFIDENCE,
        "resamples": resamples,
        "metrics": metrics,
        "token_cut": token_cut(tokens[0], tokens[1], draws),
        "accuracy_held": bool(lower > NON_INFERIORITY_MARGIN),
        "before": summarise(before.rows),
        "after": summarise(after.rows),
    }


def per_problem(rows: tuple[EvalRow, ...], problems: list[str], metric: str) -> Problems:
    """Return the mean of a metric over each problem's samples, [problems]."""
    position = {problem: i for i, problem in enumerate(problems)}
    where = np.array([position[row.problem_id] for row in rows])
    values = np.array([value(row, metric) for row in rows])
    return np.bincount(where, values) / np.bincount(where)


def resampled_means(values: Problems, draws: NDArray[np.int32]) -> Problems:
    """Return the mean of each resample, [resamples], a few at a time to keep memory small."""
    chunks = range(0, len(draws), CHUNK_RESAMPLES)
    return np.concatenate([values[draws[i : i + CHUNK_RESAMPLES]].mean(axis=1) for i in chunks])


def interval(samples: Problems) -> tuple[float, float]:
    """Return the central 95 % of bootstrap samples."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def estimate(values: Problems, draws: NDArray[np.int32]) -> dict[str, float]:
    """Return mean and interval of per-problem values."""
    low, high = interval(resampled_means(values, draws))
    return {"mean": float(values.mean()), "low": low, "high": high}


def token_cut(before: Problems, after: Problems, draws: NDArray[np.int32]) -> dict[str, float]:
    """Return ``1 - mean(after) / mean(before)`` with its interval."""
    log_ratio = np.log(resampled_means(after, draws)) - np.log(resampled_means(before, draws))
    low, high = interval(log_ratio)
    return {
        "mean": float(1 - after.mean() / before.mean()),
        "low": float(1 - np.exp(high)),
        "high": float(1 - np.exp(low)),
    }


def _check_pair(before: EvalRows, after: EvalRows) -> None:
    for key in ("max_tokens", "temperature", "top_p", "top_k", "seed"):
        if before.header.get(key) != after.header.get(key):
            raise RecipeError(
                f"not a pair: {key} is {before.header.get(key)} before and {after.header.get(key)} after; evaluate both "
                "with the same eval section"
            )
    cells = [{(row.problem_id, row.sample) for row in side.rows} for side in (before, after)]
    if cells[0] != cells[1]:
        odd = sorted(cells[0] ^ cells[1])
        raise RecipeError(f"not a pair: {len(odd)} samples are on one side only, the first is {odd[0]}")
    if not cells[0]:
        raise RecipeError("not a pair: both evaluations are empty")
