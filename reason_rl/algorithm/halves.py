"""Halves: a group is split by a metric, and each half is the other's baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reason_rl.algorithm.judged import Judged, State

Metric = Literal["length", "surprise"]
Schedule = Literal["constant", "accuracy", "error"]


def high_half(metric: Float[Tensor, " rows"], group_size: int) -> Bool[Tensor, " rows"]:
    """Return which rows are in the half of their group with the larger metric; an odd one more is in it too.

    >>> high_half(torch.tensor([5.0, 1, 9, 3]), 4).tolist()
    [True, False, True, False]
    """
    rank = metric.view(-1, group_size).argsort(dim=1, stable=True).argsort(dim=1)
    return (rank >= group_size // 2).flatten()


def halves_advantages(
    rewards: Float[Tensor, " rows"],
    high: Bool[Tensor, " rows"],
    group_size: int,
    *,
    inter: float = 0.5,
    alpha: float = 1.0,
    alpha_on: Literal["high", "low"] = "high",
) -> Float[Tensor, " rows"]:
    """Return ``A = inter (f r - g m_other) + (1 - inter) (r - m_own)``, with the mean rewards of both halves.

    ``f`` is ``alpha`` in the half named by ``alpha_on`` and 1 in the other, ``g`` the other way round. With ``inter`` 0.5,
    ``alpha`` 1 and halves of one size this is the group mean as baseline.

    Args:
        inter: weight of the comparison between halves, in [0, 1].
        alpha: below 1, the rewards of that half count for less, in its own rows and as the other half's baseline.

    >>> r, high = torch.tensor([1.0, 1, 0, 1]), torch.tensor([False, False, True, True])
    >>> halves_advantages(r, high, 4, inter=1.0).tolist()
    [0.5, 0.5, -1.0, 0.0]
    >>> halves_advantages(r, high, 4, inter=0.0).tolist()
    [0.0, 0.0, -0.5, 0.5]

    Source: CANON (arXiv 2509.23962) section 3. Rows with a nan reward get advantage 0.
    """
    groups, mask = rewards.view(-1, group_size), high.view(-1, group_size)
    mean_high = _mean(groups, mask)
    mean_low = _mean(groups, ~mask)
    factor_high, factor_low = (alpha, 1.0) if alpha_on == "high" else (1.0, alpha)
    between = torch.where(
        mask, factor_high * groups - factor_low * mean_low, factor_low * groups - factor_high * mean_high
    )
    within = groups - torch.where(mask, mean_high, mean_low)
    return (inter * between + (1 - inter) * within).nan_to_num(nan=0.0).flatten()


def _mean(groups: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the marked rows of each group, 0 where none is scored, [groups, 1]."""
    scored = mask & ~groups.isnan()
    return torch.where(scored, groups, 0.0).sum(dim=1, keepdim=True) / scored.sum(dim=1, keepdim=True).clamp(min=1)


@dataclass(frozen=True)
class Halves:
    """CANON: the long and the short (or the surprising and the sure) half of a group against each other.

    ``schedule`` makes ``inter`` the mean reward of the batch (``accuracy``) or one minus it (``error``). ``alpha`` weighs down the
    long half, or the sure one when the metric is surprise.
    """

    metric: Metric = "length"
    inter: float = 0.5
    alpha: float = 1.0
    schedule: Schedule = "constant"

    def initial_state(self) -> State:
        """Return no state."""
        return {}

    def advantages(self, judged: Judged, state: State) -> Float[Tensor, " rows"]:
        """Return the advantages of both halves."""
        metric = judged.lengths if self.metric == "length" else judged.surprise
        mean = float(judged.correct.nanmean().nan_to_num())
        inter = {"constant": self.inter, "accuracy": mean, "error": 1 - mean}[self.schedule]
        return halves_advantages(
            judged.rewards,
            high_half(metric, judged.group_size),
            judged.group_size,
            inter=inter,
            alpha=self.alpha,
            alpha_on="high" if self.metric == "length" else "low",
        )

    def update(self, state: State, pass_rates: Sequence[tuple[str, float]]) -> State:
        """Return the state unchanged."""
        return state
