"""What makes two evaluations a pair: the same problems, gold answers and samples, asked, sampled and graded alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from reason_rl.errors import RecipeError
from reason_rl.evaluate.records import EvalRow, EvalRows

SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "seed")
CONDITIONS = (*SAMPLING, "prompt", "verify", "find")
COMPARED = ("stop", "threshold", "engine")  # what one may well want to compare: named, never refused

Cells = dict[tuple[str, int], EvalRow]


class Pair(NamedTuple):
    """Two evaluations of the same problems, and what differs between them beside the model."""

    before: EvalRows
    after: EvalRows
    differences: tuple[str, ...]


def make_pair(before: EvalRows, after: EvalRows, allow_different: bool = False) -> Pair:
    """Return the two as a pair; with ``allow_different`` they are reduced to their common problems, if need be.

    Raises:
        RecipeError: naming everything that keeps them from being a pair, unless that is allowed; always when a side is no
            full table, or no problem is on both.
    """
    first, second = _cells(before.rows, "before"), _cells(after.rows, "after")
    found = differences(before, after)
    named = (*found, *compared(before, after))
    if not found:
        return Pair(before, after, named)
    if not allow_different:
        raise RecipeError(
            f"not a pair: {'; '.join(found)}. Evaluate both with the same eval section, or compare with --allow-different"
        )
    here, there = (
        {problem: (row.prompt, row.answer) for (problem, _), row in cells.items()} for cells in (first, second)
    )
    common = {problem for problem, asked in here.items() if there.get(problem) == asked}
    if not common:
        raise RecipeError("not a pair: no problem is on both sides")
    return Pair(only(before, common), only(after, common), named)


def only(rows: EvalRows, problems: set[str]) -> EvalRows:
    """Return the rows about some problems."""
    return replace(rows, rows=tuple(row for row in rows.rows if row.problem_id in problems))


def differences(before: EvalRows, after: EvalRows) -> list[str]:
    """Return everything that keeps two evaluations from being a pair, each as a phrase."""
    found = _unlike(before, after, CONDITIONS)
    first, second = _cells(before.rows, "before"), _cells(after.rows, "after")
    odd = sorted(first.keys() ^ second.keys())
    if odd:
        problem, sample = odd[0]
        side = "before" if odd[0] in first else "after"
        found.append(
            f"{len(odd)} samples are on one side only, the first is sample {sample} of problem {problem} ({side})"
        )
    both = [(cell, row, second[cell]) for cell, row in first.items() if cell in second]
    changed = [(cell, row, other) for cell, row, other in both if row.answer != other.answer]
    if changed:
        (problem, _), row, other = changed[0]
        more = "" if len(changed) == 1 else f" (and {len(changed) - 1} more samples with another answer)"
        found.append(f"the answer of problem {problem} is {row.answer} before and {other.answer} after{more}")
    texts = list(dict.fromkeys(problem for (problem, _), row, other in both if row.prompt != other.prompt))
    if texts:
        more = "" if len(texts) == 1 else f" (and of {len(texts) - 1} more)"
        found.append(f"the text of problem {texts[0]} is another after{more}")
    return found


def compared(before: EvalRows, after: EvalRows) -> list[str]:
    """Return what differs and may be the very thing compared: how thinking ends, the engine, the prompts as sent.

    Engines hash a prompt as they get it, token ids or messages, so the hashes of two engines say nothing.
    """
    found = _unlike(before, after, COMPARED)
    if before.header.get("engine") != after.header.get("engine"):
        return found
    hashes = {row.problem_id: (row.prompt, row.prompt_hash) for row in before.rows}
    for row in after.rows:
        text, sent = hashes.get(row.problem_id, ("", ""))
        if text == row.prompt and sent and row.prompt_hash and sent != row.prompt_hash:
            return [
                *found,
                f"the prompt of problem {row.problem_id} as sent is another after (chat template, tokenizer)",
            ]
    return found


def _unlike(before: EvalRows, after: EvalRows, keys: Sequence[str]) -> list[str]:
    sides = [(key, before.header.get(key), after.header.get(key)) for key in keys]
    return [f"{key} is {first} before and {second} after" for key, first, second in sides if first != second]


def _cells(rows: Sequence[EvalRow], side: str) -> Cells:
    """Return the row of each (problem, sample), checked to be a full table."""
    if not rows:
        raise RecipeError(f"not a pair: {side} has no rows")
    cells = {(row.problem_id, row.sample): row for row in rows}
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
