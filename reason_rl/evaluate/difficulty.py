"""Difficulty tables: how often a model solves each training problem, and with how many tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason_rl.algorithm.store import Reference
from reason_rl.content import find_content
from reason_rl.errors import RecipeError
from reason_rl.evaluate.records import EvalRow, write_lines
from reason_rl.evaluate.run import evaluate
from reason_rl.recipe.schema import EvalSection
from reason_rl.run_folder import package_versions

if TYPE_CHECKING:
    from reason_rl.recipe.schema import Recipe

Table = dict[str, Reference]


def measure_difficulty(
    recipe: Recipe,
    out: Path,
    *,
    samples: int,
    limit: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Table:
    """Sample each training problem as in training, at the longest budget, and write the table to ``out``.

    The completions are kept beside it (``.rows.jsonl``): an interrupted measurement goes on where it was.

    Args:
        recipe: its model, data, prompt, grading, sampling and budget count.
        out: the table, one JSON object a line after a header.
        samples: completions a problem.
        limit: measure the first so many problems only.
        on_progress: called with the rows done and the rows.

    Raises:
        RecipeError: when the recipe trains nothing.
        RunError: when the rows beside ``out`` belong to another measurement.
    """
    if recipe.data is None or recipe.algorithm is None:
        raise RecipeError(f"task {recipe.task}: has no training problems to measure")
    section = EvalSection(
        data=recipe.data,
        limit=limit,
        samples=samples,
        max_tokens=recipe.algorithm.budget.longest,
        temperature=recipe.rollout.temperature,
        top_p=recipe.rollout.top_p,
        top_k=recipe.rollout.top_k,
        seed=recipe.seed,
    )
    rows = evaluate(recipe.model_copy(update={"eval": section}), None, out.with_suffix(".rows.jsonl"), on_progress)
    table = table_of(rows)
    header: dict[str, Any] = {
        "header": True,
        "model": recipe.model.path,
        "revision": recipe.model.revision,
        "versions": package_versions(),
        **section.model_dump(include={"samples", "max_tokens", "temperature", "top_p", "top_k", "seed"}),
    }
    entries = [
        {"id": name, "rollouts": entry.rollouts, "right": entry.right, "tokens": round(entry.tokens, 3)}
        for name, entry in table.items()
    ]
    write_lines(out, [header, *entries])
    return table


def table_of(rows: Sequence[EvalRow]) -> Table:
    """Return rollouts, right ones and mean completion tokens of each problem; a cut rollout counts as wrong."""
    by_problem: dict[str, list[EvalRow]] = {}
    for row in rows:
        by_problem.setdefault(row.problem_id, []).append(row)
    return {
        name: Reference(len(some), sum(row.correct for row in some), sum(r.completion_tokens for r in some) / len(some))
        for name, some in by_problem.items()
    }


def read_table(path: Path) -> Table:
    """Read what :func:`measure_difficulty` wrote.

    Raises:
        RecipeError: naming the file and line that cannot be read.
    """
    table = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = dict(json.loads(line))
            if number == 1:
                if not record.get("header"):
                    raise ValueError("the first line is no header")
            else:
                name, entry = record.pop("id"), Reference(**record)
                if not 0 <= entry.right <= entry.rollouts or not entry.rollouts:
                    raise ValueError(f"{entry.right} of {entry.rollouts} rollouts right")
                table[name] = entry
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"{path}:{number}: not a row of a difficulty table ({error})") from error
    return table


def references(recipe: Recipe) -> Table | None:
    """Return the entries of the recipe's table whose pass rate is in its band; None when it names no table.

    Raises:
        RecipeError: when the table cannot be found or read, or nothing of it is in the band.
    """
    section = recipe.difficulty
    if section is None:
        return None
    table = read_table(find_content(section.table, recipe.folder()))
    kept = {name: entry for name, entry in table.items() if section.low <= entry.pass_rate <= section.high}
    if not kept:
        raise RecipeError(
            f"difficulty: no problem of {section.table} has a pass rate from {section.low} to {section.high}"
        )
    return kept
