"""A reward of one's own: one file anywhere, named in a recipe by its path, as rewards/README.md shows it."""

import re
from pathlib import Path

import pytest

from reason_rl import cli
from reason_rl.errors import RecipeError
from reason_rl.recipe.load import load_recipe

README = Path(__file__).parents[2] / "rewards" / "README.md"
OVERRIDES = (
    "trainer.per_device_train_batch_size=8",
    "trainer.steps_per_generation=2",
    "trainer.num_generations=4",
    "trainer.max_steps=2",
    "algorithm.budget.tokens=24",
    "data.count=64",
    "eval.data.count=6",
    "eval.samples=1",
    "eval.max_tokens=48",
)


@pytest.fixture
def own(tmp_path):
    """Write the file and the recipe that the page shows."""
    shown = re.findall(r"```(python|yaml)\n(.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "brevity.py").write_text(next(text for language, text in shown if language == "python"))
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(next(text for language, text in shown if language == "yaml"))
    return recipe


def test_it_is_used_and_shows_in_the_report(own, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.app(["validate", "mine.yaml"], standalone_mode=False)
    cli.app(["run", "mine.yaml", *OVERRIDES], standalone_mode=False)
    page = (tmp_path / "outputs" / "mine" / "report.html").read_text()
    assert "brevity.py" in page
    assert "weight: 0.5" in page


def test_its_parameters_are_checked_before_anything_starts(own):
    with pytest.raises(RecipeError, match=r"algorithm\.reward\.wieght: unknown parameter; did you mean weight\?"):
        load_recipe(own, ["~algorithm.reward.weight", "algorithm.reward.wieght=2"])
    with pytest.raises(RecipeError, match=r"nowhere\.py"):
        load_recipe(own, ["algorithm.reward.file=nowhere.py"])


def test_a_run_with_a_reward_that_fails_samples_nothing(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (tmp_path / "brevity.py").read_text()
    (tmp_path / "brevity.py").write_text(text.replace("batch.budget", "batch.bugdet"))
    with pytest.raises(RecipeError, match=r"brevity\.py:8: AttributeError: .*bugdet"):
        cli.app(["run", "mine.yaml", *OVERRIDES], standalone_mode=False)
    assert not list(tmp_path.glob("outputs/mine/eval/*.jsonl"))
