"""Estimates with intervals: Student's t over problems, and the bootstrap over problems."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from jaxtyping import Float

CONFIDENCE = 0.95
RESAMPLES = 10_000
CHUNK_RESAMPLES = 500

Estimate: TypeAlias = dict[str, float | None]
PerProblem: TypeAlias = Float[np.ndarray, " problems"]
Table: TypeAlias = Float[np.ndarray, "problems columns"]
Draws: TypeAlias = Float[np.ndarray, "resamples columns"]


def no_estimate(mean: float | None = None) -> Estimate:
    """Return a value without interval; without a value where there is nothing to estimate."""
    return {"mean": None if mean is None else float(mean), "low": None, "high": None}


def t_estimate(values: PerProblem) -> Estimate:
    """Return the mean over problems with Student's t interval: ``m +- t(n - 1) s / sqrt(n)``.

    Each value is one problem's mean over its samples, so samples of a problem count as the one cluster they are: with as
    many samples of every problem this is the cluster-robust interval. One problem has no interval, and neither have
    values that do not vary (their spread is unknown, not nought).

    >>> t_estimate(np.array([0.0, 0.5, 1.0, 0.5]))["mean"]
    0.5
    >>> [round(x, 4) for x in (t_estimate(np.array([0.0, 0.5, 1.0, 0.5]))[k] for k in ("low", "high"))]
    [-0.1496, 1.1496]

    Source: Miller, Adding Error Bars to Evals (arXiv 2411.00640) section 2.2, with t for the normal quantile.
    """
    from scipy import stats

    problems = len(values)
    spread = values.std(ddof=1) if problems > 1 else 0.0
    if spread == 0:
        return no_estimate(values.mean())
    half = stats.t.ppf((1 + CONFIDENCE) / 2, problems - 1) * spread / np.sqrt(problems)
    mean = float(values.mean())
    return {"mean": mean, "low": float(mean - half), "high": float(mean + half)}


def share_estimate(values: PerProblem) -> Estimate:
    """Return a mean of shares in [0, 1] over problems with Wilson's interval at the effective number of problems.

    With ``n_eff = p (1 - p) / (s^2 / n)`` and ``z = t(n - 1)``: centre ``(p + z^2 / 2 n_eff) / (1 + z^2 / n_eff)``, half
    width ``z sqrt(p (1 - p) / n_eff + z^2 / 4 n_eff^2) / (1 + z^2 / n_eff)``. It is the t interval where p is far from 0
    and 1, stays within them, and says something when every problem is right: where nothing varies ``n_eff = n``, the
    least it can be. One problem has no interval.

    >>> [round(x, 3) for x in (share_estimate(np.ones(30))[k] for k in ("mean", "low", "high"))]
    [1.0, 0.878, 1.0]

    Source: Wilson 1927; effective sample size for clustered shares: Dean and Pagano 2015, Evaluating confidence interval
    methods for binomial proportions in clustered surveys.
    """
    from scipy import stats

    problems, p = len(values), float(values.mean())
    if problems < 2:
        return no_estimate(p)
    variance = float(values.var(ddof=1)) / problems
    effective = p * (1 - p) / variance if variance > 0 else problems
    ratio = float(stats.t.ppf((1 + CONFIDENCE) / 2, problems - 1)) ** 2 / effective
    centre = (p + ratio / 2) / (1 + ratio)
    half = np.sqrt(ratio * p * (1 - p) + ratio**2 / 4) / (1 + ratio)
    return {"mean": p, "low": max(0.0, float(centre - half)), "high": min(1.0, float(centre + half))}


def resampled_means(table: Table, resamples: int = RESAMPLES, seed: int = 0) -> Draws:
    """Return the column means of bootstrap resamples of the rows, [resamples, columns].

    A resample is a count for each row, so its means are one matrix product; a few resamples at a time keep memory small.
    Columns of one call are resampled together: put both sides of a comparison into one table and they stay paired.
    """
    index = np.random.default_rng(seed)
    rows = len(table)
    parts = []
    for start in range(0, resamples, CHUNK_RESAMPLES):
        size = min(CHUNK_RESAMPLES, resamples - start)
        draws = index.integers(0, rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        counts = np.bincount(draws.ravel(), minlength=size * rows).reshape(size, rows)
        parts.append(counts @ table / rows)
    return np.concatenate(parts)


def interval(resampled: Float[np.ndarray, " resamples"], problems: int) -> tuple[float, float]:
    """Return the expanded percentile interval of bootstrap statistics.

    The plain percentile interval is too short for few problems, by the factor sqrt((n-1)/n) and for want of Student's t;
    the tails are therefore ``Phi(-sqrt(n / (n - 1)) t(n - 1))`` (Hesterberg 2015, "What teachers should know about the
    bootstrap"). With hundreds of problems the difference vanishes.
    """
    from scipy import stats

    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, problems - 1)
    tail = 100 * stats.norm.cdf(-np.sqrt(problems / (problems - 1)) * quantile)
    # Between an infinite and a finite statistic nothing can be interpolated: take the ones that were drawn.
    finite = bool(np.isfinite(resampled).all())
    low, high = np.percentile(resampled, [tail, 100 - tail], method="linear" if finite else "nearest")
    return float(low), float(high)


def estimate(mean: float, resampled: Float[np.ndarray, " resamples"], problems: int) -> Estimate:
    """Return a value with its bootstrap interval; one problem has none, nor a statistic that some resamples lack (nan).

    An end that is infinite is None.
    """
    if problems < 2 or np.isnan(resampled).any():
        return no_estimate(mean)
    low, high = interval(resampled, problems)
    return {"mean": float(mean), "low": low if np.isfinite(low) else None, "high": high if np.isfinite(high) else None}
