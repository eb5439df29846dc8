"""Difficulty tables: what is written is read back, bands filter, and mistakes are named."""

import json
from pathlib import Path

import pytest

from reason_rl.algorithm.store import Reference
from reason_rl.content import content_roots
from reason_rl.errors import RecipeError
from reason_rl.evaluate import difficulty
from reason_rl.evaluate.difficulty import measure_difficulty, read_table, references, table_of
from reason_rl.evaluate.records import EvalRow
from reason_rl.problem.sources import load_problems
from reason_rl.recipe.load import load_recipe
from reason_rl.recipe.policies import DifficultySection
from reason_rl.recipe.smoke import smoke

HEADER = '{"header": true, "model": "m"}\n'


def row(name, sample, correct, tokens, reason="stop"):
    return EvalRow(name, 1, "chain", sample, 0, "?", "!", "7", "7", correct, tokens, tokens - 2, 2, reason)


ROWS = [row("a", 0, True, 10), row("a", 1, False, 30, "length"), row("b", 0, True, 7), row("b", 1, True, 8)]
TABLE = {"a": Reference(2, 1, 20.0), "b": Reference(2, 2, 7.5)}


@pytest.fixture
def with_table(tmp_path):
    """Return a maker of the recipe of a run that reads a table of these lines, with a band."""

    def make(lines, **band):
        path = tmp_path / "table.jsonl"
        path.write_text(lines)
        recipe = load_recipe("tiny/dler", ["data.count=40"]).recipe
        return recipe.model_copy(update={"difficulty": DifficultySection(table=str(path), **band)})

    return make


def test_a_table_beside_the_recipe_is_found_and_a_missing_one_is_named(tmp_path):
    (tmp_path / "table.jsonl").write_text(HEADER + '{"id": "a", "rollouts": 2, "right": 1, "tokens": 20.0}\n')
    path = tmp_path / "mine.yaml"
    path.write_text("extends: recipes/tiny/dler.yaml\noutput: out\ndifficulty: {table: table.jsonl}\n")
    assert references(load_recipe(path).recipe) == {"a": TABLE["a"]}
    with pytest.raises(RecipeError, match=r"command line: difficulty.table: no file tble.jsonl; reason-rl difficulty"):
        load_recipe(path, ["difficulty.table=tble.jsonl"])


def test_rows_become_a_table():
    assert table_of(ROWS) == TABLE
    assert TABLE["a"].pass_rate == 0.5


def test_what_is_measured_is_sampled_as_in_training_and_read_back(tmp_path, monkeypatch):
    asked = []

    def evaluate(recipe, folder, out, on_progress):
        asked.append((recipe.eval, folder, out))
        return ROWS

    monkeypatch.setattr(difficulty, "evaluate", evaluate)
    recipe = load_recipe("tiny/laser").recipe
    out = tmp_path / "deep" / "table.jsonl"
    assert measure_difficulty(recipe, out, samples=2, limit=9) == read_table(out) == TABLE
    section, folder, rows = asked[0]
    assert (section.data, section.samples, section.limit) == (recipe.data, 2, 9)
    assert (section.max_tokens, section.temperature) == (recipe.algorithm.budget.tokens, recipe.rollout.temperature)
    assert (folder, rows.name) == (None, "table.rows.jsonl")
    header = json.loads(out.read_text().splitlines()[0])
    assert (header["model"], header["samples"], header["max_tokens"]) == ("tiny-reasoner", 2, 192)


def test_a_recipe_that_trains_nothing_has_no_difficulty(tmp_path):
    with pytest.raises(RecipeError, match="task pretrain: has no training problems"):
        measure_difficulty(load_recipe("tiny/pretrain").recipe, tmp_path / "t.jsonl", samples=1)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("{}\n", r":1: .*no header"),
        (HEADER + "not json\n", r":2: not a row"),
        (HEADER + '{"id": "a", "rollouts": 2, "right": 3, "tokens": 9}\n', r":2: .*3 of 2 rollouts right"),
        (HEADER + '{"id": "a", "rollouts": 2, "tokens": 9}\n', r":2: .*right"),
        (HEADER + '{"rollouts": 2, "right": 1, "tokens": 9}\n', r":2: .*id"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, lines, message):
    path = tmp_path / "table.jsonl"
    path.write_text(lines)
    with pytest.raises(RecipeError, match=message):
        read_table(path)


def test_a_band_keeps_what_is_in_it(with_table):
    lines = HEADER + "".join(
        json.dumps({"id": name, "rollouts": 4, "right": right, "tokens": 9}) + "\n"
        for name, right in (("a", 0), ("b", 2), ("c", 4))
    )
    assert list(references(with_table(lines))) == ["a", "b", "c"]
    assert list(references(with_table(lines, low=0.1, high=0.9))) == ["b"]
    with pytest.raises(RecipeError, match=r"no problem of .* from 0\.6 to 0\.9"):
        references(with_table(lines, low=0.6, high=0.9))
    assert references(load_recipe("tiny/dler").recipe) is None


def test_training_takes_the_problems_of_the_table_only(with_table, capsys):
    from reason_rl.trainer.train import training_problems

    names = [problem.id for problem in load_problems(load_recipe("tiny/dler", ["data.count=40"]).recipe.data)]
    rows = [json.dumps({"id": name, "rollouts": 4, "right": 2, "tokens": 9}) + "\n" for name in names[:7]]
    assert [problem.id for problem in training_problems(with_table(HEADER + "".join(rows)))] == names[:7]
    assert "7 of 40 training problems are in the difficulty table" in capsys.readouterr().err
    other = HEADER + '{"id": "x", "rollouts": 4, "right": 2, "tokens": 9}\n'
    with pytest.raises(RecipeError, match="knows none of the training problems"):
        training_problems(with_table(other))


def test_the_table_that_ships_knows_the_problems_of_its_recipes():
    table = read_table(Path(content_roots()[-1]) / "eval" / "difficulty" / "tiny.jsonl")
    assert all(entry.rollouts == 4 for entry in table.values())
    assert 0.6 < sum(entry.pass_rate for entry in table.values()) / len(table) < 0.95
    for name in ("o1_pruner", "cures"):
        recipe = load_recipe(f"tiny/{name}").recipe
        known = [problem for problem in load_problems(recipe.data) if problem.id in table]
        assert len(known) == len(table)
        small = load_problems(smoke(recipe).data)
        assert len([problem for problem in small if problem.id in table]) >= 32
