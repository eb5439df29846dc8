"""LASER-D: r = s + bonus (right and length <= target of the tier), s = 1 right, -0.5 wrong; lengths in completion tokens.

A group is of the tier high, medium or low by its share right; targets are measured by ``algorithm.targets``.

Source: LASER-D (arXiv 2505.15612).

>>> from reason_rl.rollout.batch import example_batch
>>> targets = {"target_high": [3072.0] * 4, "target_medium": [8192.0] * 4, "target_low": [9e9] * 4}
>>> reward()(example_batch([1, 1, 1, 0], [800, 3072, 3100, 2000], known=targets)).tolist()
[1.5, 1.5, 1.0, -0.5]
"""

from reason_rl.algorithm.reward import Reward, correctness, total
from reason_rl.algorithm.targets import short_right_bonus

NEEDS_TARGETS = True


def reward(*, bonus: float = 0.5, wrong_reward: float = -0.5) -> Reward:
    """Return correctness with a bonus for right answers within the target of their tier."""
    return total(correctness(wrong=wrong_reward), short_right_bonus(bonus))
