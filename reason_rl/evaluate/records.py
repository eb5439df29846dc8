"""Evaluation rows and their JSONL file, whose first line says how they were sampled."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
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
    prompt_hash: str = ""  # of the prompt with its template, as the model got it
    reason: str = ""  # of the verdict


@dataclass(frozen=True)
class EvalRows:
    """All rows of one evaluation with its header (model, max_tokens, temperature, top_p, top_k, samples, seed)."""

    header: dict[str, Any]
    rows: tuple[EvalRow, ...]


def hash_prompt(prompt: Any) -> str:
    """Return sixteen hexadecimal digits that stand for a prompt as sent: token ids, or the messages of a chat.

    >>> hash_prompt((1, 2)) == hash_prompt([1, 2]), hash_prompt([1, 2]) == hash_prompt([12])
    (True, False)
    """
    return hashlib.sha256(json.dumps(prompt, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()[:16]


HEADER_KEYS = ("model", "max_tokens", "temperature", "top_p", "top_k", "samples", "seed")


def write_rows(path: Path, header: dict[str, Any], rows: Sequence[EvalRow]) -> None:
    """Write header and rows; the file appears whole or not at all."""
    write_lines(path, [{"header": True, **header}, *map(asdict, rows)])


def write_lines(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write one JSON object a line; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(path.suffix + ".new")
    with new.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def part_of(path: Path) -> Path:
    """Return where the rows of an unfinished evaluation are kept."""
    return path.with_suffix(path.suffix + ".part")


def start_rows(path: Path, header: dict[str, Any]) -> list[EvalRow]:
    """Open an evaluation for appending and return the rows that an interrupted one with the same header left behind.

    A line torn by the interruption, and what follows it, is dropped, in a finished file too, which is then unfinished again.
    An unfinished evaluation that has no rows, as a start that failed leaves it, is overwritten.

    Raises:
        RunError: when the file, finished or not, belongs to another evaluation, or cannot be written.
    """
    part = part_of(path)
    header = json.loads(json.dumps(header))
    found = path if path.is_file() else part
    rows = []
    if found.is_file():
        first, *lines = found.read_text(encoding="utf-8").split("\n")
        there = _parsed(first)
        records = [record for record in takewhile(lambda record: record is not None, map(_parsed, lines)) if record]
        if there != {"header": True, **header} and not _started(found, part, there, records):
            keys = {*header, *(there or {})} - {"header"}
            different = sorted(key for key in keys if (there or {}).get(key) != header.get(key))
            raise RunError(f"{found}: holds another evaluation ({', '.join(different)} differ); name another file")
        rows = [EvalRow(**record) for record in records]
    if found == path and len(rows) == header["problems"] * header["samples"]:
        return rows
    try:
        write_lines(part, [{"header": True, **header}, *map(asdict, rows)])
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from error
    return rows


def _started(found: Path, part: Path, header: dict[str, Any] | None, records: Sequence[dict[str, Any]]) -> bool:
    """Tell whether a file is an evaluation of ours of which only the start was written."""
    return found == part and header is not None and header.get("header") is True and not records


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(line))
    except (TypeError, ValueError):
        return None


def append_rows(path: Path, rows: Sequence[EvalRow]) -> None:
    """Add rows to an evaluation opened by ``start_rows``; a kill of this process loses none of them."""
    with part_of(path).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)


def finish_rows(path: Path, header: dict[str, Any], rows: Sequence[EvalRow]) -> None:
    """Put an evaluation opened by ``start_rows`` in its place, with its rows in this order."""
    write_rows(path, header, rows)
    part_of(path).unlink()


def read_rows(path: Path) -> EvalRows:
    """Read what ``write_rows`` wrote.

    Raises:
        RunError: naming the file and line that cannot be read.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such evaluation; run reason-rl eval first")
    header: dict[str, Any] | None = None
    rows = []
    # Not splitlines: a completion may hold characters that it takes for line ends.
    for number, line in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), start=1):
        try:
            record = dict(json.loads(line))
            if header is None:
                header = _header(path, record)
            else:
                rows.append(EvalRow(**record))
        except (TypeError, ValueError) as error:
            raise RunError(f"{path}:{number}: not an evaluation row ({error})") from error
    return EvalRows(header or {}, tuple(rows))


def _header(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return the header without its marker, checked: figures without their conditions are not worth reading."""
    if not record.pop("header", False):
        raise RunError(f"{path}:1: the first line is no header row; was it written by reason-rl eval?")
    missing = [key for key in HEADER_KEYS if key not in record]
    if missing:
        raise RunError(f"{path}:1: the header row lacks {', '.join(missing)}")
    return record
