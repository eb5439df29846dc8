import pytest

from reason_rl.evaluate.records import read_rows
from reason_rl.evaluate.run import evaluate
from reason_rl.recipe.load import load_recipe
from reason_rl.run_folder import RunFolder
from reason_rl.trainer.train import train


def _learn(recipe, folder, seed, *changes):
    loaded = load_recipe(recipe, [*changes, f"seed={seed}", f"output={folder}"])
    run = RunFolder(folder)
    run.prepare(loaded.resolved(), resume=False)
    train(loaded.recipe, run)
    evaluate(loaded.recipe, run.model, run.eval / "after.jsonl")
    return read_rows(run.eval / "after.jsonl").rows


@pytest.fixture(scope="session")
def learn():
    """Train by a recipe and return the rows of its evaluation."""
    return _learn
