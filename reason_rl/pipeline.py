"""The main job: evaluate the start, train, evaluate again on the same problems and seeds, report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reason_rl.evaluate.records import read_rows
from reason_rl.evaluate.statistics import paired_summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from reason_rl.recipe.schema import Recipe
    from reason_rl.run_folder import RunFolder


def run(recipe: Recipe, folder: RunFolder, *, resume: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Run a recipe from start to report and return its summary; stages that are done are not done again."""
    if recipe.task == "pretrain":
        return pretrain(recipe, folder, say)
    from reason_rl.evaluate.run import evaluate
    from reason_rl.report.page import write_page
    from reason_rl.rollout.engines import open_engine
    from reason_rl.trainer.train import train

    engine = open_engine(recipe)
    before, after = folder.eval / "before.jsonl", folder.eval / "after.jsonl"
    if not before.exists():
        say("evaluating the starting model")
        evaluate(recipe, None, before, engine=engine)
    say("training")
    result = train(recipe, folder, resume=resume, engine=engine)
    if not after.exists():
        say("evaluating the trained model")
        evaluate(recipe, result.model, after, engine=engine)
    summary = paired_summary(read_rows(before), read_rows(after))
    summary["training"] = {"steps": result.steps, "seconds": result.seconds}
    folder.write_json("summary.json", summary)
    write_page(folder.path)
    folder.finish()
    return summary


def pretrain(recipe: Recipe, folder: RunFolder, say: Callable[[str], None]) -> dict[str, Any]:
    """Pretrain the tiny reasoner from scratch."""
    from reason_rl.world.pretrain import PretrainConfig
    from reason_rl.world.pretrain import pretrain as pretrain_reasoner

    config = PretrainConfig(seed=recipe.seed, **recipe.pretrain)
    attach = None
    if recipe.attention is not None and recipe.attention.prior is not None:
        from reason_rl.attention.pretrain_run import prior_of

        attach = prior_of(recipe.attention.prior, config)
    say(f"pretraining on {config.traces:,} worked traces")
    pretrain_reasoner(config, folder.model, attach=attach)
    folder.finish()
    return {"model": str(folder.model), "traces": config.traces}
