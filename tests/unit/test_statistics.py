import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.errors import RecipeError, RunError
from reason_rl.evaluate.metrics import METRICS, summarise
from reason_rl.evaluate.records import EvalRow, EvalRows, read_rows, write_rows
from reason_rl.evaluate.statistics import compare, interval, paired_summary

HEADER = {"model": "m", "max_tokens": 100, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 1, "samples": 2}


def row(problem, sample, correct, tokens, level=1, reason="stop"):
    return EvalRow(
        problem_id=problem,
        level=level,
        family=None,
        sample=sample,
        seed=0,
        prompt="q",
        completion="c",
        answer="1",
        extracted="1",
        correct=correct,
        completion_tokens=tokens,
        think_tokens=tokens - 2,
        answer_tokens=2,
        finish_reason=reason,
    )


BEFORE = EvalRows(
    HEADER,
    (row("a", 0, True, 40), row("a", 1, False, 60), row("b", 0, True, 100, 2), row("b", 1, True, 100, 2, "length")),
)
AFTER = EvalRows(
    HEADER,
    (row("a", 0, True, 10), row("a", 1, True, 20), row("b", 0, True, 50, 2), row("b", 1, False, 70, 2)),
)


def test_means_by_hand():
    summary = paired_summary(BEFORE, AFTER, resamples=200)
    accuracy, tokens = summary["metrics"]["accuracy"], summary["metrics"]["completion_tokens"]
    assert (accuracy["before"]["mean"], accuracy["after"]["mean"]) == (0.75, 0.75)
    assert (tokens["before"]["mean"], tokens["after"]["mean"]) == (75.0, 37.5)
    assert tokens["difference"]["mean"] == -37.5
    # Two problems: the resampled differences are -35, -37.5 and -40, the ratios 15/50, 37.5/75 and 60/100.
    assert (tokens["difference"]["low"], tokens["difference"]["high"]) == (-40.0, -35.0)
    assert summary["token_cut"] == pytest.approx({"mean": 0.5, "low": 0.4, "high": 0.7})
    assert summary["think_token_cut"]["mean"] == pytest.approx(1 - 35.5 / 73)
    assert summary["metrics"]["answer_tokens"]["difference"]["mean"] == 0.0
    assert summary["metrics"]["share_cut"]["before"]["mean"] == 0.25
    assert (summary["problems"], summary["samples"]) == (2, 2)
    assert summary["sampling"] == {"max_tokens": 100, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 1}
    assert summary["metrics"]["accuracy"]["difference"]["low"] == -0.5
    assert not summary["accuracy_held"]


def test_levels_by_hand():
    levels = paired_summary(BEFORE, AFTER, resamples=50)["levels"]
    assert list(levels) == ["1", "2"]
    assert levels["1"]["problems"] == 1
    assert levels["1"]["metrics"]["accuracy"]["difference"] == {"mean": 0.5, "low": None, "high": None}
    assert levels["2"]["metrics"]["completion_tokens"]["after"]["mean"] == 60.0
    assert levels["2"]["token_cut"]["mean"] == pytest.approx(0.4)


def test_the_summary_is_plain_json():
    summary = paired_summary(BEFORE, AFTER, resamples=50)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_a_model_against_itself_differs_by_nothing():
    summary = paired_summary(BEFORE, BEFORE, resamples=100)
    for metric in summary["metrics"].values():
        assert metric["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert summary["token_cut"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert summary["accuracy_held"]


@pytest.mark.parametrize(("loss", "held"), [(0.0, True), (0.003, True), (0.005, False), (0.02, False)])
def test_accuracy_is_held_by_the_intervals_lower_end_not_by_the_mean(loss, held):
    """At a loss of 5 in 1000 the mean is above the margin of -0.01 and the interval, about 5 +- 5, is not."""
    problems = 1000
    after = [row(f"p{i}", 0, i >= loss * problems, 10) for i in range(problems)]
    before = [dataclasses.replace(r, correct=True) for r in after]
    summary = paired_summary(EvalRows(HEADER, tuple(before)), EvalRows(HEADER, tuple(after)), resamples=2000)
    assert summary["metrics"]["accuracy"]["difference"]["mean"] == pytest.approx(-loss)
    assert summary["accuracy_held"] is held


def test_no_think_tokens_before_means_no_cut_of_them():
    sides = [
        EvalRows(HEADER, tuple(dataclasses.replace(r, think_tokens=0) for r in side.rows)) for side in (BEFORE, AFTER)
    ]
    assert paired_summary(*sides, resamples=20)["think_token_cut"] == {"mean": None, "low": None, "high": None}


def test_right_and_wrong_and_levels_apart():
    summary = summarise(BEFORE.rows)
    assert (summary["accuracy"], summary["share_cut"], summary["answer_tokens"]) == (0.75, 0.25, 2.0)
    assert (summary["median_completion_tokens"], summary["median_think_tokens"]) == (80.0, 78.0)
    assert summary["p90_completion_tokens"] == 100.0
    assert summary["levels"]["1"]["accuracy"] == 0.5
    assert summary["levels"]["2"]["completion_tokens"] == 100.0
    assert (summary["wrong"]["completion_tokens"], summary["wrong"]["samples"]) == (60.0, 1)
    assert summary["right"]["completion_tokens"] == 80.0
    assert summarise(AFTER.rows[:3])["wrong"] == {}
    with pytest.raises(RunError, match="no rows"):
        summarise([])


def refused(message, after, before=BEFORE):
    with pytest.raises(RecipeError, match=message):
        paired_summary(before, after)


def test_what_is_no_pair_is_refused():
    rows = AFTER.rows
    refused("max_tokens is 100 before and 50 after", EvalRows({**HEADER, "max_tokens": 50}, rows))
    refused(r"after has 2 samples of problem a and 1 of b", EvalRows(HEADER, rows[:-1]))
    refused(r"2 samples .* first is sample 0 of problem b \(before\)", EvalRows(HEADER, rows[:2]))
    other = EvalRows(HEADER, (*rows[:2], dataclasses.replace(rows[2], sample=5), rows[3]))
    refused(r"2 samples .* first is sample 0 of problem b \(before\)", other)
    refused("after has sample 0 of problem a more than once", EvalRows(HEADER, (*rows, rows[0])))
    gold = tuple(dataclasses.replace(r, answer="2") for r in rows)
    refused("the answer of problem a is 1 before and 2 after", EvalRows(HEADER, gold))
    text = tuple(dataclasses.replace(r, prompt="Another?") for r in rows)
    refused(r"the text of problem a is another after \(and of 1 more\)", EvalRows(HEADER, text))
    refused("after has no rows", EvalRows(HEADER, ()))


@pytest.mark.parametrize(
    ("key", "value"), [("prompt", {"template": "{problem} Be brief."}), ("verify", "exact"), ("find", "response")]
)
def test_what_was_asked_or_graded_otherwise_is_refused(key, value):
    header = {**HEADER, "prompt": {"template": "{problem}"}, "verify": "math", "find": "box"}
    before, after = EvalRows(header, BEFORE.rows), EvalRows({**header, key: value}, AFTER.rows)
    refused(f"{key} is .* before and .* after", after, before)
    assert len(paired_summary(before, after, resamples=20, allow_different=True)["differences"]) == 1


@pytest.mark.parametrize(("key", "value"), [("stop", "no_thinking"), ("engine", "openai")])
def test_how_thinking_ends_and_the_engine_are_named_and_not_refused(key, value):
    header = {**HEADER, "stop": None, "engine": "hf"}
    summary = paired_summary(EvalRows(header, BEFORE.rows), EvalRows({**header, key: value}, AFTER.rows), resamples=20)
    assert summary["differences"] == [f"{key} is {header[key]} before and {value} after"]


def test_prompts_sent_otherwise_by_the_same_engine_are_named():
    before, after = (
        EvalRows(HEADER, tuple(dataclasses.replace(r, prompt_hash=sent) for r in side.rows))
        for side, sent in ((BEFORE, "aa"), (AFTER, "bb"))
    )
    (named,) = paired_summary(before, after, resamples=20)["differences"]
    assert named.startswith("the prompt of problem a as sent is another after")
    served = EvalRows({**HEADER, "engine": "openai"}, after.rows)
    assert paired_summary(before, served, resamples=20)["differences"] == ["engine is None before and openai after"]


def test_the_tails_are_those_of_hesterberg():
    # Five problems: t(4) = 2.7764, times sqrt(5/4) = 3.1042, Phi(-3.1042) = 0.000954.
    grid = np.linspace(0.0, 1.0, 1_000_001)
    assert interval(grid, 5) == pytest.approx((0.000954, 0.999046), abs=2e-6)
    assert interval(grid, 1_000_000) == pytest.approx((0.025, 0.975), abs=1e-5)


def simulated(rng, problems, samples=4):
    """Return per-problem means of two correlated models: half the tokens, some accuracy gained on each problem."""
    ability = rng.beta(4, 2, problems)
    tables = np.zeros((2, problems, len(METRICS)))
    for table, gain, tokens, spread in ((tables[0], 0.0, 60, 0.5), (tables[1], 0.05, 30, 0.3)):
        table[:, 0] = rng.binomial(samples, np.minimum(ability + gain, 1)) / samples
        typical = tokens * (1.5 - ability) * rng.lognormal(0, spread, problems)
        table[:, 1:4] = (typical[:, None] * rng.gamma(4, 0.25, (problems, samples))).mean(axis=1)[:, None]
    return tables


@pytest.mark.parametrize("problems", [15, 100])
def test_intervals_cover_the_truth_as_often_as_they_say(problems):
    """Experiments of new problems and new samples: 95 % of the paired intervals hold the true values.

    1,500 of them: the standard error of the share is then 0.56 points, and the band of 2 points is 3.5 of those.
    """
    experiments = 1500
    rng = np.random.default_rng(0)
    ability = rng.beta(4, 2, 2_000_000)
    true_gain = float(np.mean(np.minimum(ability + 0.05, 1) - ability))
    true_cut = 1 - 30 * np.exp(0.3**2 / 2) / (60 * np.exp(0.5**2 / 2))
    covered, narrower = np.zeros(2), 0
    for i in range(experiments):
        before, after = simulated(rng, problems)
        result = compare(before, after, 500, i)
        accuracy, saved = result["metrics"]["accuracy"], result["token_cut"]
        gain = accuracy["difference"]
        covered += [gain["low"] <= true_gain <= gain["high"], saved["low"] <= true_cut <= saved["high"]]
        unpaired = np.hypot(*(accuracy[side]["high"] - accuracy[side]["low"] for side in ("before", "after")))
        narrower += gain["high"] - gain["low"] < unpaired
    assert np.all(covered / experiments > 0.93)
    assert np.all(covered / experiments < 0.97)
    assert narrower / experiments > 0.9


def test_samples_of_a_problem_are_no_independent_evidence():
    """Writing every sample down four times must not make an interval shorter."""
    rng = np.random.default_rng(1)
    flags = rng.random(60) < 0.7
    once = EvalRows(HEADER, tuple(row(f"p{i}", 0, bool(flag), 10) for i, flag in enumerate(flags)))
    often = EvalRows(HEADER, tuple(row(f"p{i}", s, bool(flag), 10) for i, flag in enumerate(flags) for s in range(4)))
    one, four = (paired_summary(side, side, resamples=500)["metrics"]["accuracy"]["before"] for side in (once, often))
    assert one == pytest.approx(four)


@given(st.permutations(range(4)))
def test_order_of_rows_does_not_matter(order):
    shuffled = EvalRows(HEADER, tuple(AFTER.rows[i] for i in order))
    assert paired_summary(BEFORE, shuffled, resamples=20) == paired_summary(BEFORE, AFTER, resamples=20)


def test_rows_survive_their_file(tmp_path):
    path = tmp_path / "eval" / "rows.jsonl"
    rows = (*BEFORE.rows, dataclasses.replace(BEFORE.rows[0], completion="a\u2028b\x85c\nd \ud800", level=None))
    write_rows(path, HEADER, rows)
    again = read_rows(path)
    assert again.rows == rows
    assert again.header == HEADER
    assert [p.name for p in path.parent.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"header": true}\n', "1: the header row lacks model, max_tokens"),
        ('{"problem_id": "x"}\n', "1: the first line is no header row"),
        (json.dumps({"header": True, **HEADER}) + '\n{"problem_id": "x"}\n', "2: not an evaluation row"),
        (json.dumps({"header": True, **HEADER}) + '\n{"problem', "2: not an evaluation row"),
        (json.dumps({"header": True, **HEADER}) + "\n7\n", "2: not an evaluation row"),
        ("", "1: not an evaluation row"),
    ],
)
def test_an_unreadable_row_is_named(tmp_path, text, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(RunError, match=f"rows.jsonl:{message}"):
        read_rows(path)
    with pytest.raises(RunError, match="no such evaluation"):
        read_rows(tmp_path / "none.jsonl")
