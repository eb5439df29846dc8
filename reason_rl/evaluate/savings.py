"""Tokens saved: paired on the same problems, and at matched accuracy; with bootstrap intervals over problems."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from reason_rl.evaluate.anytime import CapCurve
from reason_rl.evaluate.estimate import Estimate, estimate, no_estimate, resampled_means
from reason_rl.evaluate.grid import Samples

MATCHED_RESAMPLES = 2000
MATCHED_SHARES = (1.0, 0.95)  # our choice: the start model's accuracy, and 95 % of it


class Curve(NamedTuple):
    """Points of an accuracy-token curve by rising budget: mean ``tokens`` spent, ``accuracy`` reached; or many curves."""

    tokens: Float[np.ndarray, "*curves points"]
    accuracy: Float[np.ndarray, "*curves points"]


def paired_saving(base_tokens: Samples, tokens: Samples, resamples: int = 10_000, seed: int = 0) -> Estimate:
    """Return the share of tokens saved on the same problems: ``1 - mean T / mean T0``, with its interval.

    Problems are resampled, all samples of one together and the same problems on both sides; percentiles do not care for a
    monotone map, so this is the interval of the bootstrapped log ratio.

    Args:
        base_tokens: of the start model, [problems, samples]; completion, think or answer tokens.
        tokens: of the other, [problems, its samples].
        resamples: of the bootstrap.
        seed: of the bootstrap.

    >>> saved = paired_saving(np.array([[100.0, 100.0], [300.0, 300.0]]), np.array([[50.0], [150.0]]))
    >>> saved["mean"], saved["low"], saved["high"]
    (0.5, 0.5, 0.5)
    """
    pair = np.stack([base_tokens.mean(axis=1), tokens.mean(axis=1)], axis=1)
    before, after = pair.mean(axis=0)
    if before <= 0:
        return no_estimate()
    means = resampled_means(pair, resamples, seed)
    if (means[:, 0] <= 0).any():
        return no_estimate(1 - after / before)
    return estimate(1 - after / before, 1 - means[:, 1] / means[:, 0], len(pair))


def tokens_at(curve: Curve, accuracy: Float[np.ndarray, "*curves"] | float) -> Float[np.ndarray, "*curves"]:
    """Return the tokens that a model needs for an accuracy: inf where it never reaches it, nan below its first point.

    Log tokens are interpolated linearly as a function of the running maximum of the accuracy; where the curve is flat the
    cheapest point counts.

    >>> base = Curve(np.array([1000.0, 2000, 4000, 8000]), np.array([0.30, 0.45, 0.55, 0.60]))
    >>> [round(float(tokens_at(base, a)), 1) for a in (0.45, 0.50, 0.7, 0.2)]
    [2000.0, 2828.4, inf, nan]
    """
    envelope = np.maximum.accumulate(curve.accuracy, axis=-1)
    logs, points = np.log(curve.tokens), curve.tokens.shape[-1]
    wanted = np.asarray(accuracy, dtype=float)[..., None]
    # The same share of right answers may differ in its last bit between two means.
    reached = (envelope < wanted - 1e-12).sum(axis=-1, keepdims=True)
    upper = np.minimum(reached, points - 1)
    below = np.take_along_axis(envelope, np.maximum(upper - 1, 0), axis=-1)
    # The plateau before the point that reaches it starts where its cheapest point is.
    lower = (envelope < below).sum(axis=-1, keepdims=True)
    (first, last), (low, high) = (
        [np.take_along_axis(table, at, axis=-1) for at in (lower, upper)] for table in (logs, envelope)
    )
    rise = np.where(high > low, high - low, 1.0)
    tokens = np.exp(first + (wanted - low) / rise * (last - first))
    tokens = np.where(reached == points, np.inf, tokens)
    return np.asarray(np.where(wanted < envelope[..., :1], np.nan, tokens))[..., 0]


def saving_at(base: Curve, new: Curve, accuracy: Float[np.ndarray, "*curves"] | float) -> Float[np.ndarray, "*curves"]:
    """Return the tokens saved at the same accuracy: ``1 - t_new(a) / t_base(a)``.

    Minus infinity where only the start model reaches it, nan where the start model does not, or below a first point.

    >>> base = Curve(np.array([1000.0, 2000, 4000, 8000]), np.array([0.30, 0.45, 0.55, 0.60]))
    >>> new = Curve(np.array([500.0, 1000, 2000, 4000]), np.array([0.32, 0.46, 0.56, 0.61]))
    >>> [round(float(saving_at(base, new, accuracy)), 3) for accuracy in (0.45, 0.55)]
    [0.524, 0.533]

    Source: our choice.
    """
    needed = tokens_at(base, accuracy)
    return np.asarray(1 - tokens_at(new, accuracy) / np.where(np.isinf(needed), np.nan, needed))


def matched_saving(
    base: CapCurve, new: CapCurve, share: float = 1.0, resamples: int = MATCHED_RESAMPLES, seed: int = 0
) -> Estimate:
    """Return the tokens saved at a share of the start model's accuracy, from the two cap curves, with its interval.

    The accuracy is ``share`` times the start model's own under its full cap, in each resample anew. A resample in which the
    new model never reaches it counts as a saving of minus infinity: ``low`` is None when the interval is open below, and
    ``mean`` is None when the new model does not reach it at all, or the start model is never right.

    Args:
        base: cap curve of the start model (`cap_curve`), [problems, caps].
        new: of the other model on the same problems, [problems, caps].
        share: of the start model's accuracy, in (0, 1].
        resamples: of the bootstrap.
        seed: of the bootstrap.

    >>> curve = CapCurve(np.array([10.0, 20.0]), np.array([[0.5, 1.0]]), np.array([[10.0, 15.0]]))
    >>> matched_saving(curve, curve)["mean"]
    0.0
    """
    table = np.hstack([base.accuracy, base.tokens, new.accuracy, new.tokens])
    ends = np.cumsum([base.accuracy.shape[1]] * 2 + [new.accuracy.shape[1]])

    def saved(means: Float[np.ndarray, "*curves columns"]) -> Float[np.ndarray, "*curves"]:
        first, first_tokens, second, second_tokens = np.split(means, ends, axis=-1)
        accuracy = share * first.max(axis=-1)
        saving = saving_at(Curve(first_tokens, first), Curve(second_tokens, second), accuracy)
        return np.asarray(np.where(accuracy > 0, saving, np.nan))

    value = float(saved(table.mean(axis=0)))
    if not np.isfinite(value):
        return no_estimate()
    return estimate(value, saved(resampled_means(table, resamples, seed)), len(table))
