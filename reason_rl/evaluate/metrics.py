"""Means of an evaluation: accuracy and lengths, overall, by level, and by right and wrong answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reason_rl.errors import RunError
from reason_rl.evaluate.records import EvalRow

LENGTHS = ("completion_tokens", "think_tokens", "answer_tokens")
METRICS = ("accuracy", *LENGTHS, "share_cut")


def value(row: EvalRow, metric: str) -> float:
    """Return one metric of one row."""
    if metric == "accuracy":
        return float(row.correct)
    if metric == "share_cut":
        return float(row.finish_reason == "length")
    return float(getattr(row, metric))


def values(rows: Sequence[EvalRow]) -> NDArray[np.float64]:
    """Return all metrics of all rows, [rows, metrics]."""
    return np.array([[value(row, metric) for metric in METRICS] for row in rows], dtype=np.float64)


def summarise(rows: Sequence[EvalRow]) -> dict[str, Any]:
    """Describe an evaluation: overall, by level, and the right and the wrong completions apart.

    Each part holds the mean of every metric (accuracy and the share cut in [0, 1], lengths in tokens), median and 90th
    percentile of the lengths, and ``samples``, the number of completions it is about; a part without any is ``{}``.

    Raises:
        RunError: when there are no rows.
    """
    if not rows:
        raise RunError("the evaluation has no rows")
    levels = sorted({row.level for row in rows if row.level is not None})
    return {
        **describe(rows),
        "levels": {str(level): describe([row for row in rows if row.level == level]) for level in levels},
        "right": describe([row for row in rows if row.correct]),
        "wrong": describe([row for row in rows if not row.correct]),
    }


def describe(rows: Sequence[EvalRow]) -> dict[str, float]:
    """Return means, medians and 90th percentiles of some rows."""
    if not rows:
        return {}
    table = values(rows)
    facts: dict[str, float] = dict(zip(METRICS, table.mean(axis=0).tolist(), strict=True))
    for metric in LENGTHS:
        column = table[:, METRICS.index(metric)]
        facts[f"median_{metric}"] = float(np.median(column))
        facts[f"p90_{metric}"] = float(np.percentile(column, 90))
    return {**facts, "samples": len(rows)}
