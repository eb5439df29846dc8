"""Token savings: paired, at matched accuracy, over sets; and lengths by verdict and difficulty."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.evaluate.anytime import cap_curve, cap_grid
from reason_rl.evaluate.savings import Curve, matched_saving, paired_saving, saving_at, tokens_at
from reason_rl.evaluate.tokens import by_difficulty, cut_over_sets, length_gap

BASE = Curve(np.array([1000.0, 2000, 4000, 8000]), np.array([0.30, 0.45, 0.55, 0.60]))
NEW = Curve(np.array([500.0, 1000, 2000, 4000]), np.array([0.32, 0.46, 0.56, 0.61]))


@pytest.mark.parametrize(
    ("accuracy", "before", "after", "saved"), [(0.45, 2000, 952, 0.524), (0.55, 4000, 1866, 0.533)]
)
def test_saving_at_matched_accuracy_of_the_worked_example(accuracy, before, after, saved):
    assert round(float(tokens_at(BASE, accuracy))) == before
    assert round(float(tokens_at(NEW, accuracy))) == after
    assert round(float(saving_at(BASE, NEW, accuracy)), 3) == saved


@given(st.floats(0.32, 0.60))
def test_saving_is_nought_against_itself_and_antisymmetric_in_log(accuracy):
    assert saving_at(BASE, BASE, accuracy) == 0
    forth, back = saving_at(BASE, NEW, accuracy), saving_at(NEW, BASE, accuracy)
    assert np.log(1 - forth) == pytest.approx(-np.log(1 - back))


@pytest.mark.parametrize("accuracy", [0.29, 0.31, 0.605, 0.9])
def test_nothing_is_said_outside_the_overlap_of_the_curves(accuracy):
    assert np.isnan(saving_at(BASE, NEW, accuracy))


def test_what_only_the_start_model_reaches_costs_the_other_infinitely_much():
    assert saving_at(NEW, BASE, 0.605) == -np.inf


PERCENT = st.integers(0, 100)


@given(st.lists(st.tuples(PERCENT, st.floats(1, 100)), min_size=2, max_size=8), PERCENT)
def test_many_curves_at_once_are_read_like_each_alone(points, percent):
    """Against the plain interpolation of one curve."""
    accuracies, accuracy = np.array([a for a, _ in points]) / 100, percent / 100
    curve = Curve(np.cumsum([t for _, t in points]), accuracies)
    envelope = np.maximum.accumulate(accuracies)
    knots = np.concatenate([[True], np.diff(envelope) > 0])
    plain = np.exp(np.interp(accuracy, envelope[knots], np.log(curve.tokens[knots]), left=np.nan, right=np.inf))
    assert float(tokens_at(curve, accuracy)) == pytest.approx(plain, nan_ok=True)
    many = Curve(np.stack([curve.tokens] * 3), np.stack([curve.accuracy] * 3))
    assert tokens_at(many, np.full(3, accuracy)) == pytest.approx([plain] * 3, nan_ok=True)


def test_a_curve_that_dips_is_read_by_its_running_maximum():
    dips = Curve(np.array([100.0, 200, 400, 800]), np.array([0.3, 0.5, 0.4, 0.6]))
    assert tokens_at(dips, 0.5) == pytest.approx(200)
    assert tokens_at(dips, 0.55) == pytest.approx(np.sqrt(200 * 800))


def simulated(problems, seed=0):
    rng = np.random.default_rng(seed)
    ability = rng.beta(4, 2, problems)
    correct = (rng.random((problems, 4)) < ability[:, None]).astype(float)
    tokens = np.round(200 * rng.lognormal(0, 0.5, (problems, 4)) * (1.5 - ability[:, None]))
    return correct, tokens


def test_half_the_tokens_with_the_same_verdicts_saves_half_at_every_accuracy():
    correct, tokens = simulated(200)
    caps = cap_grid(tokens, tokens / 2, points=256)
    curves = cap_curve(correct, tokens, caps), cap_curve(correct, tokens / 2, caps)
    for share in (1.0, 0.95):
        result = matched_saving(*curves, share=share, resamples=200)
        assert result["mean"] == pytest.approx(0.5, abs=0.02)
        assert result["low"] <= 0.5 <= result["high"]
    assert matched_saving(*curves, resamples=50, seed=3) == matched_saving(*curves, resamples=50, seed=3)


@pytest.mark.parametrize("samples", [3, 5])
@pytest.mark.parametrize("seed", range(10))
def test_the_very_accuracy_of_the_start_model_is_reached(samples, seed):
    # The mean of the same thirds in another order may differ in its last bit.
    rng = np.random.default_rng(seed)
    correct = (rng.random((30, samples)) < 0.7).astype(float)
    tokens = rng.integers(20, 400, correct.shape).astype(float)
    caps, order = cap_grid(tokens, tokens / 2, points=256), rng.permutation(30)
    curves = cap_curve(correct, tokens, caps), cap_curve(correct[order], tokens[order] / 2, caps)
    assert matched_saving(*curves, resamples=10)["mean"] == pytest.approx(0.5, abs=0.03)


def test_an_accuracy_that_is_not_reached_has_no_saving():
    correct, tokens = simulated(50)
    caps = cap_grid(tokens)
    worse = cap_curve(np.zeros_like(correct), tokens, caps)
    assert matched_saving(cap_curve(correct, tokens, caps), worse, resamples=10)["mean"] is None
    assert matched_saving(worse, cap_curve(correct, tokens, caps), resamples=10)["mean"] is None


def test_paired_saving_is_a_ratio_of_means_over_problems():
    before, after = np.array([[100.0, 300.0], [1000.0, 1000.0]]), np.array([[50.0], [550.0]])
    assert paired_saving(before, after, resamples=500) == pytest.approx({"mean": 0.5, "low": 0.45, "high": 0.75})
    assert paired_saving(np.zeros((2, 1)), after)["mean"] is None


def test_sets_together_both_ways():
    # Three sets: cuts of 50 %, 20 % and 0 %; the long set decides the cut of means.
    cuts = cut_over_sets([1000, 5000, 14_000], [500, 4000, 14_000])
    assert cuts == pytest.approx({"mean_of_cuts": 0.7 / 3, "cut_of_means": 0.075})
    with pytest.raises(ValueError, match="without tokens"):
        cut_over_sets([0], [1])


def test_the_gap_within_problems_is_not_the_gap_between_them():
    """Easy problem: right at 100; hard one: right at 1000, wrong at 1100. Pooled, wrong is 2.75 times as long."""
    correct, tokens = np.array([[1.0, 1, 1, 1], [1, 0, 0, 0]]), np.array([[100.0] * 4, [1000, 1100, 1100, 1100]])
    gap = length_gap(correct, tokens)
    assert gap["difference"] == pytest.approx(100)
    assert gap["ratio"] == pytest.approx(1.1)
    assert gap["pooled_ratio"] == pytest.approx(1100 / 280)
    assert gap["problems"] == 1


def test_no_gap_without_both_kinds():
    assert length_gap(np.ones((3, 2)), np.ones((3, 2))) == {
        "difference": None,
        "ratio": None,
        "pooled_ratio": None,
        "problems": 0,
    }


def test_difficulty_is_the_start_models():
    base = np.array([[0.0], [1.0], [0.0], [1.0], [1.0], [1.0], [0.0], [0.0]])
    tokens = np.arange(8.0)[:, None]
    parts = by_difficulty(base, 1 - base, tokens)
    assert [part["base_accuracy"] for part in parts] == [1, 1, 0, 0]
    assert [part["accuracy"] for part in parts] == [0, 0, 1, 1]
    assert [part["tokens"] for part in parts] == [2.0, 4.5, 1.0, 6.5]
    assert sum(part["problems"] for part in parts) == 8
