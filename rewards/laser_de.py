"""LASER-DE: r = s + bonus (right and length <= target, or wrong and length > target); lengths in completion tokens.

As LASER-D, and a wrong answer that explored further than the target gets the bonus too, unless it was cut or repeats itself.

Source: LASER-DE (arXiv 2505.15612).

>>> from reason_rl.rollout.batch import example_batch
>>> targets = {"target_high": [3072.0] * 4, "target_medium": [8192.0] * 4, "target_low": [9e9] * 4}
>>> reward()(example_batch([1, 1, 1, 0], [800, 3072, 3100, 9000], known=targets)).tolist()
[1.5, 1.5, 1.0, 0.0]
"""

from reason_rl.algorithm.reward import Reward, correctness, total
from reason_rl.algorithm.targets import long_wrong_bonus, short_right_bonus

NEEDS_TARGETS = True


def reward(*, bonus: float = 0.5, wrong_reward: float = -0.5) -> Reward:
    """Return correctness with a bonus for short right answers and for long wrong ones."""
    return total(correctness(wrong=wrong_reward), short_right_bonus(bonus), long_wrong_bonus(bonus))
