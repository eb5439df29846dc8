"""What the starting model reaches on each training problem, measured before training and kept in the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import patch_environment

from reason_rl.algorithm.store import Reference
from reason_rl.evaluate.difficulty import read_table, references, table_of
from reason_rl.evaluate.records import write_lines
from reason_rl.evaluate.run import evaluate
from reason_rl.problem.prompt import variants_of
from reason_rl.problem.record import Problem, variant_id
from reason_rl.recipe.schema import EvalSection
from reason_rl.rollout.processes import one_message_when_another_is_gone

if TYPE_CHECKING:
    from reason_rl.recipe.schema import Recipe
    from reason_rl.run_folder import RunFolder

PATIENCE = timedelta(days=365)


def starting_references(recipe: Recipe, run: RunFolder, engine: Any = None) -> Mapping[str, Reference] | None:
    """Return the references of the training problems: those of the difficulty table, or measured as the recipe says.

    Measured rows are kept in ``eval/reference.jsonl`` of the run, so that a resumed run does not sample again. Each of
    several processes measures a part of the problems and keeps its rows beside it. None when the recipe asks for neither.

    Raises:
        RecipeError: when the difficulty table cannot be used.
        RunError: when the run folder holds the rows of another measurement, or another process is gone.
    """
    assert recipe.algorithm is not None
    spec = recipe.algorithm.reference
    if spec is None:
        return references(recipe)
    section = EvalSection.model_validate({"data": recipe.data, "seed": recipe.seed, **spec.model_dump()})
    asked = recipe.model_copy(update={"eval": section})
    whole, table = run.eval / "reference.jsonl", run.eval / "reference_table.jsonl"
    if table.is_file():
        return read_table(table)
    state = PartialState()
    if state.num_processes == 1 or whole.is_file():
        return table_of(evaluate(asked, None, whole, engine=engine))
    measured = _by_all(asked, whole, state, engine)
    if state.is_main_process:
        # For a run that is resumed, perhaps by another number of processes.
        write_lines(table, [{"header": True}, *({"id": name, **asdict(entry)} for name, entry in measured.items())])
    return measured


def _by_all(asked: Recipe, whole: Path, state: PartialState, engine: Any) -> dict[str, Reference]:
    """Return what all processes measure, each its part of the problems.

    They wait for the slowest in a group of their own, with a timeout that no measurement reaches; gloo tells at once of one
    that is gone.
    """
    rank, world = state.process_index, state.num_processes
    patient = dist.new_group(backend="gloo", timeout=PATIENCE)
    # Else accelerate has the first process alone load weights, for FSDP to hand them on.
    with one_message_when_another_is_gone(), patch_environment(fsdp_cpu_ram_efficient_loading="false"):
        out = whole.with_name(f"reference-{rank + 1}-of-{world}.jsonl")
        own = table_of(evaluate(asked, None, out, engine=engine, part=(rank, world)))
        tables: list[Any] = [None] * world
        dist.all_gather_object(tables, own, group=patient)
    dist.destroy_process_group(patient)
    return {name: entry for part in tables for name, entry in part.items()}


def by_prompt(references: Mapping[str, Reference], problems: Sequence[Problem], spec: Any) -> Mapping[str, Reference]:
    """Return the references under the ids of the rows trained on: all variants of a prompt have that of their problem.

    ``spec`` is the recipe's ``prompt:`` section.
    """
    if not spec.variants:
        return references
    known = [problem for problem in problems if problem.id in references]
    return {variant_id(p.id, variant): references[p.id] for p in known for variant in variants_of(p, spec)}
