"""`compare`: what it prints, what it refuses, and what it says when told to go on."""

import dataclasses
import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from reason_rl import cli
from reason_rl.errors import RecipeError
from reason_rl.evaluate.comparison import comparison
from reason_rl.evaluate.records import EvalRow, EvalRows, write_rows
from reason_rl.report.comparison import comparison_table

HEADER = {"model": "m", "max_tokens": 400, "temperature": 0.6, "top_p": 0.95, "top_k": 0, "seed": 1, "samples": 2}
CONFIG = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 100,
}


def rows(scale, seed, problems=30, samples=2):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(problems):
        for sample in range(samples):
            tokens = min(400, int(scale * (50 + 10 * i) * rng.uniform(0.7, 1.3)))
            right = bool(rng.random() < 0.95 - 0.02 * i) and tokens < 400
            made.append(
                EvalRow(
                    problem_id=f"p{i:02}",
                    level=None,
                    family=None,
                    sample=sample,
                    seed=0,
                    prompt="q",
                    completion="Wait. </think> 1" if sample else "so </think> 1",
                    answer="1",
                    extracted="1" if right else "2",
                    correct=right,
                    completion_tokens=tokens,
                    think_tokens=tokens - 5,
                    answer_tokens=5,
                    finish_reason="length" if tokens == 400 else "stop",
                )
            )
    return EvalRows(HEADER, tuple(made))


START, SHORT, LONG = rows(1.0, 0), rows(0.5, 1), rows(1.2, 2)


@pytest.fixture
def files(tmp_path):
    paths = {}
    for name, side in {"start": START, "short": SHORT, "long": LONG}.items():
        paths[name] = tmp_path / f"{name}.jsonl"
        write_rows(paths[name], side.header, side.rows)
    return paths


def run_cli(capsys, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["reason-rl", "compare", *map(str, arguments)])
    try:
        cli.main()
        code = 0
    except SystemExit as error:
        code = error.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_numbers_agree_with_each_other():
    result = comparison(START, {"short": SHORT, "long": LONG}, resamples=200, dollars_per_million_tokens=2.0)
    short, long = result["runs"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    for side, rows_of in (("start", START), ("run", SHORT)):
        tokens, right = (sum(getattr(row, key) for row in rows_of.rows) for key in ("completion_tokens", "correct"))
        assert short[side]["tokens_per_pass"] == pytest.approx(tokens / right)
        assert short[side]["dollars_per_pass"] == pytest.approx(2e-6 * tokens / right)
        assert short[side]["reflection"]["share"] == 0.5
        assert short[side]["average_at_k"]["mean"] == pytest.approx(right / 60)
        assert short[side]["pass_at_k"]["mean"] >= short[side]["average_at_k"]["mean"]
    saved = short["token_cut"]["mean"]
    gain = short["run"]["average_at_k"]["mean"] / short["start"]["average_at_k"]["mean"] - 1
    assert short["trade"]["aes"]["mean"] == pytest.approx(saved + (3 if gain > 0 else 5) * gain)
    assert 0.3 < saved < 0.7
    assert 0.3 < short["trade"]["matched_saving"]["0.95"]["mean"] < 0.7
    assert short["metrics"]["accuracy"]["difference"]["mean"] == pytest.approx(
        short["trade"]["noninferiority"]["difference"]
    )
    assert short["trade"]["p_value"] <= short["trade"]["p_value_holm"] <= 1
    assert long["token_cut"]["mean"] < 0
    assert result["pareto"]["frontier"][0] == "short"
    solved = {row.problem_id for side in (START, SHORT, LONG) for row in side.rows if row.correct}
    assert result["pareto"]["solved_by_none"] == pytest.approx(1 - len(solved) / 30)
    assert (result["pareto"]["frontier_tokens_per_pass"] is None) == (len(solved) < 30)


def test_what_rows_say_of_thinking():
    start, run = (comparison(START, {"short": SHORT}, resamples=50)["runs"][0][side] for side in ("start", "run"))
    budget = np.mean([row.completion_tokens for row in START.rows])
    for side, rows_of in ((start, START), (run, SHORT)):
        right = side["thinking"]["pass_at_tokens"]
        assert right["budget_tokens"] == pytest.approx(budget)
        assert 0 < right["mean"] <= side["pass_at_k"]["mean"]
        area = np.mean([row.correct * max(0, 1 - (row.think_tokens + 1) / 400) for row in rows_of.rows])
        assert side["thinking"]["overthinking_area"] == pytest.approx(area)
    assert run["thinking"]["pass_at_tokens"]["mean"] > start["thinking"]["pass_at_tokens"]["mean"]


def test_a_run_against_itself_saves_nothing():
    entry = comparison(START, {"same": START}, resamples=100)["runs"][0]
    assert entry["trade"]["aes"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert entry["trade"]["matched_saving"]["1.0"]["mean"] == 0
    assert entry["trade"]["p_value"] == 1
    assert entry["differences"] == []


def test_the_price_may_come_with_the_rows():
    priced = dataclasses.replace(SHORT, header={**HEADER, "dollars_per_million_tokens": 3.0})
    entry = comparison(START, {"priced": priced}, resamples=50)["runs"][0]
    assert entry["start"]["dollars_per_pass"] is None
    assert entry["run"]["dollars_per_pass"] == pytest.approx(3e-6 * entry["run"]["tokens_per_pass"])


def test_a_model_that_is_never_right_has_dashes_for_what_does_not_exist():
    wrong = EvalRows(HEADER, tuple(dataclasses.replace(row, correct=False) for row in START.rows))
    result = comparison(wrong, {"start": START}, resamples=50)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(comparison_table(result))
    assert result["runs"][0]["trade"]["aes"]["mean"] is None
    assert result["runs"][0]["start"]["never_solved"] == 1
    line = next(line for line in console.export_text().splitlines() if "tokens a right answer" in line)
    assert "\N{EN DASH}" in line


def test_the_table_has_a_column_a_model_and_says_how_it_was_made(files, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    code, out, _ = run_cli(capsys, monkeypatch, files["start"], files["short"], files["long"])
    assert code == 0
    lines = out.splitlines()
    head = next(line for line in lines if "start" in line)
    assert [cell.strip() for cell in head.strip("┃").split("┃")] == ["", "start", "short", "long"]
    for label in (
        "accuracy, avg@2",
        "pass@2",
        "maj@2",
        "completion tokens",
        "AES",
        "E3",
        "overthinking area",
        "on the Pareto frontier",
    ):
        assert any(label in line for line in lines), label
    assert "cap 400 tokens" in " ".join(out.split())
    assert "NOT THE SAME" not in out


def test_json_of_one_run_is_a_summary_and_of_several_a_list(files, capsys, monkeypatch):
    _, out, _ = run_cli(capsys, monkeypatch, files["start"], files["short"], "--json")
    assert {"metrics", "levels", "token_cut", "accuracy_margin", "trade", "pareto"} <= json.loads(out).keys()
    _, out, _ = run_cli(capsys, monkeypatch, files["start"], files["short"], files["long"], "--json")
    assert [entry["name"] for entry in json.loads(out)["runs"]] == ["short", "long"]


def changed(tmp_path, **header):
    path = tmp_path / "other.jsonl"
    write_rows(path, {**HEADER, **header}, SHORT.rows)
    return path


def test_everything_that_differs_is_said_at_once(files, capsys, monkeypatch, tmp_path):
    path = changed(tmp_path, max_tokens=800, temperature=1.0)
    code, out, err = run_cli(capsys, monkeypatch, files["start"], path)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    for phrase in ("max_tokens is 400 before and 800 after", "temperature is 0.6 before and 1.0", "--allow-different"):
        assert phrase in err


def test_told_to_go_on_it_compares_and_says_so(files, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "140")
    path = changed(tmp_path, max_tokens=800)
    code, out, _ = run_cli(capsys, monkeypatch, files["start"], path, "--allow-different")
    assert code == 0
    assert "NOT THE SAME CONDITIONS: other: max_tokens is 400 before and 800 after" in " ".join(out.split())


def test_another_way_of_stopping_is_compared_and_named(files, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "140")
    path = changed(tmp_path, stop="no_thinking")
    code, out, _ = run_cli(capsys, monkeypatch, files["start"], path)
    assert code == 0
    assert "NOT THE SAME CONDITIONS: other: stop is None before and no_thinking after" in " ".join(out.split())
    _, out, _ = run_cli(capsys, monkeypatch, files["start"], path, "--json")
    assert json.loads(out)["differences"] == ["stop is None before and no_thinking after"]


def test_problems_of_another_text_are_left_out_when_told_to_go_on():
    texts = tuple(dataclasses.replace(r, prompt="other") if r.problem_id == "p03" else r for r in SHORT.rows)
    with pytest.raises(RecipeError, match="the text of problem p03 is another after"):
        comparison(START, {"other": EvalRows(HEADER, texts)})
    result = comparison(START, {"other": EvalRows(HEADER, texts)}, allow_different=True, resamples=50)
    assert result["runs"][0]["problems"] == 29


def test_other_problems_and_samples_are_reduced_to_what_is_common():
    fewer = EvalRows(HEADER, tuple(row for row in SHORT.rows if row.problem_id < "p20" and row.sample == 0))
    with pytest.raises(RecipeError, match="40 samples are on one side only"):
        comparison(START, {"fewer": fewer})
    result = comparison(START, {"fewer": fewer, "long": LONG}, allow_different=True, resamples=50)
    assert [entry["problems"] for entry in result["runs"]] == [20, 20]
    assert result["runs"][1]["differences"] == []
    other = tuple(dataclasses.replace(row, problem_id="x" + row.problem_id) for row in SHORT.rows)
    with pytest.raises(RecipeError, match="no problem is on both sides"):
        comparison(START, {"other": EvalRows(HEADER, other)}, allow_different=True)


def test_problems_whose_gold_answer_changed_are_left_out_when_told_to_go_on():
    rows_of = tuple(dataclasses.replace(r, answer="7") if r.problem_id == "p03" else r for r in SHORT.rows)
    with pytest.raises(RecipeError, match=r"the answer of problem p03 is 1 before and 7 after \(and 1 more"):
        comparison(START, {"other": EvalRows(HEADER, rows_of)})
    result = comparison(START, {"other": EvalRows(HEADER, rows_of)}, allow_different=True, resamples=50)
    assert result["runs"][0]["problems"] == 29


def test_the_ideal_cost_comes_with_a_configuration(files, capsys, monkeypatch, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG))
    _, out, _ = run_cli(capsys, monkeypatch, files["start"], files["short"], "--json", "--model-config", config)
    cost = json.loads(out)["ideal_cost"]
    assert cost["flops"]["start"] > cost["flops"]["run"]
    assert 0.2 < cost["seconds_batch_64"]["saved"] < 0.8
    monkeypatch.setenv("COLUMNS", "140")
    _, out, _ = run_cli(capsys, monkeypatch, files["start"], files["short"], "--model-config", tmp_path)
    assert "ideal seconds, batch 64" in out
    config.write_text("{}")
    code, _, err = run_cli(capsys, monkeypatch, files["start"], files["short"], "--model-config", tmp_path)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "lacks 'num_attention_heads'" in err


def test_the_ideal_cost_and_the_page_are_of_the_common_problems(files, capsys, monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    half = EvalRows(HEADER, tuple(row for row in START.rows if row.problem_id < "p15"))
    write_rows(tmp_path / "half.jsonl", half.header, half.rows)
    page = tmp_path / "page.html"
    asked = ["--allow-different", "--json", "--model-config", tmp_path, "--html", page]
    _, out, _ = run_cli(capsys, monkeypatch, files["start"], tmp_path / "half.jsonl", *asked)
    cost = json.loads(out)["ideal_cost"]
    assert [cost[name]["saved"] for name in ("flops", "seconds_batch_1", "seconds_batch_64")] == [0.0, 0.0, 0.0]
    write_rows(files["start"], half.header, half.rows)
    alone = page.read_text()
    run_cli(capsys, monkeypatch, files["start"], tmp_path / "half.jsonl", *asked)
    drawn = [re.findall(r"<svg.*?</svg>", text, re.DOTALL) for text in (alone, page.read_text())]
    assert drawn[0] == drawn[1] != []


@pytest.mark.parametrize(("name", "message"), [("none.jsonl", "no such evaluation"), ("twice", "given more than once")])
def test_files_that_cannot_be_compared_are_one_line(files, capsys, monkeypatch, tmp_path, name, message):
    runs = [files["short"]] * 2 if name == "twice" else [tmp_path / name]
    code, _, err = run_cli(capsys, monkeypatch, files["start"], *runs)
    assert (code != 0, len(err.splitlines())) == (True, 1)
    assert message in err
