"""The main job: evaluate the start, train, evaluate again on the same problems and seeds, report."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from reason_rl.errors import RecipeError
from reason_rl.evaluate.records import read_rows
from reason_rl.evaluate.statistics import paired_summary
from reason_rl.live_line import live_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from reason_rl.recipe.schema import Recipe
    from reason_rl.run_folder import RunFolder
    from reason_rl.trainer.train import TrainResult


def check_task(recipe: Recipe, command: str) -> None:
    """Raise RecipeError for a task that train does not train, or that prepare has nothing to make for."""
    if command == "train" and recipe.task not in ("train", "dpo", "sft"):
        raise RecipeError(f"task {recipe.task}: is not trained; use reason-rl run")
    if command == "prepare" and recipe.task not in ("dpo", "sft"):
        others = "run or train" if recipe.task == "train" else "run"
        raise RecipeError(f"task {recipe.task}: has nothing to prepare; use reason-rl {others}")


def run(recipe: Recipe, folder: RunFolder, *, resume: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Run a recipe from start to report and return its summary; stages that are done are not done again."""
    if recipe.task == "pretrain":
        return pretrain(recipe, folder, say)
    from reason_rl.evaluate.run import evaluate
    from reason_rl.report.page import write_page
    from reason_rl.rollout.engines import open_engine

    if recipe.task == "train":
        from reason_rl.trainer.train import check_training

        check_training(recipe, folder)  # what training would refuse is refused before the evaluation
    else:
        from reason_rl.trainer.offline import check_models, make_merge

        check_models(recipe)
        make_merge(recipe, folder, say)
    engine = open_engine(recipe)
    before, after = folder.eval / "before.jsonl", folder.eval / "after.jsonl"
    if not before.exists():
        say("evaluating the starting model")
        with live_line("starting model") as on_progress:
            evaluate(recipe, None, before, on_progress, engine)
    training = {"steps": 0, "seconds": 0.0}
    if recipe.task != "merge":
        say("training")
        result = train(recipe, folder, resume=resume, engine=engine, say=say)
        training = {"steps": result.steps, "seconds": result.seconds}
    if not after.exists():
        say(f"evaluating the {'merged' if recipe.task == 'merge' else 'trained'} model")
        with live_line("trained model") as on_progress:
            evaluate(_trained(recipe, folder), folder.model, after, on_progress, engine)
    summary = paired_summary(read_rows(before), read_rows(after))
    summary["training"] = training
    folder.write_json("summary.json", summary)
    write_page(folder.path)
    folder.finish()
    return summary


def train(
    recipe: Recipe, folder: RunFolder, *, resume: bool, engine: Any = None, say: Callable[[str], None]
) -> TrainResult:
    """Train the recipe's model in the way of its task; a training that came to its end is not done again.

    Raises:
        RecipeError: for a task that trains no model.
    """
    check_task(recipe, "train")
    from reason_rl.trainer.train import TrainResult

    done = folder.training()
    if done is not None:
        return TrainResult(folder.model, **done)
    return train_to_the_end(recipe, folder, resume=resume, engine=engine, say=say)


def train_to_the_end(
    recipe: Recipe, folder: RunFolder, *, resume: bool, engine: Any = None, say: Callable[[str], None]
) -> TrainResult:
    """Train the recipe's model in the way of its task, whatever the folder says of an earlier training.

    Raises:
        RecipeError: for a task that trains no model.
    """
    from reason_rl.trainer.train import train as train_rl

    if recipe.task in ("dpo", "sft"):
        from reason_rl.trainer.offline import check_models

        check_models(recipe)
    if recipe.task == "dpo":
        from reason_rl.trainer.dpo import train_dpo

        result = train_dpo(recipe, folder, resume=resume, say=say, engine=engine)
    elif recipe.task == "sft":
        from reason_rl.trainer.sft import train_sft

        result = train_sft(recipe, folder, resume=resume, say=say, engine=engine)
    else:
        result = train_rl(recipe, folder, resume=resume, engine=engine)
    if int(os.environ.get("RANK", "0")) == 0:
        folder.write_json(folder.trained.name, {"steps": result.steps, "seconds": result.seconds})
    return result


def prepare(recipe: Recipe, folder: RunFolder, say: Callable[[str], None]) -> dict[str, Any]:
    """Make what training reads and does not make itself when several processes train.

    Raises:
        RecipeError: for a task that reads nothing of the kind.
    """
    check_task(recipe, "prepare")
    from reason_rl.trainer.offline import check_models

    check_models(recipe)
    if recipe.task == "dpo":
        from reason_rl.trainer.dpo import prepare_dpo
        from reason_rl.trainer.pairs import pairs_file

        return {"rows": len(prepare_dpo(recipe, folder, say)), "file": str(pairs_file(folder))}
    from reason_rl.trainer.turns import make_traces, traces_file

    return {"rows": len(make_traces(recipe, folder, say)), "file": str(traces_file(folder))}


def _trained(recipe: Recipe, folder: RunFolder) -> Recipe:
    """Return the recipe with the model that an adapter in the run folder belongs on."""
    if recipe.task != "dpo" or recipe.lora is None:
        return recipe
    from reason_rl.trainer.offline import start_model

    return recipe.model_copy(update={"model": start_model(recipe, folder)})


def pretrain(recipe: Recipe, folder: RunFolder, say: Callable[[str], None]) -> dict[str, Any]:
    """Pretrain the tiny reasoner from scratch."""
    from reason_rl.attention.pretrain_run import attached
    from reason_rl.world.pretrain import PretrainConfig
    from reason_rl.world.pretrain import pretrain as pretrain_reasoner

    config = PretrainConfig(seed=recipe.seed, **recipe.pretrain)
    say(f"pretraining on {config.traces:,} worked traces")
    pretrain_reasoner(config, folder.model, attach=attached(recipe.attention, config))
    folder.finish()
    return {"model": str(folder.model), "traces": config.traces}
