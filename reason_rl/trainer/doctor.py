"""The training doctor: says in words why nothing is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WINDOW_ROWS = 3
IMPORTANCE_RATIO_RANGE = (0.8, 1.25)


def advice(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return warnings that hold for each of the last three logged rows.

    >>> advice([{"groups_kept": 0.0, "share_cut": 0.2, "importance_ratio_mean": 1.0}] * 3)
    ['no group has a learning signal (all right or all wrong): change the budget, the data or num_generations']
    """
    rows = history[-WINDOW_ROWS:]
    if len(rows) < WINDOW_ROWS:
        return []
    warnings = []
    if all(_flat(row) for row in rows):
        warnings.append(
            "no group has a learning signal (all right or all wrong): change the budget, the data or num_generations"
        )
    if all(row.get("share_cut", 0.0) > 0.95 for row in rows):
        warnings.append("nearly every completion is cut: raise algorithm.budget.tokens")
    low, high = IMPORTANCE_RATIO_RANGE
    if all(not low <= row.get("importance_ratio_mean", 1.0) <= high for row in rows):
        warnings.append(
            f"the mean importance ratio is outside [{low}, {high}]: sampler and trainer disagree; check dtype and top_p"
        )
    return warnings


def _flat(row: Mapping[str, Any]) -> bool:
    if row.get("groups_kept") == 0:
        return True
    return row.get("groups_all_right", 0.0) + row.get("groups_all_wrong", 0.0) >= 1.0
