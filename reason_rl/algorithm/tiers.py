"""Tiers: a length by the share of right rollouts, shorter where more are right."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reason_rl.algorithm.reward import Reward, Rows
from reason_rl.errors import RecipeError
from reason_rl.rollout.batch import RolloutBatch


def check_tiers(where: str, thresholds: Sequence[float], tokens: Sequence[int]) -> None:
    """Raise RecipeError unless there is one length more than rising thresholds in (0, 1], and lengths fall to above 0."""
    rising = all(a < b for a, b in pairwise(thresholds)) and all(0 < t <= 1 for t in thresholds)
    falling = all(a > b for a, b in pairwise(tokens)) and all(n > 0 for n in tokens)
    if len(tokens) != len(thresholds) + 1 or not rising or not falling:
        raise RecipeError(
            f"{where}: tokens {list(tokens)} for thresholds {list(thresholds)}: needs one length more than thresholds, "
            "thresholds that rise in (0, 1], lengths that fall to something above 0"
        )


def tier_tokens(
    pass_rate: Float[Tensor, " rows"], thresholds: Sequence[float], tokens: Sequence[int]
) -> Int[Tensor, " rows"]:
    """Return ``tokens[k]`` with ``k`` the number of thresholds that the pass rate reaches, in completion tokens.

    >>> tier_tokens(torch.tensor([0.5, 0.25, 1.0]), [0.5], [4000, 2000]).tolist()
    [2000, 4000, 2000]

    Source: DA-DLER (arXiv 2510.15110) section 3.5. A pass rate at a threshold has reached it (our choice).
    """
    reached = (pass_rate[:, None] >= torch.tensor(list(thresholds)) - 1e-6).sum(dim=1)
    return torch.tensor(list(tokens))[reached]


def group_pass_rate(batch: RolloutBatch) -> Rows:
    """Return the share of right and finished rollouts of each row's own group; 0 for a group without verdicts.

    >>> from reason_rl.rollout.batch import example_batch
    >>> group_pass_rate(example_batch([1, 0, 1, 1], [9, 9, 9, 9], group_size=2)).tolist()
    [0.5, 0.5, 1.0, 1.0]
    """
    right = ((batch.correct == 1) & ~batch.truncated).float().split(batch.sizes)
    scored = (~batch.correct.isnan()).float().split(batch.sizes)
    rates = [one.sum() / count.sum().clamp(min=1) for one, count in zip(right, scored, strict=True)]
    return torch.stack(rates).repeat_interleave(torch.tensor(batch.sizes))


def within_tier(thresholds: Sequence[float], tokens: Sequence[int]) -> Reward:
    """Return 1 for a finished rollout no longer than the tier of its own group, else 0; lengths in completion tokens.

    The pass rate is that of the group as it was sampled, at the longest tier and before tightening.

    Raises:
        RecipeError: when tiers and thresholds do not fit together.

    >>> from reason_rl.rollout.batch import example_batch
    >>> within_tier([0.5], [4000, 2000])(example_batch([1, 1, 0, 1], [1500, 2000, 900, 2600])).tolist()
    [1.0, 1.0, 1.0, 0.0]

    Source: DA-DLER (arXiv 2510.15110) section 3.5; where the pass rate comes from is not said there (our choice).
    """
    check_tiers("da_dler", thresholds, tokens)

    def reward(batch: RolloutBatch) -> Rows:
        target = tier_tokens(group_pass_rate(batch), thresholds, tokens)
        return ((batch.length <= target) & ~batch.truncated).float()

    return reward
