"""How often the grader agrees with labelled cases, beside bare math-verify."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from reason_rl.answer.grade import grade_rows, read_pairs
from reason_rl.answer.pool import LATE, Budget, WorkerPool
from reason_rl.answer.worker import RIGHT
from reason_rl.errors import RecipeError

EITHER = "either"
KEPT = ("id", "category", "policy", "gold", "prediction", "expected_equivalent", "correct", "reason", "extracted")
SHOWN_CHARACTERS = 300


def agreement(
    path: Path, timeout_seconds: float = 5.0, workers: int = 2, arguments: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Grade labelled cases and return agreement, disagreements, and the same of bare math-verify.

    ``arguments`` say by case id why a verdict stands, and are put beside the disagreement. A case whose ``policy`` begins
    with "either" may go either way, as long as it ends. Null counts as not equivalent.

    Raises:
        RecipeError: when a row has no ``expected_equivalent``.
    """
    rows = read_pairs(path)
    for line, row in enumerate(rows, start=1):
        if not isinstance(row.get("expected_equivalent"), bool):
            raise RecipeError(f"{path}:{line}: expected_equivalent is missing; it is true or false")
    start = time.monotonic()
    graded = grade_rows(rows, timeout_seconds, workers)
    seconds = time.monotonic() - start
    pool = WorkerPool(workers, timeout_seconds, ("--bare",))
    try:
        jobs = [((_as_response(row), str(row["gold"])), Budget(timeout_seconds)) for row in rows]
        replies = pool.judge(jobs)
    finally:
        pool.close()
    bare = [replies[job] for job in jobs]
    wrong = [row for row in graded if not agrees(row, row["correct"] is True)]
    return {
        "cases": len(rows),
        "agree": len(rows) - len(wrong),
        "agreement": round(1 - len(wrong) / len(rows), 4),
        "false_accepts": sum(row["correct"] is True for row in wrong),
        "false_rejects": sum(row["correct"] is not True for row in wrong),
        "unverifiable": sum(row["correct"] is None for row in graded),
        "past_the_deadline": sum("deadline" in row["reason"] for row in graded),
        "seconds": round(seconds, 1),
        "bare_math_verify": {
            "version": metadata.version("math-verify"),
            "agreement": round(_share(rows, [reply == RIGHT for reply in bare]), 4),
            "false_accepts": sum(r == RIGHT and not agrees(row, True) for row, r in zip(rows, bare, strict=True)),
            "past_the_deadline": sum(reply == LATE for reply in bare),
        },
        "disagreements": [
            {key: _short(row[key]) for key in KEPT if key in row} | _argument(row, arguments or {}) for row in wrong
        ],
    }


def agrees(row: dict[str, Any], accepted: bool) -> bool:
    """Return whether a verdict is what a case expects.

    >>> agrees({"expected_equivalent": True, "policy": "either_but_bounded"}, False)
    True
    """
    return str(row.get("policy", "")).startswith(EITHER) or accepted == row["expected_equivalent"]


def _as_response(row: dict[str, Any]) -> str:
    """Return what bare math-verify gets: a response as it is, an answer alone in a box."""
    prediction = "" if row["prediction"] is None else row["prediction"]
    return f"\\boxed{{{prediction}}}" if row.get("kind") == "answer" else str(prediction)


def _share(rows: Sequence[dict[str, Any]], accepted: Sequence[bool]) -> float:
    return sum(agrees(row, one) for row, one in zip(rows, accepted, strict=True)) / len(rows)


def _argument(row: dict[str, Any], arguments: Mapping[str, str]) -> dict[str, str]:
    found = arguments.get(str(row.get("id")))
    return {} if found is None else {"argument": found}


def _short(value: Any) -> Any:
    return value[:SHOWN_CHARACTERS] if isinstance(value, str) else value
