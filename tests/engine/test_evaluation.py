"""Evaluations go on where they were interrupted, never sample twice, and never mix with another's rows."""

import json
import shutil
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file, save_file

from reason_rl.errors import RecipeError, RunError
from reason_rl.evaluate import run
from reason_rl.evaluate.records import part_of, read_rows, start_rows
from reason_rl.evaluate.suites import (
    EvalChanges,
    evaluate_recipe,
    evaluate_suites,
    fitted,
    is_recipe,
    row_files,
    suite_recipe,
)
from reason_rl.models import context_tokens, load_config, load_tokenizer
from reason_rl.problem.prompt import render_prompts
from reason_rl.problem.sources import load_problems
from reason_rl.recipe.load import load_recipe
from reason_rl.world import reasoner_path

SMALL = ("eval.data.count=18", "eval.samples=2", "eval.max_tokens=40", "rollout.max_batch_rows=4")


class Killed(Exception):
    """Stands for a kill."""


@pytest.fixture
def recipe():
    return load_recipe("tiny/dler", SMALL).recipe


@pytest.fixture
def counted(monkeypatch):
    """Count the rows that end, and die when the twelfth has been written while ``fatal``."""
    ended = {"rows": [], "fatal": False}
    sample = run.sample_trials

    def counting(backend, grader, trials, prompts, options, on_rows):
        def told(rows):
            on_rows(rows)
            ended["rows"] += [(row.problem_id, row.sample) for row in rows]
            if ended["fatal"] and len(ended["rows"]) >= 12:
                raise Killed

        sample(backend, grader, trials, prompts, options, told)

    monkeypatch.setattr(run, "sample_trials", counting)
    return ended


@pytest.mark.parametrize("torn", [False, True])
def test_an_interrupted_evaluation_is_the_uninterrupted_one(recipe, counted, tmp_path, torn):
    whole = run.evaluate(recipe, None, tmp_path / "whole.jsonl")
    assert len(counted["rows"]) == 36
    counted.update(rows=[], fatal=True)
    out = tmp_path / "rows.jsonl"
    with pytest.raises(Killed):
        run.evaluate(recipe, None, out)
    assert not out.exists()
    first = list(counted["rows"])
    assert 12 <= len(first) < 36
    if torn:
        lines = part_of(out).read_text().splitlines()
        part_of(out).write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:30])
    counted.update(rows=[], fatal=False)
    shown = []
    rows = run.evaluate(recipe, None, out, lambda done, total: shown.append((done, total)))
    assert rows == whole
    assert list(read_rows(out).rows) == whole
    assert not part_of(out).exists()
    assert set(first) & set(counted["rows"]) == ({first[-1]} if torn else set())
    assert len(counted["rows"]) + len(first) - torn == 36
    assert shown[0][0] >= len(first) - torn
    assert shown[-1] == (36, 36)


def test_a_row_says_why_it_counts_as_it_does(recipe, tmp_path):
    rows = run.evaluate(recipe, None, tmp_path / "rows.jsonl")
    reasons = {row.reason for row in rows}
    assert "cut at the cap" in reasons
    assert len(reasons) > 1
    for row in rows:
        assert (row.reason == "cut at the cap") == (row.finish_reason == "length")
        assert row.correct == (row.reason == "same text")


def test_a_finished_evaluation_is_not_made_again(recipe, counted, tmp_path):
    out = tmp_path / "rows.jsonl"
    first = run.evaluate(recipe, None, out)
    counted["rows"].clear()
    assert run.evaluate(recipe, None, out) == first
    assert counted["rows"] == []


def test_a_finished_file_that_was_damaged_is_mended(recipe, counted, tmp_path):
    out = tmp_path / "rows.jsonl"
    whole = run.evaluate(recipe, None, out)
    before = out.read_bytes()
    out.write_bytes(before[:-40])
    # What is whole in it can be gone on with, should the mending be interrupted and the file be deleted.
    first, *lines = before.splitlines(keepends=True)
    start_rows(out, {key: value for key, value in json.loads(first).items() if key != "header"})
    assert part_of(out).read_bytes() == b"".join([first, *lines[:-1]])
    counted["rows"].clear()
    assert run.evaluate(recipe, None, out) == whole
    assert len(counted["rows"]) == 1
    assert out.read_bytes() == before
    assert not part_of(out).exists()


def test_rows_of_another_evaluation_are_refused_and_kept(recipe, tmp_path):
    out = tmp_path / "rows.jsonl"
    run.evaluate(recipe, None, out)
    before = out.read_bytes()
    other = load_recipe("tiny/dler", [*SMALL, "eval.seed=9"]).recipe
    with pytest.raises(RunError, match=r"rows.jsonl: holds another evaluation \(seed differ"):
        run.evaluate(other, None, out)
    assert out.read_bytes() == before


def test_rows_of_other_weights_or_problems_under_the_same_names_are_refused(tmp_path):
    data, model, out = tmp_path / "data.jsonl", tmp_path / "model", tmp_path / "rows.jsonl"
    text = load_problems(load_recipe("tiny/dler", SMALL).recipe.eval.data)[0].prompt

    def write(answer):
        data.write_text(json.dumps({"problem": text, "answer": answer}) + "\n")

    write("7")
    shutil.copytree(reasoner_path(), model)
    small = [f"model.path={model}", "eval.samples=1", "eval.max_tokens=32", "eval.limit=1"]
    given = f"eval.data={{use: jsonl, path: {data}}}"
    run.evaluate(load_recipe("tiny/dler", [*small, given]).recipe, None, out)
    kept = out.read_bytes()
    write("8")
    with pytest.raises(RunError, match=r"another evaluation \(problems_sha256 differ"):
        run.evaluate(load_recipe("tiny/dler", [*small, given]).recipe, None, out)
    write("7")
    weights = load_file(model / "model.safetensors")
    save_file({name: 2 * value for name, value in weights.items()}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match=r"another evaluation \(weights differ"):
        run.evaluate(load_recipe("tiny/dler", [*small, given]).recipe, None, out)
    assert out.read_bytes() == kept


def test_a_start_that_failed_does_not_stand_in_the_way(recipe, tmp_path):
    out = tmp_path / "rows.jsonl"
    start_rows(out, {"model": "m", "url": "http://mistyped/v1"})
    assert len(run.evaluate(recipe, None, out)) == 36
    part_of(out).write_text("notes of mine\n")
    out.unlink()
    with pytest.raises(RunError, match=r"rows.jsonl.part: holds another evaluation"):
        run.evaluate(recipe, None, out)


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path):
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "reason_rl.cli", "eval", "tiny", "--model", "tiny-reasoner", "--limit", "24"]
    command += ["--samples", "2", "--cap", "96", "--batch-rows", "4", "--out", str(out)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not part_of(out).is_file() or len(part_of(out).read_text().splitlines()) < 10:
        assert first.poll() is None, first.stderr.read().decode()
        time.sleep(0.01)
    first.kill()
    first.wait()
    assert not out.exists()
    kept = [line for line in part_of(out).read_text().splitlines() if line.endswith("}")]
    assert 10 <= len(kept) < 49
    shown = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True, timeout=300).stdout
    assert set(kept) <= set(out.read_text().splitlines())  # header and rows, as they were
    rows = read_rows(out).rows
    assert len({(row.problem_id, row.sample) for row in rows}) == len(rows) == 48
    assert len({row.prompt_hash for row in rows}) == 24
    assert json.loads(shown)["rows"] == str(out)


def test_the_cap_of_a_suite_fits_the_model_and_that_is_said(tmp_path):
    said = []
    recipe = fitted(suite_recipe("smoke", "tiny-reasoner", tmp_path, EvalChanges()), said.append)
    asked = suite_recipe("smoke", "tiny-reasoner", tmp_path, EvalChanges(max_tokens=64))
    prompts = render_prompts(load_problems(recipe.eval.data), load_tokenizer(recipe.model), recipe.prompt)
    context = context_tokens(load_config(recipe.model))
    assert recipe.eval.max_tokens + max(map(len, prompts)) == context
    assert f"is lowered to {recipe.eval.max_tokens}: tiny-reasoner has a context of {context}" in said[0]
    assert fitted(asked, said.append) == asked
    assert len(said) == 1


def test_suites_and_recipes_are_told_apart(tmp_path):
    assert is_recipe("tiny/dler")
    assert is_recipe("mine.yaml")
    assert not is_recipe("gsm8k,math500")
    summary = evaluate_recipe("tiny/dler", SMALL, None, EvalChanges(limit=2, samples=1), tmp_path / "a.jsonl")
    assert summary["samples"] == 2
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])["limit"] == 2


def test_a_model_without_thinking_counts_all_as_thinking(tmp_path):
    assert suite_recipe("smoke", "tiny-reasoner", tmp_path, EvalChanges()).model.end_think_token == "</think>"
    small = evaluate_suites(["smoke"], "tiny-reasoner", None, EvalChanges(1, 8, 2), tmp_path / "b.jsonl")["smoke"]
    assert small["completion_tokens"] <= 8
    with pytest.raises(RecipeError, match="no suite smok; did you mean smoke"):
        evaluate_suites(["smoke", "smok"], "tiny-reasoner", None, EvalChanges(), None)


def test_rows_go_to_a_file_or_into_a_folder(tmp_path):
    summary = evaluate_suites(["smoke"], "tiny-reasoner", None, EvalChanges(1, 8, 2), tmp_path)["smoke"]
    assert summary["rows"] == str(tmp_path / "smoke.jsonl")
    assert len(read_rows(tmp_path / "smoke.jsonl").rows) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["smoke.jsonl"]
    recipe_rows = evaluate_recipe("tiny/dler", SMALL, None, EvalChanges(limit=1, samples=1), tmp_path)["rows"]
    assert recipe_rows == str(tmp_path / "start.jsonl")
    assert row_files(["a", "b"], tmp_path / "new", single=True)["b"] == tmp_path / "new" / "b.jsonl"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["smoke", "tiny"], "rows.jsonl is a file; several suites go to a folder"),
        (["smoke", ""], "smoke, has an empty name"),
    ],
)
def test_what_cannot_hold_the_rows_is_one_line(tmp_path, names, message):
    out = tmp_path / "rows.jsonl"
    out.write_text("")
    with pytest.raises(RecipeError, match=message):
        evaluate_suites(names, "tiny-reasoner", None, EvalChanges(1, 8, 2), out)
    with pytest.raises(RecipeError, match="two suites would write the same file"):
        row_files(["smoke", "smoke"], tmp_path, single=True)
    with pytest.raises(RunError, match=r"inner/x.jsonl: cannot be written \("):
        evaluate_suites(["smoke"], "tiny-reasoner", None, EvalChanges(1, 8, 2), out / "inner" / "x.jsonl")


@pytest.mark.parametrize(("name", "longest"), [("budget:12", 13), ("no_thinking", 1), ("strength:1e9", 40)])
def test_thinking_is_ended_as_asked_for(recipe, tmp_path, name, longest):
    stopped = load_recipe("tiny/dler", [*SMALL, f"eval.stop={name}"]).recipe
    rows = run.evaluate(stopped, None, tmp_path / "rows.jsonl")
    plain = run.evaluate(recipe, None, tmp_path / "plain.jsonl")
    assert max(row.think_tokens for row in rows) <= longest
    assert sum(row.think_tokens for row in rows) < sum(row.think_tokens for row in plain)
    assert read_rows(tmp_path / "rows.jsonl").header["stop"] == name
    assert [row.seed for row in rows] == [row.seed for row in plain]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "budget:0",
            "eval: budget:0 is no way of stopping; there are strength:X, budget:TOKENS, no_thinking, probe:FOLDER",
        ),
        ("strength:-1", "eval.stop strength:-1: strength -1.0 is not above 0"),
        ("probe:nowhere", "nowhere/probe.json: no such file"),
    ],
)
def test_ways_of_stopping_that_are_none_are_refused(tmp_path, name, message):
    changes = EvalChanges(limit=1, samples=1, max_tokens=16, stop=name)
    with pytest.raises(RecipeError, match=message):
        evaluate_suites(["tiny"], "tiny-reasoner", None, changes, tmp_path / "rows.jsonl")


def test_a_model_without_a_chat_template_is_one_clear_line(tmp_path):
    from reason_rl.models import resolve_model
    from reason_rl.world.tokenizer import build_tokenizer

    shutil.copytree(resolve_model("tiny-reasoner"), tmp_path / "model")
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    for file in (tmp_path / "model").glob("*chat_template*"):
        file.unlink()
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(RecipeError, match="no chat template; use an instruction-tuned model"):
        evaluate_suites(["smoke"], str(tmp_path / "model"), None, EvalChanges(limit=1), tmp_path / "rows.jsonl")
