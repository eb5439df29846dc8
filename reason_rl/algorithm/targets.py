"""Target lengths by difficulty, measured on a fixed set of problems every few rollout batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from reason_rl.algorithm.reward import Reward, Rows
from reason_rl.algorithm.store import Observed, Policy, Probe, State, Store
from reason_rl.errors import RecipeError
from reason_rl.rollout.batch import RolloutBatch

Tier = Literal["high", "medium", "low"]
Rounding = Literal["floor", "ceil"]

TIERS: tuple[Tier, ...] = ("high", "medium", "low")
TOLERANCE = 1e-9
KNOWN = "target_"


def training_tier(right: int, rollouts: int) -> Tier:
    """Return the tier of a training group: high from 2/3 right on, medium from 1/3 on.

    >>> training_tier(2, 3), training_tier(1, 3), training_tier(8, 25)
    ('high', 'medium', 'low')

    Source: LASER-D (arXiv 2505.15612), released code.
    """
    if 3 * right >= 2 * rollouts:
        return "high"
    return "medium" if 3 * right >= rollouts else "low"


def monitoring_tier(right: float, rollouts: int) -> Tier:
    """Return the tier of a monitored problem, whose edges belong to the harder side: low up to 1/3, medium up to 2/3.

    >>> monitoring_tier(2, 3), monitoring_tier(1, 3)
    ('medium', 'low')

    Source: LASER-D (arXiv 2505.15612), released code.
    """
    if 3 * right <= rollouts:
        return "low"
    return "medium" if 3 * right <= 2 * rollouts else "high"


def candidates(smallest: int, largest: int, interval: int) -> list[int]:
    """Return the lengths to choose from: ``smallest`` on in steps, or ``smallest`` and then the multiples of the step.

    Raises:
        RecipeError: unless ``0 < smallest <= largest`` and the interval is positive.

    >>> candidates(512, 4096, 1024)
    [512, 1024, 2048, 3072, 4096]
    >>> len(candidates(4096, 16384, 1024))
    13

    Source: LASER-D (arXiv 2505.15612), released code.
    """
    if not 0 < smallest <= largest or interval < 1:
        raise RecipeError(f"algorithm.targets: lengths from {smallest} to {largest} in steps of {interval}")
    if smallest < interval:
        return [smallest, *range(interval, largest + 1, interval)]
    return list(range(smallest, largest + 1, interval))


def least_right(rollouts: int, rounding: Rounding) -> dict[Tier, int]:
    """Return how many of ``rollouts`` a problem of each tier has right at the least.

    >>> least_right(8, "floor"), least_right(8, "ceil")
    ({'high': 5, 'medium': 2, 'low': 1}, {'high': 6, 'medium': 3, 'low': 1})

    Source: LASER-D (arXiv 2505.15612) rounds up, the released code down (which made its models).
    """
    high, medium = (2 * rollouts / 3, rollouts / 3)
    whole = math.floor if rounding == "floor" else math.ceil
    return {"high": max(1, whole(high)), "medium": max(1, whole(medium)), "low": 1}


def smallest_sufficient(coverage: Mapping[int, float], least: int) -> int | None:
    """Return the smallest length at which one right response is to be expected, ``coverage * least >= 1``; else None.

    Args:
        coverage: share of a tier's responses no longer than each candidate length, in completion tokens.
        least: right responses that a problem of the tier has at the least.

    >>> smallest_sufficient({1024: 0.1, 2048: 0.18, 3072: 0.35}, 5)
    3072

    Source: LASER-D (arXiv 2505.15612); the released code compares the whole part of the product.
    """
    return next((length for length in sorted(coverage) if coverage[length] * least >= 1 - TOLERANCE), None)


def target_lengths(groups: Sequence[Observed], lengths: Sequence[int], rounding: Rounding) -> dict[str, int | None]:
    """Return the target of each tier, in completion tokens, from the monitored groups; None = nothing is too long.

    A tier without problems covers nothing. Source: LASER-D (arXiv 2505.15612).

    >>> groups = [Observed("a", (1, 1, 1, 1), (10, 20, 30, 40)), Observed("b", (0, 0, 0, 1), (50, 60, 70, 80))]
    >>> target_lengths(groups, [16, 32, 64], "ceil")
    {'high': 32, 'medium': None, 'low': None}
    """
    tokens: dict[Tier, list[int]] = {tier: [] for tier in TIERS}
    for group in groups:
        if group.scored:
            tokens[monitoring_tier(group.right, group.scored)].extend(group.tokens)
    rollouts = max((len(group.tokens) for group in groups), default=1)
    least = least_right(rollouts, rounding)
    result: dict[str, int | None] = {}
    for tier in TIERS:
        seen = np.array(tokens[tier])
        coverage = {length: float((seen <= length).mean()) if len(seen) else 0.0 for length in lengths}
        result[tier] = smallest_sufficient(coverage, least[tier])
    return result


@dataclass(frozen=True)
class MonitoredTargets(Policy):
    """Measures the targets on a fixed draw of training problems before every ``every``-th rollout batch.

    Its state holds the target of each tier in completion tokens, null where nothing is too long; before the first
    measurement it is the smallest length.

    Args:
        lengths: candidate lengths, completion tokens.
        problems: problems of the monitoring set; rollouts: of each.
        every: rollout batches from one measurement to the next.
        rounding: of the right responses to expect.
        seed: of the draw of the monitoring set.

    >>> MonitoredTargets((16, 32), 2, 4, 20, "floor", 0).initial_state()
    {'high': 16, 'medium': 16, 'low': 16}
    """

    lengths: tuple[int, ...]
    problems: int
    rollouts: int
    every: int
    rounding: Rounding
    seed: int
    name = "targets"

    def initial_state(self) -> State:
        """Return the smallest length for each tier."""
        return dict.fromkeys(TIERS, self.lengths[0])

    def probe(self, store: Store, problem_ids: Sequence[str]) -> Probe | None:
        """Ask for the monitoring set, the same each time."""
        if store.generation % self.every:
            return None
        order = np.random.Generator(np.random.Philox(key=self.seed)).permutation(len(problem_ids))
        return Probe(tuple(problem_ids[i] for i in order[: self.problems]), self.rollouts)

    def after_probe(self, state: State, groups: Sequence[Observed]) -> State:
        """Return the targets measured."""
        return dict(target_lengths(groups, self.lengths, self.rounding))

    def known(self, store: Store, problem_ids: Sequence[str]) -> dict[str, Tensor]:
        """Return ``target_high``, ``target_medium``, ``target_low``, the same for each row; infinite for no target."""
        state = store.states[self.name]
        values = {tier: math.inf if state[tier] is None else float(state[tier]) for tier in TIERS}
        return {KNOWN + tier: torch.full((len(problem_ids),), value) for tier, value in values.items()}


def make_targets(spec: Any, seed: int) -> MonitoredTargets | None:
    """Build the policy that the recipe's ``algorithm.targets`` describes; None without one.

    Raises:
        RecipeError: when its lengths do not fit together.
    """
    if spec is None:
        return None
    lengths = candidates(spec.smallest_tokens, spec.largest_tokens, spec.interval_tokens)
    return MonitoredTargets(tuple(lengths), spec.problems, spec.rollouts, spec.every, spec.rounding, seed)


def row_targets(batch: RolloutBatch) -> Rows:
    """Return the target of each row, by the tier of its own group, in completion tokens.

    Raises:
        RecipeError: when the recipe measures no targets.

    >>> from reason_rl.rollout.batch import example_batch
    >>> targets = {"target_high": [32.0] * 3, "target_medium": [64.0] * 3, "target_low": [128.0] * 3}
    >>> row_targets(example_batch([1, 0, 0], [20, 40, 60], known=targets)).tolist()
    [64.0, 64.0, 64.0]
    """
    if KNOWN + "high" not in batch.known:
        raise RecipeError("algorithm.targets: is missing; the reward needs measured targets")
    right = ((batch.correct == 1) & ~batch.truncated).tolist()
    values, start = [], 0
    for size in batch.sizes:
        tier = training_tier(sum(right[start : start + size]), size)
        values.append(batch.known[KNOWN + tier][start : start + size])
        start += size
    return torch.cat(values)


def repetitive(ids: Sequence[int], words: int = 4, least_distinct: float = 0.5) -> bool:
    """Return whether fewer than this share of the runs of ``words`` tokens are distinct.

    >>> repetitive([1, 2, 3, 4] * 5), repetitive(range(20))
    (True, False)

    Our choice: the detector of LASER-DE's released code fires on ordinary prose, which leaves its bonus unpaid.
    """
    runs = [tuple(ids[i : i + words]) for i in range(len(ids) - words + 1)]
    return bool(runs) and len(set(runs)) < least_distinct * len(runs)


def short_right_bonus(bonus: float = 0.5) -> Reward:
    """Return ``bonus`` for a right answer no longer than its row's target, else 0; nan when unscored.

    >>> from reason_rl.rollout.batch import example_batch
    >>> targets = {f"target_{tier}": [3072.0] * 3 for tier in ("high", "medium", "low")}
    >>> short_right_bonus()(example_batch([1, 1, 0], [3072, 3073, 9], known=targets)).tolist()
    [0.5, 0.0, 0.0]

    Source: LASER-D (arXiv 2505.15612).
    """
    return lambda batch: bonus * batch.correct * (batch.length <= row_targets(batch)).float()


def long_wrong_bonus(bonus: float = 0.5) -> Reward:
    """Return ``bonus`` for a wrong, finished, not repetitive answer longer than its row's target, else 0; nan unscored.

    >>> from reason_rl.rollout.batch import example_batch
    >>> targets = {f"target_{tier}": [3072.0] * 3 for tier in ("high", "medium", "low")}
    >>> long_wrong_bonus()(example_batch([0, 0, 1], [3072, 3073, 9000], known=targets)).tolist()
    [0.0, 0.5, 0.0]

    Source: LASER-DE (arXiv 2505.15612); finished stands for the paper's "well formed" (our choice).
    """

    def reward(batch: RolloutBatch) -> Rows:
        loops = torch.tensor([repetitive(ids) for ids in batch.completion_ids])
        explores = (batch.length > row_targets(batch)) & ~batch.truncated & ~loops
        return bonus * (1 - batch.correct) * explores.float()

    return reward
