"""Grade a file of answers: rows with a gold answer and a prediction in, the same rows with verdicts out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reason_rl.answer.compare import MAX_ANSWER
from reason_rl.answer.normal import normal, squeezed
from reason_rl.answer.response import Failed, Found, find_answer
from reason_rl.answer.verify import MathVerifier
from reason_rl.errors import RecipeError
from reason_rl.problem.files import read_lines

NEEDED = ("gold", "prediction")
MAX_WHOLE = 800  # characters
MAX_SHOWN = 40


def grade_file(path: Path, timeout_seconds: float = 5.0, workers: int | None = None) -> list[dict[str, Any]]:
    """Grade the rows of a JSONL file, see `grade_rows`.

    Raises:
        RecipeError: naming file and line of a row without ``gold`` and ``prediction``.
    """
    return grade_rows(read_pairs(path), timeout_seconds, workers)


def grade_rows(
    rows: Sequence[Mapping[str, Any]], timeout_seconds: float = 5.0, workers: int | None = None
) -> list[dict[str, Any]]:
    """Return the rows, in order, with ``correct``, ``reason``, ``extracted`` and ``extracted_by``.

    ``correct`` is true, false, or null where it cannot be told: no readable gold answer, or an answer that blows
    up when it is evaluated. A prediction may be a whole response or an answer alone.

    Args:
        rows: with ``gold`` and ``prediction``, texts or numbers; a prediction that is None is no answer.
        timeout_seconds: wall-clock limit of one pair.
        workers: processes at most.

    >>> grade_rows([{"gold": "1/2", "prediction": "0.5"}])[0]["correct"]
    True
    """
    golds = [str(row["gold"]) for row in rows]
    found = [_found_safely(row["prediction"], gold) for row, gold in zip(rows, golds, strict=True)]
    with MathVerifier(timeout_seconds, workers) as verifier:
        verdicts = verifier.judge([one.text if one else None for one in found], golds)
    return [
        {
            **row,
            "correct": verdict.correct,
            "reason": verdict.reason,
            "extracted": one.text if one else None,
            "extracted_by": one.by if one else None,
        }
        for row, one, verdict in zip(rows, found, verdicts, strict=True)
    ]


def _found_safely(prediction: str | float | None, gold: str) -> Found | None:
    """Return the answer of a prediction, or what names the exception that ended the search."""
    if prediction is None:
        return None
    try:
        return _found(str(prediction), gold)
    except Exception as error:
        return Found(Failed(error), "failed")


def _found(prediction: str, gold: str) -> Found | None:
    """Return the answer of a prediction: all of it where it is the gold answer word by word, a sentence for instance."""
    if (
        len(prediction) <= MAX_WHOLE
        and 0 < len(gold.strip()) <= MAX_ANSWER
        and squeezed(normal(prediction)) == squeezed(normal(gold))
    ):
        return Found(prediction.strip(), "whole")
    return find_answer(prediction)


def read_pairs(path: Path) -> list[dict[str, Any]]:
    """Read rows with ``gold`` and ``prediction``, texts or numbers; a prediction may be null.

    Raises:
        RecipeError: naming file, line and key.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: no such file")
    rows = []
    for place, row in read_lines(path):
        for key in NEEDED:
            if key not in row:
                raise RecipeError(f"{place}: {key} is missing")
            if not _is_answer(row[key]) and not (key == "prediction" and row[key] is None):
                raise RecipeError(f"{place}: {key} is {_shown(row[key])}; expected text or a number")
        rows.append(dict(row))
    return rows


def _is_answer(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    )


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."
