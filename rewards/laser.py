"""LASER: r = s + bonus (right and length <= target), s = 1 right, -0.5 wrong; lengths in completion tokens.

Without the paper's -1 for a badly formed answer: it counts as wrong here (our choice).

Source: LASER (arXiv 2505.15612): the step reward with one constant target.

>>> from reason_rl.rollout.batch import example_batch
>>> reward(target_tokens=40)(example_batch(correct=[1, 1, 0], length=[40, 41, 20])).tolist()
[1.5, 1.0, -0.5]
"""

from reason_rl.algorithm.length_reward import short_bonus
from reason_rl.algorithm.reward import Reward, correctness, total


def reward(*, target_tokens: int, bonus: float = 0.5, wrong_reward: float = -0.5) -> Reward:
    """Return correctness with a bonus for right answers that are short enough."""
    return total(correctness(wrong=wrong_reward), short_bonus(target_tokens, bonus))
