"""Every shipped recipe and reward: loads, says what it is, cites its source."""

import ast
import json
import re
from pathlib import Path

import pytest

from reason_rl.cli import app
from reason_rl.content import find_content, shipped_recipes
from reason_rl.recipe.load import load_recipe

ROOT = Path(__file__).parents[2]
RECIPES = shipped_recipes()
REWARDS = sorted((ROOT / "rewards").glob("*.py"))


def test_there_is_something_to_check():
    assert {"tiny/dler", "tiny/grpo", "tiny/pretrain", "smollm/dler_lora"} <= set(RECIPES)
    assert len(REWARDS) >= 4


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.endswith("base")])
def test_recipe_loads(name):
    assert load_recipe(RECIPES[name]).recipe.output.startswith("outputs/")


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.endswith("base")])
def test_what_happens_to_cut_rollouts_is_written_down(name):
    document = load_recipe(RECIPES[name]).document.values
    assert "algorithm" not in document or "overlong" in document["algorithm"]


@pytest.mark.parametrize("path", RECIPES.values(), ids=RECIPES.keys())
def test_recipe_names_its_schema_and_says_what_it_is(path):
    first, second = path.read_text().splitlines()[:2]
    prefix = "# yaml-language-server: $schema="
    assert first.startswith(prefix)
    assert (path.parent / first.removeprefix(prefix)).resolve() == ROOT / "recipes" / "schema.json"
    assert second.startswith("# ")


def test_schema_file_is_what_the_command_prints(capsys):
    app(["schema"], standalone_mode=False)
    assert json.loads((ROOT / "recipes" / "schema.json").read_text()) == json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("path", REWARDS, ids=lambda path: path.stem)
def test_reward_is_short_and_documented(path):
    text = path.read_text()
    doc = ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 40
    assert "r =" in doc
    assert "tokens" in doc or "unit: none" in doc
    assert re.search(r"Source: [^\n]*(arXiv \d{4}\.\d{5}|our choice)", doc)


def test_content_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_content("rewards/dler.py") == ROOT / "rewards" / "dler.py"
    (tmp_path / "rewards").mkdir()
    own = tmp_path / "rewards" / "dler.py"
    own.write_text("")
    assert find_content("rewards/dler.py", tmp_path / "deep" / "er") == own
