"""What the starting model reaches: measured with the engine that rollouts come from."""

from types import SimpleNamespace

import pytest

from reason_rl.recipe.load import load_recipe
from reason_rl.run_folder import RunFolder
from reason_rl.trainer import train


class Built(Exception):
    """Ends the building of a trainer where all of its parts are there."""


def test_rollouts_and_references_come_from_one_engine(tmp_path, monkeypatch):
    opened, used = [], []

    def build(**_):
        raise Built

    monkeypatch.setattr(train, "open_engine", lambda recipe, **_: opened.append(recipe) or "engine")
    monkeypatch.setattr(train, "rollout_backend", lambda recipe, model, tokenizer, engine: used.append(engine))
    monkeypatch.setattr(train, "starting_references", lambda recipe, run, engine: used.append(engine))
    monkeypatch.setattr(train, "ReasonGRPOTrainer", build)
    recipe = load_recipe("tiny/adaptthink", ["data.count=40"]).recipe
    for given in (None, "given"):
        with pytest.raises(Built):
            train._build(recipe, RunFolder(tmp_path), SimpleNamespace(), None, given)
    assert used == ["engine", "engine", "given", "given"]
    assert len(opened) == 1
