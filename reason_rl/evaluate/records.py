"""Evaluation rows and their JSONL file, whose first line says how they were sampled."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reason_rl.errors import RunError


@dataclass(frozen=True)
class EvalRow:
    """One graded completion; lengths in tokens, the end token included."""

    problem_id: str
    level: int | None
    family: str | None
    sample: int
    seed: int
    prompt: str
    completion: str
    answer: str
    extracted: str | None
    correct: bool
    completion_tokens: int
    think_tokens: int
    answer_tokens: int
    finish_reason: str
    shortest_think_tokens: int | None = None


@dataclass(frozen=True)
class EvalRows:
    """All rows of one evaluation with its header (model, max_tokens, temperature, top_p, top_k, samples, seed)."""

    header: dict[str, Any]
    rows: tuple[EvalRow, ...]


def write_rows(path: Path, header: dict[str, Any], rows: Sequence[EvalRow]) -> None:
    """Write header and rows; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"header": True, **header}) + "\n")
        file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read_rows(path: Path) -> EvalRows:
    """Read what ``write_rows`` wrote.

    Raises:
        RunError: naming the file and line that cannot be read.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such evaluation; run reason-rl eval first")
    header: dict[str, Any] = {}
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            if record.pop("header", False):
                header = record
            else:
                rows.append(EvalRow(**record))
        except (json.JSONDecodeError, TypeError) as error:
            raise RunError(f"{path}:{number}: not an evaluation row ({error})") from error
    return EvalRows(header, tuple(rows))
