"""A method as a composition: the policies that one run is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from reason_rl.algorithm.advantage import Baseline, Scale, advantages
from reason_rl.algorithm.budget import BudgetPolicy
from reason_rl.algorithm.filter import Keep, keep_groups
from reason_rl.algorithm.reward import Reward
from reason_rl.rollout.backend import sampling_seed
from reason_rl.rollout.batch import RolloutBatch


@dataclass(frozen=True)
class AdvantageRule:
    """Which baseline is subtracted and what the result is divided by; names as in ``algorithm.advantage``."""

    baseline: Baseline = "group_mean"
    scale: Scale = "group_std"
    correct_bonus: float = 0.0


@dataclass(frozen=True)
class FilterRule:
    """Which groups are trained on, judged by which metric, and whether dropped ones are replaced by new rollouts."""

    keep: Keep = "all"
    metric: Literal["reward", "correct"] = "reward"
    refill: bool = False
    max_rounds: int = 10


@dataclass(frozen=True)
class Composition:
    """Everything a method varies. The defaults are plain GRPO, which changes nothing about stock TRL."""

    reward: Reward
    budget: BudgetPolicy
    filter: FilterRule = FilterRule()
    advantage: AdvantageRule = AdvantageRule()
    overlong: Literal["penalise", "mask", "keep"] = "keep"
    kl_type: Literal["k2", "k3"] = "k3"
    kl_coefficient: float = 0.0
    seed: int = 0

    def kept(self, batch: RolloutBatch, rewards: Tensor) -> Tensor:
        """Return which groups of a round are trained on (bool [groups])."""
        metric = rewards if self.filter.metric == "reward" else batch.correct
        return keep_groups(metric, batch.group_size, self.filter.keep)

    def advantages(self, rewards: Tensor, lengths: Tensor, correct: Tensor, kept: Tensor, group_size: int) -> Tensor:
        """Return advantages [rows] over the kept groups of the whole batch; rows of other groups get 0."""
        rows = kept.repeat_interleave(group_size)
        result = torch.zeros_like(rewards)
        if rows.any():
            rule = self.advantage
            result[rows] = advantages(
                rewards[rows],
                group_size,
                baseline=rule.baseline,
                scale=rule.scale,
                lengths=lengths[rows],
                correct=correct[rows],
                correct_bonus=rule.correct_bonus,
            )
        return result

    def seeds(self, problem_ids: Sequence[str], step: int, round_index: int) -> tuple[int, ...]:
        """Return one sampling seed a row, fixed by (run seed, step, round, problem, how often it came before)."""
        seen: Counter[str] = Counter()
        seeds = []
        for problem_id in problem_ids:
            seeds.append(sampling_seed(self.seed, step, round_index, problem_id, seen[problem_id]))
            seen[problem_id] += 1
        return tuple(seeds)
