"""Scored traces kept beside their probe: calibrating at another level, or judging a threshold, samples nothing again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import torch

from reason_rl.errors import RecipeError
from reason_rl.evaluate.records import write_lines
from reason_rl.problem.record import Problem
from reason_rl.problem.sources import digest
from reason_rl.stopping.artefact import Conditions
from reason_rl.stopping.traces import Trace

Scores = list[list[float]]
FIELDS = tuple(field.name for field in fields(Trace) if field.name != "features")


def traces_path(
    folder: Path, conditions: Conditions, layers: Sequence[int], problems: Sequence[Problem], seed: int
) -> Path:
    """Return where traces made in this way are kept: all that they depend on is in the name."""
    # The levels are kept with the traces, and the digest of the problems leaves them out.
    levels = [problem.level for problem in problems]
    parts = [asdict(conditions), list(layers), digest(problems), levels, seed]
    name = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return folder / f"traces-{name[:12]}.jsonl"


def save_traces(path: Path, traces: Sequence[Trace], scores: Scores) -> None:
    """Write traces with the probe's scores, without their states."""
    rows = ({name: getattr(trace, name) for name in FIELDS} for trace in traces)
    write_lines(path, [{**row, "scores": values} for row, values in zip(rows, scores, strict=True)])


def load_traces(path: Path) -> tuple[list[Trace], Scores]:
    """Read traces with their scores; their states are not there.

    Raises:
        RecipeError: when the file cannot be read as such.
    """
    traces, scores = [], []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            scores.append([float(value) for value in record.pop("scores")])
            lists = {name: tuple(value) for name, value in record.items() if isinstance(value, list)}
            traces.append(Trace(**{**record, **lists}, features=torch.zeros(len(scores[-1]), 0)))
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be read as scored traces ({error}); remove it") from error
    return traces, scores
