"""Rewards: functions of a rollout batch, composed of a few primitives and loaded from ``rewards/*.py``."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reason_rl.errors import RecipeError
from reason_rl.rollout.batch import RolloutBatch

Rows = Float[Tensor, " rows"]
Reward = Callable[[RolloutBatch], Rows]


def correctness() -> Reward:
    """Return ``r = 1`` for a right answer, 0 for a wrong one, nan when there is nothing to compare with."""
    return lambda batch: batch.correct


def truncation(reward_share: float = 0.0) -> Reward:
    """Return the factor ``1`` for finished rollouts and ``reward_share`` for those cut by their budget."""
    return lambda batch: torch.where(batch.truncated, reward_share, 1.0)


def soft_overlong(max_tokens: int, cache_tokens: int) -> Reward:
    """Return ``0`` up to ``max - cache`` tokens, falling linearly to ``-1`` at ``max`` and beyond.

    ``r = clip((max - cache - length) / cache, -1, 0)``, lengths in completion tokens.

    Source: DAPO (arXiv 2503.14476) eq. 13; equals ``trl.rewards.get_soft_overlong_punishment``.
    """

    def reward(batch: RolloutBatch) -> Rows:
        return ((max_tokens - cache_tokens - batch.length.float()) / cache_tokens).clamp(-1.0, 0.0)

    return reward


def cosine(max_tokens: int, right: tuple[float, float], wrong: tuple[float, float]) -> Reward:
    """Return a reward that moves along half a cosine from length 0 to ``max_tokens`` completion tokens.

    ``r = low + (high - low) (1 + cos(pi min(length, max) / max)) / 2`` with ``(high, low) = right`` for a right answer,
    best when short, and ``wrong`` (at length 0, at the maximum) for a wrong one.

    Source: Demystifying Long CoT (arXiv 2502.03373) section 4.2. Lengths past the maximum count as the maximum.
    """

    def reward(batch: RolloutBatch) -> Rows:
        share = batch.length.float().clamp(max=max_tokens) / max_tokens
        weight = (1 + torch.cos(torch.pi * share)) / 2
        value_right = right[1] + (right[0] - right[1]) * weight
        value_wrong = wrong[1] + (wrong[0] - wrong[1]) * weight
        return torch.where(batch.correct == 1, value_right, value_wrong)

    return reward


def product(*rewards: Reward) -> Reward:
    """Return the product of the rewards, row by row."""
    return lambda batch: torch.stack([reward(batch) for reward in rewards]).prod(dim=0)


def total(*rewards: Reward) -> Reward:
    """Return the sum of the rewards, row by row."""
    return lambda batch: torch.stack([reward(batch) for reward in rewards]).sum(dim=0)


def load_reward(path: Path, **params: Any) -> Reward:
    """Load ``reward`` from a file of ``rewards/`` and call it with the recipe's parameters.

    Raises:
        RecipeError: when the file has no ``reward``, or does not take one of the parameters.
    """
    spec = importlib.util.spec_from_file_location(f"reason_rl_reward_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise RecipeError(f"{path}: no such reward file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    factory = getattr(module, "reward", None)
    if factory is None:
        raise RecipeError(f"{path}: defines no function reward(**parameters)")
    known = list(inspect.signature(factory).parameters)
    for name in params:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; it takes {', '.join(known) or 'none'}"
            raise RecipeError(f"{path}: reward has no parameter {name}{hint}")
    return factory(**params)
