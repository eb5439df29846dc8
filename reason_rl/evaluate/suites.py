"""Evaluations from the command line: of a recipe's model on its problems, or of any model on benchmark suites."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from reason_rl.errors import RecipeError
from reason_rl.evaluate.endpoint import evaluate_endpoint
from reason_rl.evaluate.metrics import summarise
from reason_rl.evaluate.records import EvalRow
from reason_rl.evaluate.run import evaluate
from reason_rl.live_line import live_line
from reason_rl.models import Dtype, context_tokens, load_config, load_tokenizer
from reason_rl.problem.prompt import render_prompts
from reason_rl.problem.sources import load_problems
from reason_rl.recipe.load import load_recipe
from reason_rl.recipe.rollout_specs import RolloutSection
from reason_rl.recipe.schema import EvalSection, ModelSection, Recipe
from reason_rl.recipe.suite import load_suite, shipped_suites
from reason_rl.rollout.endpoint import Endpoint

END_THINK = "</think>"
# Options of suites, and what does the same for a recipe.
FOR_A_RECIPE = {
    "adapter": "--model FOLDER",
    "engine": "rollout.engine=NAME",
    "dtype": "model.dtype=TYPE",
    "batch-rows": "rollout.max_batch_rows=ROWS",
}


@dataclass(frozen=True)
class EvalChanges:
    """What the command line may change about an evaluation; None keeps the value of the suite or recipe."""

    samples: int | None = None
    max_tokens: int | None = None
    limit: int | None = None
    engine: Literal["hf", "vllm", "openai"] = "hf"
    batch_rows: int = 64
    endpoint: Endpoint | None = None
    tokenizer: str | None = None
    stop: str | None = None
    dtype: Dtype = "auto"

    def fields(self) -> dict[str, int | str]:
        """Return the changed fields of the eval section."""
        fields = ("samples", "max_tokens", "limit", "stop")
        return {field: getattr(self, field) for field in fields if getattr(self, field) is not None}


def suite_recipe(name: str, model: str, output: Path, options: EvalChanges) -> Recipe:
    """Return the recipe of evaluating ``model`` on the suite ``name``.

    A model whose vocabulary has no ``</think>`` counts as one that does not think; its whole completion is thinking.

    Raises:
        RecipeError: for an unknown suite or model.
    """
    suite = load_suite(name).suite
    try:
        section = EvalSection.model_validate({**suite.eval.model_dump(), **options.fields()})
    except ValidationError as error:
        raise RecipeError(
            "; ".join(f"eval: {part['msg'].removeprefix('Value error, ')}" for part in error.errors())
        ) from None
    spec = ModelSection(path=model, dtype=options.dtype)
    rollout = RolloutSection(max_batch_rows=options.batch_rows)
    if options.engine != "openai":
        thinks = END_THINK in load_tokenizer(spec).get_vocab()
        spec = spec.model_copy(update={"end_think_token": END_THINK if thinks else None})
        rollout = RolloutSection(engine=options.engine, max_batch_rows=options.batch_rows)
    return Recipe(
        output=str(output),
        model=spec,
        prompt=suite.prompt,
        answer=suite.answer,
        eval=section,
        rollout=rollout,
    )


def fitted(recipe: Recipe, say: Callable[[str], None]) -> Recipe:
    """Return the recipe with the suite's cap lowered to what the model's context leaves beside the suite's longest prompt.

    The longest prompt of the whole suite counts, so that ``--limit`` does not change the cap. The change is said, and the cap
    that was used stands in the first line of the rows.
    """
    assert recipe.eval is not None
    tokenizer = load_tokenizer(recipe.model)
    context = context_tokens(load_config(recipe.model))
    prompts = render_prompts(load_problems(recipe.eval.data), tokenizer, recipe.prompt)
    room = context - max(map(len, prompts), default=0)
    if not 0 < room < recipe.eval.max_tokens:
        return recipe
    lowered = f"eval: the cap of {recipe.eval.max_tokens} tokens is lowered to {room}"
    say(f"{lowered}: {recipe.model.path} has a context of {context}")
    return recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"max_tokens": room})})


def is_recipe(what: str) -> bool:
    """Tell a recipe (a path, or folder/name) from the names of suites."""
    return what not in shipped_suites() and ("/" in what or what.endswith((".yaml", ".yml")))


def check_options(what: str, url: str | None, remote: Mapping[str, Any], local: Mapping[str, Any]) -> None:
    """Raise RecipeError for an option that the evaluation of ``what`` would not read.

    Args:
        what: a recipe, or names of suites.
        url: an endpoint, None where the model runs here.
        remote: options of an endpoint by name, None where not given.
        local: options of suites by name, None where not given.

    >>> check_options("gsm8k", None, {"tokenizer": None}, {"dtype": "float32"})
    """
    if url is not None and (local["adapter"] is not None or is_recipe(what)):
        raise RecipeError("eval: --url evaluates suites, with the adapter that the server has loaded")
    for name in [name for name, value in remote.items() if value is not None and url is None]:
        raise RecipeError(f"eval: --{name} is for --engine openai; leave it out, or give --url")
    for name in [name for name, value in local.items() if value is not None]:
        if is_recipe(what):
            raise RecipeError(f"eval: --{name} is for suites; for a recipe use {FOR_A_RECIPE[name]}")
        if url is not None and name != "engine":
            raise RecipeError(f"eval: --{name} is for models that run here; leave it out, or leave out --url")


def evaluate_recipe(
    what: str, overrides: Sequence[str], model: Path | None, changes: EvalChanges, out: Path | None
) -> Any:
    """Evaluate a recipe's model, or a trained one, on the recipe's eval problems; return the summary.

    Raises:
        RecipeError: when the recipe has no eval section.
    """
    loaded = load_recipe(what, [*overrides, *(f"eval.{key}={value}" for key, value in changes.fields().items())])
    if loaded.recipe.eval is None:
        raise RecipeError(f"{loaded.path}: eval: is missing")
    name = f"{model.name if model else 'start'}.jsonl"
    target = out or Path(loaded.recipe.output) / "eval"
    if out is None or out.is_dir():
        target /= name
    with live_line(what) as on_progress:
        return {"rows": str(target), **summarise(evaluate(loaded.recipe, model, target, on_progress))}


def evaluate_suites(
    names: Sequence[str],
    model: str,
    adapter: Path | None,
    changes: EvalChanges,
    out: Path | None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Evaluate a model on suites; return a summary a suite. ``out`` is a file for one suite, a folder for several.

    Raises:
        RecipeError: for names of no suite, and for an ``out`` that cannot hold the rows.
    """
    if not all(names):
        raise RecipeError(f"eval: {','.join(names)} has an empty name; suites are separated by single commas")
    folder = out or Path("outputs/eval") / short_name(model)
    targets = row_files(names, folder, single=out is not None)
    # All suites are looked up before the first is run.
    recipes = {name: suite_recipe(name, model, folder, changes) for name in names}
    if changes.endpoint is None and changes.max_tokens is None:
        recipes = {name: fitted(recipe, say) for name, recipe in recipes.items()}
    return {
        name: {"rows": str(targets[name]), **summarise(_evaluated(name, recipe, adapter, changes, targets[name]))}
        for name, recipe in recipes.items()
    }


def short_name(model: str) -> str:
    """Return what a model is called by: the last part of its path, of a run the folder that holds its ``model``.

    >>> short_name("org/name"), short_name("outputs/mine/model")
    ('name', 'mine')
    """
    path = Path(model)
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def row_files(names: Sequence[str], out: Path, single: bool) -> dict[str, Path]:
    """Return where the rows of each suite go: files in the folder ``out``, or ``out`` itself.

    Args:
        names: suites.
        out: file or folder.
        single: with one suite, ``out`` is the file unless it is a folder that there is.

    Raises:
        RecipeError: when several suites are to go to a file, or two to the same one.

    >>> row_files(["smoke"], Path("there.jsonl"), single=True)["smoke"].name
    'there.jsonl'
    """
    if len(names) == 1 and single and not out.is_dir():
        return {names[0]: out}
    if out.exists() and not out.is_dir():
        raise RecipeError(f"--out: {out} is a file; several suites go to a folder")
    targets = {name: out / f"{Path(name).stem}.jsonl" for name in names}
    if len(set(targets.values())) < len(names):
        raise RecipeError(f"eval: {','.join(names)}: two suites would write the same file; evaluate them one by one")
    return targets


def _evaluated(name: str, recipe: Recipe, adapter: Path | None, changes: EvalChanges, out: Path) -> list[EvalRow]:
    with live_line(name) as on_progress:
        if changes.endpoint is None:
            return evaluate(recipe, adapter, out, on_progress)
        return evaluate_endpoint(recipe, changes.endpoint, changes.tokenizer, out, on_progress)
