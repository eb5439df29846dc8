"""Tests of paired differences: worked examples, and error rates on generated data."""

import numpy as np
import pytest

from reason_rl.evaluate.estimate import t_estimate
from reason_rl.evaluate.noninferiority import holm, mcnemar, noninferiority, sign_flip


def test_mcnemar_of_the_worked_example():
    """500 problems, 6 gained and 24 lost: difference -0.036, p = 0.00143, paired interval about [-0.058, -0.016]."""
    assert mcnemar(6, 24) == mcnemar(24, 6) == pytest.approx(0.00143, abs=5e-6)
    base, after = np.ones((500, 1)), np.ones((500, 1))
    base[:6], after[6:30] = 0, 0
    test = noninferiority(base, after)
    assert test.difference == pytest.approx(-0.036)
    assert (test.low, test.high) == pytest.approx((-0.058, -0.016), abs=2e-3)
    assert not test.held
    assert noninferiority(base, after, margin=0.06).held
    # The same unpaired, of two accuracies about .75: the interval holds 0, and the loss is missed.
    base[30:150] = after[30:150] = 0
    assert noninferiority(base, after)[:3] == test[:3]
    first, second = (t_estimate(side.mean(axis=1)) for side in (base, after))
    arm = np.hypot(*((side["high"] - side["low"]) / 2 for side in (first, second)))
    assert (test.difference - arm, test.difference + arm) == pytest.approx((-0.092, 0.018), abs=2e-3)


def test_the_verdict_is_the_p_value_at_two_and_a_half_percent():
    rng = np.random.default_rng(0)
    for _ in range(200):
        base, after = ((rng.random((40, 2)) < 0.8).astype(float) for _ in range(2))
        test = noninferiority(base, after, margin=0.1)
        assert test.held == (test.p_value < 0.025)


def test_a_change_that_is_everywhere_the_same_has_no_interval():
    test = noninferiority(np.ones((5, 1)), np.ones((5, 1)))
    assert test == (0.0, None, None, 0.01, None, True)
    assert not noninferiority(np.ones((5, 1)), np.zeros((5, 1))).held
    with pytest.raises(ValueError, match="not above 0"):
        noninferiority(np.ones((5, 1)), np.ones((5, 1)), margin=0.0)


def test_a_loss_of_the_margin_passes_as_rarely_as_it_should():
    """True loss = margin: one-sided 2.5 %. 4,000 experiments: the band of 1 point is four standard errors."""
    rng = np.random.default_rng(1)
    experiments, problems = 4000, 120
    ability = rng.beta(4, 2, (experiments, problems, 1)) * 0.9 + 0.1
    base = rng.random((experiments, problems, 4)) < ability
    after = rng.random((experiments, problems, 4)) < ability - 0.05
    held = [
        noninferiority(b.astype(float), a.astype(float), margin=0.05).held for b, a in zip(base, after, strict=True)
    ]
    assert np.mean(held) == pytest.approx(0.025, abs=0.01)


def test_sign_flips_keep_their_level_and_find_what_is_there():
    rng = np.random.default_rng(2)
    ps = np.array([sign_flip(rng.normal(0, 1, 30), flips=199, seed=i) for i in range(1000)])
    assert np.mean(ps <= 0.05) == pytest.approx(0.05, abs=0.025)
    assert sign_flip(rng.normal(1, 1, 60)) < 0.001


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
