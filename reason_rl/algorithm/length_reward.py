"""Pointwise length rewards: functions of one rollout's verdict and completion tokens."""

from __future__ import annotations

import torch
from torch import Tensor

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


def target_of(batch: RolloutBatch) -> Tensor:
    """Return the length that each row's prompt asks for, in completion tokens, nan where it asks for none, [B].

    Raises:
        RecipeError: when no prompt of the run asks for a length.
    """
    if "target_tokens" not in batch.columns:
        raise RecipeError("this reward compares with the length that the prompt asks for; set prompt.target_tokens")
    asked = batch.columns["target_tokens"]
    return torch.tensor([float("nan") if tokens is None else float(tokens) for tokens in asked])


def exact_length(token_penalty: float) -> Reward:
    """Return ``c - token_penalty |n - L|``, n the completion tokens that the prompt asks for; a cut rollout counts as wrong.

    Wrong answers pay for their length too. Where the prompt asks for no length, ``c`` alone.

    Raises:
        RecipeError: when ``token_penalty`` is negative.

    >>> from reason_rl.rollout.batch import example_batch
    >>> batch = example_batch([1, 0, 1], [3000, 3000, 1024], columns={"target_tokens": (1024, 1024, 1024)})
    >>> [round(r, 4) for r in exact_length(0.0003)(batch).tolist()]
    [0.4072, -0.5928, 1.0]

    Source: L1 (arXiv 2503.04697).
    """
    if token_penalty < 0:
        raise RecipeError(f"l1: token_penalty {token_penalty} is negative")

    def reward(batch: RolloutBatch) -> Rows:
        penalty = token_penalty * (target_of(batch) - batch.length).abs()
        return _finished(batch) - penalty.nan_to_num(nan=0.0)

    return reward


def at_most_length(token_slope: float, at_target: float) -> Reward:
    """Return ``c clip(token_slope (n - L) + at_target, 0, 1)``, n the completion tokens that the prompt allows.

    A cut rollout counts as wrong. Where the prompt asks for no length, ``c`` alone.

    Args:
        token_slope: what a token less is worth.
        at_target: what a right answer of exactly n tokens is worth, in [0, 1].

    Raises:
        RecipeError: when ``token_slope`` is negative or ``at_target`` not in [0, 1].

    >>> from reason_rl.rollout.batch import example_batch
    >>> batch = example_batch([1, 1, 0], [2048, 1024, 10], columns={"target_tokens": (2048, 3000, 2048)})
    >>> at_most_length(0.0003, 0.5)(batch).tolist()
    [0.5, 1.0, 0.0]

    Source: L1 (arXiv 2503.04697). The released code has another branch with half the slope.
    """
    if token_slope < 0 or not 0 <= at_target <= 1:
        raise RecipeError(f"l1: token_slope {token_slope} is negative or at_target {at_target} not in [0, 1]")

    def reward(batch: RolloutBatch) -> Rows:
        share = (token_slope * (target_of(batch) - batch.length) + at_target).clamp(0.0, 1.0)
        return _finished(batch) * share.nan_to_num(nan=1.0)

    return reward


def _finished(batch: RolloutBatch) -> Rows:
    """Return 1 for a right answer that was not cut, 0 for others, nan where unscored."""
    return torch.where(batch.truncated, batch.correct * 0, batch.correct)
