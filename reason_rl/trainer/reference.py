"""What the starting model reaches on each training problem, measured before training and kept in the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from accelerate import PartialState

from reason_rl.algorithm.store import Reference
from reason_rl.evaluate.difficulty import references, table_of
from reason_rl.evaluate.run import evaluate
from reason_rl.problem.prompt import variants_of
from reason_rl.problem.record import Problem, variant_id
from reason_rl.recipe.schema import EvalSection

if TYPE_CHECKING:
    from reason_rl.recipe.schema import Recipe
    from reason_rl.run_folder import RunFolder


def starting_references(recipe: Recipe, run: RunFolder, engine: Any = None) -> Mapping[str, Reference] | None:
    """Return the references of the training problems: those of the difficulty table, or measured as the recipe says.

    Measured rows are kept in ``eval/reference.jsonl`` of the run, so that a resumed run does not sample again; of several
    processes the first one measures. None when the recipe asks for neither.

    Raises:
        RecipeError: when the difficulty table cannot be used.
        RunError: when the run folder holds the rows of another measurement.
    """
    assert recipe.algorithm is not None
    spec = recipe.algorithm.reference
    if spec is None:
        return references(recipe)
    section = EvalSection.model_validate({"data": recipe.data, "seed": recipe.seed, **spec.model_dump()})
    asked = recipe.model_copy(update={"eval": section})
    with PartialState().main_process_first():
        return table_of(evaluate(asked, None, run.eval / "reference.jsonl", engine=engine))


def by_prompt(references: Mapping[str, Reference], problems: Sequence[Problem], spec: Any) -> Mapping[str, Reference]:
    """Return the references under the ids of the rows trained on: all variants of a prompt have that of their problem.

    ``spec`` is the recipe's ``prompt:`` section.
    """
    if not spec.variants:
        return references
    known = [problem for problem in problems if problem.id in references]
    return {variant_id(p.id, variant): references[p.id] for p in known for variant in variants_of(p, spec)}
