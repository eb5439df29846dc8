"""Grade a file of answers: rows with a gold answer and a prediction in, the same rows with verdicts out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reason_rl.answer.compare import MAX_ANSWER
from reason_rl.answer.normal import normal, squeezed
from reason_rl.answer.response import Failed, Found, find_answer
from reason_rl.answer.verify import MathVerifier
from reason_rl.errors import RecipeError

NEEDED = ("gold", "prediction")
MAX_WHOLE = 800  # characters


def grade_file(path: Path, timeout_seconds: float = 5.0, workers: int | None = None) -> list[dict[str, Any]]:
    """Grade the rows of a JSONL file, see `grade_rows`.

    Raises:
        RecipeError: naming file and line of a row without ``gold`` and ``prediction`` as texts.
    """
    return grade_rows(read_pairs(path), timeout_seconds, workers)


def grade_rows(
    rows: Sequence[Mapping[str, Any]], timeout_seconds: float = 5.0, workers: int | None = None
) -> list[dict[str, Any]]:
    """Return the rows, in order, with ``correct``, ``reason``, ``extracted`` and ``extracted_by``.

    ``correct`` is true, false, or null where it cannot be told: no readable gold answer, or an answer that blows
    up when it is evaluated. A prediction may be a whole response or an answer alone.

    Args:
        rows: with ``gold`` and ``prediction``.
        timeout_seconds: wall-clock limit of one pair.
        workers: processes at most.

    >>> grade_rows([{"gold": "1/2", "prediction": "0.5"}])[0]["correct"]
    True
    """
    found = [_found_safely(row["prediction"], row["gold"]) for row in rows]
    with MathVerifier(timeout_seconds, workers) as verifier:
        verdicts = verifier.judge([one.text if one else None for one in found], [row["gold"] for row in rows])
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


def _found_safely(prediction: str, gold: str) -> Found | None:
    """Return the answer of a prediction, or what names the exception that ended the search."""
    try:
        return _found(prediction, gold)
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
    """Read rows with the texts ``gold`` and ``prediction``.

    Raises:
        RecipeError: naming file and line.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: no such file")
    rows = []
    for line_number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise RecipeError(f"{path}:{line_number}: not JSON ({error})") from error
        for key in NEEDED:
            if key not in row:
                raise RecipeError(f"{path}:{line_number}: {key} is missing")
            if not isinstance(row[key], str):
                raise RecipeError(f"{path}:{line_number}: {key} is {row[key]!r}; expected text")
        rows.append(row)
    return rows
