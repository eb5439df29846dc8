"""Advantages: a baseline that is subtracted, and a scale that the result is divided by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Baseline = Literal["group_mean", "boundary", "none"]
Scale = Literal["group_std", "group_std_population", "batch_std_rewards", "batch_seq", "batch_token", "beta", "none"]

TRL_EPSILON = 1e-4
WHITENING_EPSILON = 1e-8
GFPO_EPSILON = 1e-6
LARGEST_WEIGHT = 1e6
SAME_PASS_RATE = 1e-12  # variance of pass rates that is rounding
RIGHT_REWARD = 0.5


def advantages(
    rewards: Float[Tensor, " rows"],
    group_size: int | Sequence[int],
    *,
    baseline: Baseline,
    scale: Scale,
    lengths: Float[Tensor, " rows"] | None = None,
    correct: Float[Tensor, " rows"] | None = None,
    correct_bonus: float = 0.0,
) -> Float[Tensor, " rows"]:
    """Return one advantage a row: ``A = (r - b) / s``, then ``+ correct_bonus`` where the answer is right.

    - ``group_std``: Bessel std of the group + 1e-4 (GRPO, as TRL)
    - ``group_std_population``: population std of the group + 1e-6 (GFPO)
    - ``batch_std_rewards``: Bessel std of the raw rewards of the batch + 1e-4 (TRL's "batch")
    - ``batch_seq``: centred advantages whitened over rows, ``sqrt(var + 1e-8)`` (DLER eq. 3)
    - ``batch_token``: the same with each row weighted by its tokens (DLER's released code)
    - ``beta``: times the problem's weight, ``beta_weights`` (BNPO); rewards are mapped to 0..1 first, from the batch's
      range where that is wider
    - ``none``: not scaled (Dr.GRPO)

    Baselines: the group's mean; ``boundary``: for rewards above 0.5 the smaller one of the group's mean and the smallest such
    reward, so that no right answer gets a negative advantage (DR. SAF, arXiv 2508.11582); none.

    Args:
        rewards: [rows], groups of consecutive rows; nan = unscorable or not selected, gets advantage 0.
        group_size: rows a group, or the rows of each.
        lengths: completion tokens, [rows]; needed by ``batch_token``.
        correct: 1 right, 0 wrong, [rows]; needed when ``correct_bonus`` is not 0.

    Raises:
        ValueError: for an unknown name or a missing argument.

    >>> r = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 0])
    >>> [round(a, 4) for a in advantages(r, 4, baseline="group_mean", scale="batch_seq").tolist()][:2]
    [1.6202, -0.5401]

    Source: DLER (arXiv 2510.15110) eq. 3; REINFORCE++-baseline. Differs from the released code in nothing but the
    estimator of ``batch_seq``, which the paper does not give (Bessel-corrected: our choice).
    """
    groups = in_groups(rewards, group_size)
    mean = _to_rows(groups.nanmean(dim=1), group_size)
    if baseline == "group_mean":
        centred = rewards - mean
    elif baseline == "boundary":
        right = groups > RIGHT_REWARD
        lowest = torch.where(right, groups, torch.inf).amin(dim=1)
        centred = rewards - torch.where(rewards > RIGHT_REWARD, torch.minimum(mean, _to_rows(lowest, group_size)), mean)
    elif baseline == "none":
        centred = rewards
    else:
        raise ValueError(f"unknown baseline {baseline!r}")
    scaled = _scaled(centred, rewards, group_size, scale, lengths).nan_to_num(nan=0.0)
    if correct_bonus:
        if correct is None:
            raise ValueError("correct_bonus needs the verdicts")
        scaled = scaled + correct_bonus * ((correct >= 1 - 1e-5) & ~rewards.isnan())
    return scaled


def in_groups(rows: Float[Tensor, " rows"], group_size: int | Sequence[int]) -> Float[Tensor, "groups largest"]:
    """Return values one row a group, shorter groups filled up with nan.

    >>> in_groups(torch.tensor([1.0, 0, 1]), [2, 1]).tolist()
    [[1.0, 0.0], [1.0, nan]]
    """
    if isinstance(group_size, int):
        return rows.view(-1, group_size)
    return pad_sequence(list(rows.split(list(group_size))), batch_first=True, padding_value=torch.nan)


def _to_rows(values: Tensor, group_size: int | Sequence[int]) -> Tensor:
    """Return the value of each row's group."""
    return values.repeat_interleave(group_size if isinstance(group_size, int) else torch.tensor(list(group_size)))


def _scaled(
    centred: Tensor, rewards: Tensor, group_size: int | Sequence[int], scale: Scale, lengths: Tensor | None
) -> Tensor:
    if scale == "none":
        return centred
    if scale == "group_std":
        return centred / (_to_rows(_nanstd(in_groups(rewards, group_size), dim=1), group_size) + TRL_EPSILON)
    if scale == "group_std_population":
        std = _to_rows(_nanstd(in_groups(rewards, group_size), dim=1, correction=0), group_size)
        return centred / (std + GFPO_EPSILON)
    if scale == "batch_std_rewards":
        return centred / (_nanstd(rewards, dim=0) + TRL_EPSILON)
    if scale == "batch_seq":
        return whiten(centred, torch.ones_like(centred))
    if scale == "batch_token":
        if lengths is None:
            raise ValueError("scale batch_token needs the lengths")
        return whiten(centred, lengths.to(centred))
    if scale == "beta":
        low, width = _range(rewards)
        weights = beta_weights(((in_groups(rewards, group_size) - low) / width).nanmean(dim=1))
        return centred / width * _to_rows(weights, group_size)
    raise ValueError(f"unknown scale {scale!r}")


def _range(rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest reward and the width of the range: 0 to 1, wider where the batch is."""
    low = rewards.nan_to_num(nan=0.0).amin().clamp(max=0)
    return low, rewards.nan_to_num(nan=0.0).amax().clamp(min=1) - low


def beta_weights(pass_rates: Float[Tensor, " problems"]) -> Float[Tensor, " problems"]:
    """Return ``1 / Beta(p; 1 + a / 3, 1 + b / 3)``, where ``Beta(a, b)`` has mean and variance of the pass rates.

    Problems that pass as often as most do weigh least. All weigh 1 where nothing can be fitted: one problem, or pass rates
    that are all the same. Neither parameter is below 1, no weight above 1e6.

    Args:
        pass_rates: mean reward of each problem, 0..1, [problems]; nan = unscorable, left out.

    >>> [round(w, 4) for w in beta_weights(torch.tensor([0.25, 0.5, 0.5, 0.75])).tolist()]
    [0.8898, 0.7002, 0.7002, 0.8898]
    >>> beta_weights(torch.tensor([0.5, 0.5])).tolist()
    [1.0, 1.0]

    Source: BNPO (arXiv 2506.02864) and its released code, which divides by zero where all pass rates are the same.
    """
    rates = pass_rates.double()
    known = rates[~rates.isnan()]
    if len(known) < 2 or known.var() <= SAME_PASS_RATE:
        return torch.ones_like(pass_rates)
    mean = known.mean()
    strength = mean * (1 - mean) / known.var() - 1
    alpha, beta = (1 + strength * share / 3 for share in (mean, 1 - mean))
    fitted = torch.distributions.Beta(alpha.clamp(min=1), beta.clamp(min=1))
    weights = (-fitted.log_prob(rates.nan_to_num(nan=float(mean)).clamp(0, 1))).exp().clamp(max=LARGEST_WEIGHT)
    return weights.to(pass_rates)


def whiten(values: Float[Tensor, " rows"], weights: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """Return ``(x - mean) / sqrt(var + 1e-8)`` with integer weights, variance with divisor ``sum(weights) - 1``.

    All zeros when nothing varies.
    """
    weights = weights * ~values.isnan()
    total = weights.sum()
    mean = (values.nan_to_num() * weights).sum() / total
    deviation = values - mean
    variance = (deviation.nan_to_num().square() * weights).sum() / (total - 1).clamp(min=1)
    if variance == 0:
        return torch.zeros_like(values)
    return deviation / torch.sqrt(variance + WHITENING_EPSILON)


def _nanstd(values: Tensor, dim: int, correction: int = 1) -> Tensor:
    """Return the standard deviation over ``dim``, Bessel-corrected by default, unscorable (nan) rows left out."""
    count = (~values.isnan()).sum(dim=dim)
    variance = (values - values.nanmean(dim=dim, keepdim=True)).square().nanmean(dim=dim)
    return torch.sqrt(variance * (count / (count - correction)))
