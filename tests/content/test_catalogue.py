"""The list of recipes: what it shows, and that headers are whole."""

import json
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from reason_rl.cli import app
from reason_rl.content import shipped_recipes
from reason_rl.errors import RecipeError
from reason_rl.recipe import catalogue as module
from reason_rl.recipe.catalogue import catalogue, text
from reason_rl.recipe.load import load_recipe

ENTRIES = {entry.name: entry for entry in catalogue()}


def test_parts_are_not_listed_and_files_of_accelerate_are_no_recipes():
    assert {"tiny/dler", "r1_distill_1.5b/dler_lora", "tiny/pretrain"} <= set(ENTRIES)
    assert not any(name.endswith("base") or name.startswith("accelerate") for name in ENTRIES)


@pytest.mark.parametrize("name", ENTRIES)
def test_every_recipe_of_a_method_names_it_with_its_paper(name):
    entry = ENTRIES[name]
    assert entry.line
    if load_recipe(shipped_recipes()[name]).recipe.task != "pretrain":
        assert entry.method
        assert entry.state in ("measured", "unit only", "not run")
        assert (entry.paper is None) == (entry.arxiv is None)


def test_a_variant_inherits_the_method_and_has_its_own_line():
    full, lora = ENTRIES["r1_distill_1.5b/dler"], ENTRIES["r1_distill_1.5b/dler_lora"]
    assert (
        (full.method, full.arxiv, full.state)
        == (lora.method, lora.arxiv, lora.state)
        == ("DLER", "2510.15110", "not run")
    )
    assert full.line != lora.line
    assert "86.95 %" in full.published


def test_the_command_prints_both_forms(capsys):
    app(["recipes", "ls"], standalone_mode=False)
    shown = capsys.readouterr().out
    assert shown.rstrip() == text(list(ENTRIES.values()))
    head = next(line for line in shown.splitlines() if line.startswith("tiny/rloo "))
    assert "RLOO | measured | arXiv 2402.14740: Back to Basics" in head
    app(["recipes", "ls", "--json"], standalone_mode=False)
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert listed["tiny/gspo"]["arxiv"] == "2507.18071"


def test_a_bad_header_is_one_clear_line(tmp_path, monkeypatch):
    bad = tmp_path / "bad.yaml"
    bad.write_text("# A recipe.\noutput: out\nabout: {method: X, arxiv: 12}\n")
    monkeypatch.setattr(module, "shipped_recipes", lambda: {"bad": bad})
    with pytest.raises(RecipeError, match=r"bad.yaml:3: about: .*string"):
        catalogue()


@pytest.mark.parametrize("name", ENTRIES)
def test_a_copy_of_a_recipe_works_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app(["recipes", "cp", name, "mine.yaml"], standalone_mode=False)
    shipped = load_recipe(shipped_recipes()[name]).recipe.model_dump()
    assert load_recipe("mine.yaml").recipe.model_dump() == {**shipped, "output": "outputs/mine"}
    schema = (tmp_path / "mine.yaml").read_text().split("$schema=")[1].split()[0]
    assert Path(unquote(urlparse(schema).path)) == shipped_recipes()[name].parents[1] / "schema.json"


def test_results_are_not_inherited(tmp_path, monkeypatch):
    child = tmp_path / "child.yaml"
    child.write_text("# A variant.\nextends: recipes/tiny/dler.yaml\n")
    monkeypatch.setattr(
        module, "shipped_recipes", lambda: {"child": child, "tiny/dler": shipped_recipes()["tiny/dler"]}
    )
    assert [(entry.method, entry.state) for entry in catalogue()] == [("DLER", "unit only"), ("DLER", "measured")]
