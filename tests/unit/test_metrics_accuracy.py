"""avg@k, pass@k, maj@k: worked examples, brute force, and what must never happen."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.evaluate.accuracy import average_at_k, majority_at_k, pass_at_k, pass_at_tokens
from reason_rl.evaluate.estimate import estimate, share_estimate, t_estimate

VERDICTS = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=8)


def test_pass_at_k_of_the_worked_example():
    correct = np.array([[1.0] * 4 + [0.0] * 12])
    assert [round(float(pass_at_k(correct, k)[0]), 4) for k in (1, 4, 8)] == [0.25, 0.728, 0.9615]


@given(VERDICTS, st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(verdicts, data):
    k = data.draw(st.integers(1, len(verdicts)))
    subsets = [any(subset) for subset in combinations(verdicts, k)]
    assert pass_at_k(np.array([verdicts]), k)[0] == pytest.approx(np.mean(subsets))


def test_pass_at_1_is_the_mean_and_pass_at_n_is_any():
    correct = np.array([[1.0, 0, 0], [0, 0, 0], [1, 1, 1]])
    assert pass_at_k(correct, 1) == pytest.approx(correct.mean(axis=1))
    assert pass_at_k(correct, 3).tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="pass@4 cannot be had from 3 samples"):
        pass_at_k(correct, 4)


def test_pass_at_k_of_many_samples_does_not_overflow():
    correct = np.zeros((1, 2000))
    correct[0, :7] = 1
    exact = 1 - comb(1993, 500) / comb(2000, 500)
    assert pass_at_k(correct, 500)[0] == pytest.approx(exact)


def test_a_shorter_model_gets_more_tries_out_of_the_same_tokens():
    """A: 4k tokens, right half the time; B: 1k tokens, right 3 times in 10; 16k tokens pay for 4 of A and 16 of B."""
    rng = np.random.default_rng(0)
    a, b = ((rng.random((4000, 16)) < p).astype(float) for p in (0.5, 0.3))
    assert pass_at_tokens(a, np.full(a.shape, 4000.0), 16_000).mean() == pytest.approx(0.9375, abs=0.01)
    assert pass_at_tokens(b, np.full(b.shape, 1000.0), 16_000).mean() == pytest.approx(0.9967, abs=0.003)
    assert pass_at_tokens(a, np.full(a.shape, 4000.0), 3999).tolist() == [0.0] * 4000


def test_majority_of_two_classes_has_the_binomial_value():
    """Two classes, p = 0.6, three votes: 3 * 0.36 * 0.4 + 0.216 = 0.648."""
    rng = np.random.default_rng(0)
    correct = (rng.random((20_000, 3)) < 0.6).astype(float)
    answers = [["right" if ok else "wrong" for ok in row] for row in correct]
    votes = majority_at_k(answers, correct, np.full(correct.shape, 50.0), 3)
    assert votes.accuracy.mean() == pytest.approx(0.648, abs=0.01)
    assert votes.tokens.tolist() == [150.0] * len(correct)


@pytest.mark.parametrize(
    ("answers", "correct", "share"),
    [
        (["1", "2"], [1, 0], 0.5),  # a tie is a coin
        (["1", "2", "3"], [1, 0, 0], 1 / 3),
        (["1", "2", "2"], [1, 0, 0], 0.0),
        (["1/2", "0.5", "2", "2"], [1, 1, 0, 0], 0.5),  # right answers are one class however written
        ([None, None, "1"], [0, 0, 1], 1.0),  # no answer, no vote
        ([None, None, None], [0, 0, 0], 0.0),
        (["a  b", "a b", "1"], [0, 0, 1], 0.0),
    ],
)
def test_votes_by_hand(answers, correct, share):
    row = np.array([correct], dtype=float)
    assert majority_at_k([answers], row, np.ones(row.shape), len(answers)).accuracy[0] == pytest.approx(share)


def test_majority_of_one_is_the_accuracy_and_subsets_are_averaged():
    answers, correct = [["1", "2", "1", "3"]], np.array([[1.0, 0, 1, 0]])
    first, again = (majority_at_k(answers, correct, np.ones((1, 4)), 1).accuracy for _ in range(2))
    assert first[0] == pytest.approx(0.5, abs=0.15)
    assert first.tolist() == again.tolist()
    with pytest.raises(ValueError, match="maj@5"):
        majority_at_k(answers, correct, np.ones((1, 4)), 5)


def test_the_t_interval_counts_problems_not_samples():
    """Standard error of four problems with means 0, 1/2, 1, 1/2: 0.4082 / 2, times t(3) = 3.1824."""
    once = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    result = t_estimate(once.mean(axis=1))
    assert (result["low"], result["high"]) == pytest.approx((0.5 - 0.6496, 0.5 + 0.6496), abs=1e-4)
    assert average_at_k(np.tile(once, 8)) == pytest.approx(average_at_k(once))


def test_the_interval_of_a_share_by_hand():
    """The same four: n_eff = 0.25 / 0.04167 = 6, z^2 / n_eff = 1.688; centre 0.5, half 0.6496 / sqrt(2.688)."""
    result = share_estimate(np.array([0.0, 0.5, 1.0, 0.5]))
    half = 0.6496 / np.sqrt(2.688)
    assert (result["low"], result["high"]) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-3)


def test_thirty_of_thirty_is_no_certainty():
    assert share_estimate(np.ones(30)) == pytest.approx({"mean": 1.0, "low": 0.8777, "high": 1.0}, abs=1e-4)
    assert share_estimate(np.zeros(30)) == pytest.approx({"mean": 0.0, "low": 0.0, "high": 0.1223}, abs=1e-4)


@given(st.lists(st.integers(0, 16), min_size=2, max_size=40))
def test_the_interval_of_a_share_stays_a_share_and_holds_it(right):
    result = share_estimate(np.array(right) / 16)
    assert 0 <= result["low"] <= result["mean"] + 1e-12
    assert result["mean"] - 1e-12 <= result["high"] <= 1


def test_what_has_no_interval():
    assert t_estimate(np.array([0.7])) == {"mean": 0.7, "low": None, "high": None}
    assert t_estimate(np.array([1.0, 1.0])) == {"mean": 1.0, "low": None, "high": None}
    assert estimate(0.3, np.array([0.2, np.nan]), 10) == {"mean": 0.3, "low": None, "high": None}
