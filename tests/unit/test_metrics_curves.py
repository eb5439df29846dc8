"""Pareto frontier, hypervolume, anytime areas: worked examples, laws, Monte Carlo."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.evaluate.anytime import area_under, cap_curve, cap_grid, overthinking_area, thinking_score
from reason_rl.evaluate.pareto import frontier, hypervolume, hypervolume_estimate

POINTS = [(2000, 0.60), (3000, 0.70), (5000, 0.72), (4000, 0.65)]
REFERENCE = (8000, 0.5)
POINT = st.tuples(st.floats(100, 9000), st.floats(0.4, 1.0))


def test_frontier_and_hypervolume_of_the_worked_example():
    assert frontier(POINTS) == [0, 1, 2]
    assert hypervolume(POINTS, REFERENCE) == pytest.approx(1160)
    assert hypervolume(POINTS, REFERENCE) / (8000 * 0.5) == pytest.approx(0.29)


def test_equal_points_are_kept_once_and_worse_ones_count_nothing():
    assert frontier([(100, 0.5), (100, 0.5), (100, 0.4), (50, 0.1)]) == [3, 0]
    assert hypervolume([(9000, 0.9), (100, 0.5)], REFERENCE) == 0
    assert hypervolume([], REFERENCE) == 0
    assert hypervolume([(4000, 0.75)], REFERENCE, log_tokens=True) == pytest.approx(0.25)


@given(st.lists(POINT, max_size=8), POINT)
def test_a_point_more_never_lowers_the_volume_and_a_dominated_one_does_not_change_it(points, other):
    before, after = hypervolume(points, REFERENCE), hypervolume([*points, other], REFERENCE)
    assert after >= before - 1e-9
    dominated = any(t <= other[0] and a >= other[1] for t, a in points)
    if dominated or other[0] >= REFERENCE[0] or other[1] <= REFERENCE[1]:
        assert after == pytest.approx(before)


def test_a_point_that_nothing_dominates_raises_the_volume():
    # Between the second and the third: 1,500 tokens to the latter, 0.01 more accuracy than the former.
    assert hypervolume([*POINTS, (3500, 0.71)], REFERENCE) - hypervolume(POINTS, REFERENCE) == pytest.approx(15)


@given(st.lists(POINT, min_size=1, max_size=8))
def test_the_frontier_is_what_nothing_dominates(points):
    def dominated(i):
        t, a = points[i]
        return any(u <= t and b >= a and (u, b) != (t, a) for u, b in points)

    kept = {points[i] for i in frontier(points)}
    assert kept == {points[i] for i in range(len(points)) if not dominated(i)}


def test_the_volume_is_the_area_that_darts_find():
    rng = np.random.default_rng(0)
    darts = rng.uniform((0, 0.5), (8000, 1.0), (200_000, 2))
    hit = np.zeros(len(darts), bool)
    for tokens, accuracy in POINTS:
        hit |= (darts[:, 0] >= tokens) & (darts[:, 1] <= accuracy)
    error = 4000 * np.sqrt(hit.mean() * (1 - hit.mean()) / len(darts))
    assert abs(4000 * hit.mean() - hypervolume(POINTS, REFERENCE)) < 3 * error


def test_the_interval_of_the_volume_holds_its_value():
    rng = np.random.default_rng(0)
    tokens, accuracy = rng.uniform(500, 3000, (40, 3)), rng.random((40, 3))
    result = hypervolume_estimate(tokens, accuracy, (4000, 0.0), resamples=200)
    assert result["low"] < result["mean"] < result["high"]
    one = hypervolume_estimate(tokens[:1], accuracy[:1], (4000, 0.0), resamples=5)
    assert (one["low"], one["high"]) == (None, None)


def test_areas_of_the_worked_example():
    area = area_under([500, 1000, 2000, 4000, 8000], [0.2, 0.4, 0.55, 0.62, 0.65])
    assert [round(value, 3) for value in area] == [0.578, 0.499, 0.484]


@given(st.floats(0, 1), st.lists(st.integers(1, 10_000), min_size=2, max_size=9, unique=True))
def test_a_constant_curve_has_its_constant_as_area(accuracy, budgets):
    assert area_under(sorted(budgets), [accuracy] * len(budgets)) == pytest.approx((accuracy,) * 3)


@pytest.mark.parametrize("budgets", [[100], [100, 100], [200, 100], [0, 100]])
def test_what_has_no_area(budgets):
    with pytest.raises(ValueError, match="two or more budgets"):
        area_under(budgets, [0.5] * len(budgets))


def test_the_closed_form_of_the_overthinking_area_is_its_sum():
    think, correct = np.array([[100.0, 400, 900, 1200]]), np.array([[1.0, 1, 1, 0]])
    loop = np.mean([(correct * (think < t)).mean() for t in range(1000)])
    assert overthinking_area(correct, think) == pytest.approx(loop)
    assert overthinking_area(correct, think) == pytest.approx(0.3992, abs=1e-4)
    assert thinking_score(0.4, 0.6) == pytest.approx(0.48)
    assert thinking_score(0.0, 0.0) == 0


def test_a_lower_cap_cuts_what_is_longer_and_counts_it_as_wrong():
    correct, tokens = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[10.0, 40.0], [20.0, 30.0]])
    curve = cap_curve(correct, tokens, [10, 30, 40])
    assert curve.accuracy.tolist() == [[0.5, 0.5, 1.0], [0.0, 0.5, 0.5]]
    assert curve.tokens.tolist() == [[10, 20, 25], [10, 25, 25]]
    assert cap_grid(tokens)[[0, -1]].tolist() == [10, 40]
