"""Pointwise length rewards: functions of one rollout's verdict and completion tokens."""

from __future__ import annotations

import torch

from reason_rl.algorithm.reward import Reward, Rows
from reason_rl.errors import RecipeError
from reason_rl.rollout.batch import RolloutBatch


def short_bonus(target_tokens: int, bonus: float = 0.5) -> Reward:
    """Return ``bonus`` for a right answer of at most ``target_tokens`` completion tokens, else 0; nan when unscored.

    Raises:
        RecipeError: when ``target_tokens`` is not positive.

    >>> from reason_rl.rollout.batch import example_batch
    >>> short_bonus(4096)(example_batch([1, 1, 0], [4096, 4097, 10])).tolist()
    [0.5, 0.0, 0.0]

    Source: LASER (arXiv 2505.15612), the step reward with one constant target.
    """
    if target_tokens <= 0:
        raise RecipeError(f"laser: target_tokens {target_tokens} is not positive")

    def reward(batch: RolloutBatch) -> Rows:
        return bonus * batch.correct * torch.where(batch.length <= target_tokens, 1.0, 0.0)

    return reward
