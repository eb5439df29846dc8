"""Preference pairs of a recipe: two models solve the training problems, and their solutions are compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reason_rl.algorithm.preference import PairRule, Solution, gain, pairs_of, prefers_long
from reason_rl.errors import RecipeError
from reason_rl.evaluate.records import EvalRow, write_lines
from reason_rl.evaluate.run import evaluate
from reason_rl.rollout.engines import open_engine
from reason_rl.trainer.offline import solving
from reason_rl.trainer.train import training_problems

if TYPE_CHECKING:
    from pathlib import Path

    from reason_rl.recipe.schema import Recipe
    from reason_rl.run_folder import RunFolder

Solutions = Mapping[str, Sequence[Solution]]


def pairs_file(run: RunFolder) -> Path:
    """Return where the pairs are kept."""
    return run.path / "pairs" / "pairs.jsonl"


def make_pairs(recipe: Recipe, run: RunFolder, say: Callable[[str], None], engine: Any = None) -> list[dict[str, Any]]:
    """Return the pairs of a recipe, one row each, and keep them in the run folder with all solutions.

    An interrupted sampling goes on where it was; pairs that are there are not made again.

    Returns:
        rows of problem_id, kind, chosen, rejected, chosen_tokens, rejected_tokens, gain.

    Raises:
        RecipeError: when no pair could be made.
    """
    section = recipe.pairs
    assert section is not None
    if pairs_file(run).is_file():
        return [json.loads(line) for line in pairs_file(run).read_text(encoding="utf-8").split("\n")[1:] if line]
    if engine is None:
        # One for both models: a GPU has no room for a second.
        engine = open_engine(solving(recipe, section.long, section))
    allowed = {problem.id for problem in training_problems(recipe)}
    long, short = (
        {name: some for name, some in sample(recipe, run, style, engine).items() if name in allowed}
        for style in ("long", "short")
    )
    rule = PairRule(section.margin, section.group_pairs, section.instance_pairs, section.least_difference)
    solved = [name for name in long if any(solution.correct for solution in (*long[name], *short[name]))]
    rows = [row for name in solved for row in _rows(name, long[name], short[name], rule, recipe.seed)]
    rows = rows[: section.max_pairs]
    margin = rule.margin_of(section.samples)
    preferred = sum(prefers_long(long[name], short[name], margin) for name in solved)
    counts = {"problems": len(long), "never_right": len(long) - len(solved), "long_preferred": preferred}
    say(
        f"{len(rows)} pairs of {len(long)} problems: long preferred on {preferred}, short on {len(solved) - preferred}, "
        f"{counts['never_right']} never right"
    )
    if not rows:
        raise RecipeError("pairs: no problem gave a pair; take more problems, or models that solve some of them")
    write_lines(pairs_file(run), [{"header": True, "pairs": len(rows), **counts}, *rows])
    return rows


def sample(recipe: Recipe, run: RunFolder, style: str, engine: Any) -> Solutions:
    """Return the solutions of the long or the short model, by problem."""
    section = recipe.pairs
    assert section is not None
    sampled = solving(recipe, getattr(section, style), section)
    rows = evaluate(sampled, None, pairs_file(run).with_name(f"{style}.jsonl"), engine=engine)
    found: dict[str, list[Solution]] = {}
    for row in rows:
        found.setdefault(row.problem_id, []).append(solution_of(row))
    return found


def solution_of(row: EvalRow) -> Solution:
    """Return the solution in an evaluated row."""
    return Solution(row.completion, row.completion_tokens, row.correct)


def _rows(
    name: str, long: Sequence[Solution], short: Sequence[Solution], rule: PairRule, seed: int
) -> list[dict[str, Any]]:
    worth = gain(long, short, rule.margin_of(len(long)))
    return [
        {
            "problem_id": name,
            "kind": pair.kind,
            "chosen": pair.chosen.text,
            "rejected": pair.rejected.text,
            "chosen_tokens": pair.chosen.tokens,
            "rejected_tokens": pair.rejected.tokens,
            "gain": worth,
        }
        for pair in pairs_of(name, long, short, rule, seed)
    ]
