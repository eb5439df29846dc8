"""Did accuracy hold? Tests of paired differences: non-inferiority, McNemar, sign flips, Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from reason_rl.evaluate.estimate import PerProblem, t_estimate
from reason_rl.evaluate.grid import Samples

MARGIN = 0.01  # our choice: the loss of accuracy, as a share, that counts as none
FLIPS = 10_000
CHUNK_FLIPS = 1000


class NonInferiority(NamedTuple):
    """Whether accuracy held: the paired difference with its interval, the margin, the one-sided p-value, the verdict."""

    difference: float
    low: float | None
    high: float | None
    margin: float
    p_value: float | None
    held: bool


def noninferiority(base_correct: Samples, correct: Samples, margin: float = MARGIN) -> NonInferiority:
    """Test that the accuracy fell by less than ``margin``: paired by problem, Student's t over problems.

    With per-problem differences d, ``t = (mean d + margin) / (s / sqrt(n))``; accuracy held when the lower end of the 95 %
    interval of the difference lies above ``-margin`` (one-sided level 2.5 %). "p > 0.05" in a test of no difference is no
    evidence that nothing was lost. Problems that all change alike leave no spread to judge by: then there is no interval
    and no p-value, and the verdict is that of the difference itself.

    Args:
        base_correct: 1 right, 0 wrong, of the start model, [problems, samples].
        correct: of the other, [problems, its samples].
        margin: accuracy one is ready to lose, a share above 0.

    Raises:
        ValueError: for a margin that is not above 0.

    >>> base = np.array([[1.0], [1.0], [0.0], [1.0]] * 50)
    >>> test = noninferiority(base, base[::-1], margin=0.2)
    >>> test.difference, test.held
    (0.0, True)

    Source: CONSORT extension for non-inferiority trials (Piaggio et al. 2012), paired; the margin is our choice.
    """
    if margin <= 0:
        raise ValueError(f"margin {margin} is not above 0")
    from scipy import stats

    differences = correct.mean(axis=1) - base_correct.mean(axis=1)
    found = t_estimate(differences)
    mean, low, high = float(differences.mean()), found["low"], found["high"]
    if low is None:
        return NonInferiority(mean, None, None, margin, None, mean > -margin)
    p_value = float(stats.ttest_1samp(differences, -margin, alternative="greater").pvalue)
    return NonInferiority(mean, low, high, margin, p_value, low > -margin)


def mcnemar(gained: int, lost: int) -> float:
    """Return the exact two-sided p-value of McNemar's test, for one sample a problem.

    ``p = min(1, 2 P(Bin(gained + lost, 1/2) <= min(gained, lost)))``; problems that both get right or wrong do not count.

    >>> round(mcnemar(6, 24), 5), mcnemar(0, 0)
    (0.00143, 1.0)
    """
    from scipy import stats

    return min(1.0, 2 * float(stats.binom.cdf(min(gained, lost), gained + lost, 0.5)))


def sign_flip(differences: PerProblem, flips: int = FLIPS, seed: int = 0) -> float:
    """Return the two-sided p-value of per-problem mean differences, for several samples a problem.

    Under "no difference" each problem's difference may as well have the other sign; p is the share of random signs, the
    given ones among them, whose mean is at least as far from 0.

    >>> sign_flip(np.zeros(5)), sign_flip(np.full(20, 0.1), flips=999)
    (1.0, 0.001)
    """
    generator = np.random.default_rng(seed)
    observed = abs(differences.sum()) - 1e-12
    extreme = 1
    for start in range(0, flips, CHUNK_FLIPS):
        size = min(CHUNK_FLIPS, flips - start)
        signs = generator.choice((-1.0, 1.0), size=(size, len(differences)))
        extreme += int((np.abs(signs @ differences) >= observed).sum())
    return extreme / (flips + 1)


def holm(p_values: Sequence[float] | Float[np.ndarray, " tests"]) -> list[float]:
    """Return p-values corrected for many tests by Holm's step-down method, in the given order.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(p) for p in corrected]
