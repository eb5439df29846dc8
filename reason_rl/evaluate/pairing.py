"""What makes two evaluations a pair: the same problems, gold answers and samples, under the same cap and sampling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from reason_rl.errors import RecipeError
from reason_rl.evaluate.records import EvalRow, EvalRows

SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "seed")

Cells = dict[tuple[str, int], str]


class Pair(NamedTuple):
    """Two evaluations of the same problems, and what else differs between them."""

    before: EvalRows
    after: EvalRows
    differences: tuple[str, ...]


def make_pair(before: EvalRows, after: EvalRows, allow_different: bool = False) -> Pair:
    """Return the two as a pair; with ``allow_different`` they are reduced to their common problems, if need be.

    Raises:
        RecipeError: naming everything that differs, unless that is allowed; always when a side is no full table, or no
            problem is on both.
    """
    first, second = _cells(before.rows, "before"), _cells(after.rows, "after")
    found = tuple(differences(before, after))
    if not found:
        return Pair(before, after, ())
    if not allow_different:
        raise RecipeError(
            f"not a pair: {'; '.join(found)}. Evaluate both with the same eval section, or compare with --allow-different"
        )
    golds, other = ({problem: gold for (problem, _), gold in cells.items()} for cells in (first, second))
    common = {problem for problem, gold in golds.items() if other.get(problem) == gold}
    if not common:
        raise RecipeError("not a pair: no problem is on both sides")
    return Pair(only(before, common), only(after, common), found)


def only(rows: EvalRows, problems: set[str]) -> EvalRows:
    """Return the rows about some problems."""
    return replace(rows, rows=tuple(row for row in rows.rows if row.problem_id in problems))


def differences(before: EvalRows, after: EvalRows) -> list[str]:
    """Return everything that keeps two evaluations from being a pair, each as a phrase."""
    found = [
        f"{key} is {before.header.get(key)} before and {after.header.get(key)} after"
        for key in SAMPLING
        if before.header.get(key) != after.header.get(key)
    ]
    first, second = _cells(before.rows, "before"), _cells(after.rows, "after")
    odd = sorted(first.keys() ^ second.keys())
    if odd:
        problem, sample = odd[0]
        side = "before" if odd[0] in first else "after"
        found.append(
            f"{len(odd)} samples are on one side only, the first is sample {sample} of problem {problem} ({side})"
        )
    changed = [cell for cell in first if second.get(cell, first[cell]) != first[cell]]
    if changed:
        cell = changed[0]
        more = "" if len(changed) == 1 else f" (and {len(changed) - 1} more samples with another answer)"
        found.append(f"the answer of problem {cell[0]} is {first[cell]} before and {second[cell]} after{more}")
    return found


def _cells(rows: Sequence[EvalRow], side: str) -> Cells:
    """Return the gold answer of each (problem, sample), checked to be a full table."""
    if not rows:
        raise RecipeError(f"not a pair: {side} has no rows")
    cells = {(row.problem_id, row.sample): row.answer for row in rows}
    if len(cells) < len(rows):
        (problem, sample), _ = Counter((row.problem_id, row.sample) for row in rows).most_common(1)[0]
        raise RecipeError(
            f"not a pair: {side} has sample {sample} of problem {problem} more than once; are ids unique?"
        )
    counts = Counter(problem for problem, _ in cells)
    (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
    if many != few:
        raise RecipeError(f"not a pair: {side} has {many} samples of problem {most} and {few} of {least}")
    return cells
