"""Testing a ladder of thresholds, and watching a certified one in use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from reason_rl.stopping.conformal import NEVER


class Limits(NamedTuple):
    """A share with its two-sided exact confidence limits."""

    share: float
    low: float
    high: float


def clopper_pearson(hits: int, trials: int, confidence: float = 0.95) -> Limits:
    """Return a share with its exact limits.

    >>> tuple(round(x, 4) for x in clopper_pearson(5, 200, 0.8))
    (0.025, 0.0122, 0.0459)
    """
    from scipy import stats

    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return Limits(hits / trials if trials else math.nan, low, high)


def exact_p(bad: int, trials: int, risk: float) -> float:
    """Return the p-value of "the risk is above ``risk``" for a loss of 0 or 1: ``P(Bin(n, risk) <= bad)``.

    >>> [round(exact_p(k, 200, 0.05), 4) for k in (4, 5)]
    [0.0264, 0.0623]
    """
    from scipy import stats

    return float(stats.binom.cdf(bad, trials, risk))


def hoeffding_bentkus_p(mean: float, trials: int, risk: float) -> float:
    """Return the p-value of "the risk is above ``risk``" for a loss in [0, 1], such as one averaged over rollouts.

    ``min(1, exp(-n h(min(mean, risk), risk)), e P(Bin(n, risk) <= ceil(n mean)))`` with
    ``h(a, b) = a ln(a / b) + (1 - a) ln((1 - a) / (1 - b))``.

    >>> [round(hoeffding_bentkus_p(k / n, n, 0.05), 4) for k, n in ((4, 200), (5, 200), (15, 500), (0, 45))]
    [0.0719, 0.1695, 0.054, 0.0994]

    Source: Bates et al. 2021, as used in arXiv 2110.01052.
    """
    low = min(mean, risk)
    divergence = (low * math.log(low / risk) if low > 0 else 0.0) + (1 - low) * math.log((1 - low) / (1 - risk))
    # Without the slack, 4 / 200 * 200 would round up to 5.
    bentkus = math.e * exact_p(math.ceil(trials * mean - 1e-9), trials, risk)
    return min(1.0, math.exp(-trials * divergence), bentkus)


def fixed_sequence(thresholds: Sequence[float], p_values: Sequence[float], error: float) -> float:
    """Return the last threshold before the first one that fails, going down the ladder; infinity when the first fails.

    No correction for the length of the ladder is needed, because it was chosen without the calibration data and the walk
    ends at the first failure.

    >>> fixed_sequence([0.9, 0.8, 0.7], [0.0004, 0.0623, 0.4547], 0.1)
    0.8

    Source: Learn then Test (arXiv 2110.01052). Some public code returns the first threshold that fails.
    """
    passed = NEVER
    for threshold, p_value in zip(thresholds, p_values, strict=True):
        if p_value > error:
            break
        passed = threshold
    return passed


@dataclass(frozen=True)
class Audit:
    """Watches a certified rule on traces drawn for audit at their start, where it is evaluated but never acted on.

    ``e <- e (1 + eta (L - risk))``, from 1; L is 1 when acting would have spoiled the trace. While the risk is at most
    ``risk`` the chance that e ever reaches ``1 / error`` is at most ``error``.

    Args:
        risk: the certified bound.
        suspected: a risk worth noticing, above it; sets eta to the best bet against it.
        wealth: e so far.

    >>> audit = Audit(0.05, 0.1)
    >>> round(audit.see(True).wealth, 6), round(audit.see(False).wealth, 6)
    (2.0, 0.947368)
    >>> audit.see(True).see(True).see(True).see(True).see(True).alarm(0.05)
    True
    """

    risk: float
    suspected: float
    wealth: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.risk < self.suspected < 1:
            raise ValueError(f"0 < risk {self.risk} < suspected {self.suspected} < 1 does not hold")

    def see(self, bad: bool) -> Audit:
        """Return the audit after one more trace."""
        eta = (self.suspected - self.risk) / (self.risk * (1 - self.risk))
        return Audit(self.risk, self.suspected, self.wealth * (1 + eta * (bad - self.risk)))

    def alarm(self, error: float) -> bool:
        """Tell whether the evidence against the bound is strong enough."""
        return self.wealth >= 1 / error
