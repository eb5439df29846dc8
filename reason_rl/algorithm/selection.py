"""Parts of a group: which rollouts are learned from, halves that are compared, weights by difficulty."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reason_rl.rollout.batch import RolloutBatch

Select = Literal["all", "shortest", "token_efficiency"]
Rows = Float[Tensor, " rows"]
LEAD_WEIGHT = (0.4, 1.1, 10.0, 0.75)  # floor, height, steepness, middle


def selected(
    rewards: Rows, lengths: Rows, group_size: int, select: Select, rows_kept: int | Int[Tensor, " groups"]
) -> Bool[Tensor, " rows"]:
    """Return which rollouts of each group are learned from: the ``rows_kept`` best by a metric, ties by position.

    - ``shortest``: the fewest completion tokens
    - ``token_efficiency``: the largest ``(r - min(0, lowest r of the batch)) / L``; the shift (our choice) keeps short
      failures from losing to long ones where rewards are negative

    Args:
        rewards: [rows], groups of ``group_size`` consecutive rows; unscored (nan) rows are never selected.
        lengths: completion tokens, [rows].
        group_size: rows a problem.
        select: metric; ``all`` keeps every row.
        rows_kept: rows kept of a group, one number or one a group [groups]; as many as there are or more = all.

    Raises:
        ValueError: for an unknown metric.

    >>> rewards = torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0])
    >>> lengths = torch.tensor([900.0, 1500, 2600, 4000, 300, 1200, 2000, 5000])
    >>> selected(rewards, lengths, 8, "shortest", 4).nonzero().flatten().tolist()
    [0, 1, 4, 5]

    Source: GFPO (arXiv 2508.09726).
    """
    scored = ~rewards.isnan()
    if select == "all":
        return scored
    if select == "shortest":
        metric = lengths
    elif select == "token_efficiency":
        metric = -(rewards - min(0.0, float(rewards[scored].min()) if scored.any() else 0.0)) / lengths.clamp(min=1)
    else:
        raise ValueError(f"unknown selection {select!r}")
    ranked = torch.where(scored, metric, torch.inf).view(-1, group_size)
    rank = ranked.argsort(dim=1, stable=True).argsort(dim=1)
    return (rank < torch.as_tensor(rows_kept).view(-1, 1)).flatten() & scored


def surprise(batch: RolloutBatch) -> Rows:
    """Return the mean of ``-log p`` over the tokens of each completion, in nats a token, 0 for an empty one.

    An estimate of the mean token entropy from what was sampled, at the sampling temperature (our choice: exact entropies
    would need the whole distributions).

    Raises:
        ValueError: when the sampler gave no log-probabilities.

    >>> from dataclasses import replace
    >>> from reason_rl.rollout.batch import example_batch
    >>> batch = replace(example_batch([1, 0], [2, 1]), sampling_logps=((-0.5, -1.5), (0.0,)))
    >>> surprise(batch).tolist()
    [1.0, 0.0]
    """
    if batch.sampling_logps is None:
        raise ValueError("surprise needs the sampler's log-probabilities")
    return torch.tensor([-math.fsum(logps) / max(len(logps), 1) + 0.0 for logps in batch.sampling_logps])


def halves(
    rewards: Rows,
    metric: Rows,
    group_size: int,
    alpha: float,
    mu: float,
    alpha_on: Literal["high", "low"] = "high",
) -> Rows:
    """Return CANON's advantages: each rollout against the other half of its group by a metric, and against its own.

    By length, the short half are the ``G // 2`` shortest (ties by position), m_s and m_l the mean rewards of both halves:
    ``A = mu inter + (1 - mu) intra``; inter: short ``r - alpha m_l``, long ``alpha r - m_s``; intra: r less the mean of its
    own half. ``alpha = 1, mu = 0.5`` is the group mean as baseline for an even G.

    Args:
        rewards: [rows], groups of ``group_size`` consecutive rows; unscored (nan) rows get 0 and are left out of means.
        metric: completion tokens, or anything else that splits the groups, [rows].
        group_size: rows a problem.
        alpha: below 1 the long half counts less: a pull towards short answers.
        mu: weight of the comparison between the halves.
        alpha_on: the half that counts less: high for lengths; the released code has low for entropy.

    >>> rewards = torch.tensor([1.0, 1, 0, 1, 0, 0, 1, 0])
    >>> [round(a, 3) for a in halves(rewards, torch.arange(8.0), 8, alpha=0.9, mu=1.0).tolist()]
    [0.775, 0.775, -0.225, 0.775, -0.75, -0.75, 0.15, -0.75]

    Source: CANON (arXiv 2509.23962).
    """
    r = rewards.view(-1, group_size)
    low = metric.view(-1, group_size).argsort(dim=1, stable=True).argsort(dim=1) < group_size // 2
    mean_low, mean_high = (
        torch.where(part, r, torch.nan).nanmean(dim=1, keepdim=True).nan_to_num() for part in (low, ~low)
    )
    weight_low, weight_high = (1.0, alpha) if alpha_on == "high" else (alpha, 1.0)
    own, own_weight = torch.where(low, mean_low, mean_high), torch.where(low, weight_low, weight_high)
    other, other_weight = torch.where(low, mean_high, mean_low), torch.where(low, weight_high, weight_low)
    # mu inter + (1 - mu) intra, written around the mean of both halves, so that alpha = 1 and mu = 0.5 leave nothing else.
    scored = ~r.isnan()
    equal = (low & scored).sum(dim=1, keepdim=True) == (~low & scored).sum(dim=1, keepdim=True)
    middle = torch.where(equal, r.nanmean(dim=1, keepdim=True), (mean_low + mean_high) / 2)
    baseline = middle + (mu * other_weight - 0.5) * other + (0.5 - mu) * own
    return ((mu * own_weight + 1 - mu) * r - baseline).nan_to_num(nan=0.0).flatten()


def difficulty_weight(advantages: Rows, correct: Rows, group_size: int) -> Rows:
    """Return advantages weighted by difficulty: positive ones by ``w(p)``, negative ones by ``w(1 - p)``, p the share right.

    ``w(x) = 0.4 + 1.1 / (1 + exp(10 (x - 0.75)))``: what is rarely right counts more when right, what is mostly right counts
    more when wrong.

    Args:
        advantages: [rows].
        correct: 1 right, 0 wrong, nan unscored, [rows], groups of ``group_size`` consecutive rows.
        group_size: rows a problem.

    >>> a = torch.tensor([0.549958, 0.498751, 0.450041, -1.49875])
    >>> [round(x, 4) for x in difficulty_weight(a, torch.tensor([1.0, 1, 1, 0]), 4).tolist()]
    [0.5225, 0.4738, 0.4275, -2.2371]

    Source: GRPO-LEAD (arXiv 2504.09696).
    """
    share = correct.view(-1, group_size).nanmean(dim=1).nan_to_num().repeat_interleave(group_size)
    floor, height, steepness, middle = LEAD_WEIGHT
    x = torch.where(advantages > 0, share, 1 - share)
    return advantages * (floor + height / (1 + torch.exp(steepness * (x - middle))))
