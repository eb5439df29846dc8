import numpy as np
import pytest

from reason_rl.errors import RecipeError, RunError
from reason_rl.evaluate.metrics import summarise
from reason_rl.evaluate.records import EvalRow, EvalRows, read_rows, write_rows
from reason_rl.evaluate.statistics import estimate, paired_summary

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
    # Two problems: the resampled differences are -35, -37.5 and -40.
    assert (tokens["difference"]["low"], tokens["difference"]["high"]) == (-40.0, -35.0)
    assert summary["token_cut"]["mean"] == 0.5
    assert summary["metrics"]["share_cut"]["before"]["mean"] == 0.25
    assert summary["problems"] == 2
    assert summary["samples"] == 2
    assert not summary["accuracy_held"]


def test_a_model_against_itself_differs_by_nothing():
    summary = paired_summary(BEFORE, BEFORE, resamples=100)
    for metric in summary["metrics"].values():
        assert metric["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert summary["token_cut"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert summary["accuracy_held"]


def test_levels_and_right_and_wrong():
    summary = summarise(BEFORE.rows)
    assert summary["levels"]["1"]["accuracy"] == 0.5
    assert summary["levels"]["2"]["completion_tokens"] == 100.0
    assert summary["wrong"]["completion_tokens"] == 60.0
    assert summary["median_completion_tokens"] == 80.0


def test_what_is_no_pair_is_refused():
    other = EvalRows({**HEADER, "max_tokens": 50}, AFTER.rows)
    with pytest.raises(RecipeError, match="max_tokens is 100 before and 50 after"):
        paired_summary(BEFORE, other)
    with pytest.raises(RecipeError, match="1 samples are on one side only"):
        paired_summary(BEFORE, EvalRows(HEADER, AFTER.rows[:-1]))


def test_intervals_cover_the_truth_as_often_as_they_say():
    """100 problems x 4 samples, paired and correlated: about 95 % of 400 intervals hold the true difference."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, 100, size=(400, 100), dtype=np.int32)
    covered, width = 0, []
    for _ in range(400):
        ability = rng.beta(2, 2, 100)
        before = rng.binomial(4, ability) / 4
        after = rng.binomial(4, np.clip(ability + 0.05, 0, 1)) / 4
        truth = np.mean(np.clip(ability + 0.05, 0, 1) - ability)
        interval = estimate(after - before, draws)
        covered += interval["low"] <= truth <= interval["high"]
        width.append(interval["high"] - interval["low"])
        unpaired = np.hypot(after.std(ddof=1), before.std(ddof=1)) / 10 * 2 * 1.96
        assert interval["high"] - interval["low"] < unpaired
    assert 0.92 < covered / 400 < 0.98


def test_rows_survive_their_file(tmp_path):
    path = tmp_path / "eval" / "rows.jsonl"
    write_rows(path, HEADER, BEFORE.rows)
    again = read_rows(path)
    assert again.rows == BEFORE.rows
    assert again.header == HEADER
    path.write_text(path.read_text() + '{"problem_id": "x"}\n')
    with pytest.raises(RunError, match=r"rows.jsonl:6: not an evaluation row"):
        read_rows(path)
    with pytest.raises(RunError, match="no such evaluation"):
        read_rows(tmp_path / "none.jsonl")


def test_order_of_rows_does_not_matter():
    shuffled = EvalRows(HEADER, tuple(reversed(AFTER.rows)))
    assert paired_summary(BEFORE, shuffled, resamples=50) == paired_summary(BEFORE, AFTER, resamples=50)
