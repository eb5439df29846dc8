"""Means of an evaluation: accuracy and lengths, overall, by level, and by right and wrong answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reason_rl.evaluate.records import EvalRow

METRICS = ("accuracy", "completion_tokens", "think_tokens", "share_cut")


def value(row: EvalRow, metric: str) -> float:
    """Return one metric of one row."""
    if metric == "accuracy":
        return float(row.correct)
    if metric == "share_cut":
        return float(row.finish_reason == "length")
    return float(getattr(row, metric))


def summarise(rows: Sequence[EvalRow]) -> dict[str, Any]:
    """Return means, median and 90th percentile of lengths (tokens), by level and by correctness."""
    levels = sorted({row.level for row in rows if row.level is not None})
    return {
        **_means(rows),
        "median_completion_tokens": float(np.median([row.completion_tokens for row in rows])),
        "p90_completion_tokens": float(np.percentile([row.completion_tokens for row in rows], 90)),
        "samples": len(rows),
        "levels": {str(level): _means([row for row in rows if row.level == level]) for level in levels},
        "right": _means([row for row in rows if row.correct]),
        "wrong": _means([row for row in rows if not row.correct]),
    }


def _means(rows: Sequence[EvalRow]) -> dict[str, float]:
    if not rows:
        return {}
    return {metric: float(np.mean([value(row, metric) for row in rows])) for metric in METRICS}
