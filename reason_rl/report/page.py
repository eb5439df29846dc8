"""The report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reason_rl.errors import RunError
from reason_rl.evaluate.records import EvalRow, read_rows
from reason_rl.run_folder import RunFolder, write_text

SHOWN_COMPLETIONS = 8


def write_page(folder: Path) -> Path:
    """Write ``report.html`` of a run folder; parts that are not there yet are named on the page.

    Raises:
        RunError: when the folder holds nothing of a run.
    """
    run = RunFolder(folder)
    sections = _sections(run)
    if not any(sections.values()):
        raise RunError(f"{folder}: no summary.json, metrics.jsonl or eval/*.jsonl; is this a run folder?")
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("reason_rl.report"), autoescape=True, trim_blocks=True)
    write_text(run.report, environment.get_template("page.html.j2").render(name=folder.name, **sections))
    return run.report


def _sections(run: RunFolder) -> dict[str, Any]:
    from reason_rl.report import plots, tables

    before, after = (_rows(run.eval / f"{side}.jsonl") for side in ("before", "after"))
    history = [json.loads(line) for line in _text(run.metrics).splitlines()]
    summary = json.loads(_text(run.summary) or "null")
    return {
        "summary": summary,
        "cells": tables.summary_cells(summary) if summary else None,
        "levels": tables.level_cells(summary) if summary else None,
        "caption": tables.caption(summary) if summary else None,
        "curves": plots.learning_curves(history) if history else None,
        "histogram": plots.length_histogram(before, after) if before and after else None,
        "scatter": plots.accuracy_against_tokens(summary, before, after) if summary and before and after else None,
        "pairs": side_by_side(before, after) if before and after else None,
        "recipe": _text(run.resolved),
        "environment": _text(run.path / "environment.json"),
    }


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _rows(path: Path) -> tuple[EvalRow, ...]:
    return read_rows(path).rows if path.is_file() else ()


def side_by_side(before: Sequence[EvalRow], after: Sequence[EvalRow]) -> list[tuple[EvalRow, EvalRow]]:
    """Choose completions to show: the most tokens saved a level while right, then what was right and is wrong now."""
    later = {(row.problem_id, row.sample): row for row in after}
    pairs = [(row, later[row.problem_id, row.sample]) for row in before if (row.problem_id, row.sample) in later]
    saved = sorted(pairs, key=lambda p: p[1].completion_tokens - p[0].completion_tokens)
    chosen: list[tuple[EvalRow, EvalRow]] = []
    for level in sorted({row.level for row in before}, key=str):
        good = [p for p in saved if p[0].level == level and p[0].correct and p[1].correct]
        chosen += good[len(good) // 4 : len(good) // 4 + 1]
    lost = [p for p in saved if p[0].correct and not p[1].correct]
    won = [p for p in saved if not p[0].correct and p[1].correct]
    return [*chosen[: SHOWN_COMPLETIONS - 2], *lost[:1], *won[:1]]
