"""DR. SAF: r = c + 0.05 (short right answer to an easy problem, or long wrong one to a hard problem), lengths in tokens.

Easy: share right of at least ``easy``; hard: below ``hard``; short and long: against the median of the right rollouts. Cut
ones count as wrong. Without the difficulty label that the paper has the model write first, and its reward of 0.01 and 0.02.

Source: DR. SAF (arXiv 2508.11582); its baseline is ``advantage.baseline: boundary``.

>>> from reason_rl.rollout.batch import example_batch
>>> values = reward()(example_batch(correct=[1, 1, 1, 1], length=[100, 200, 300, 400]))
>>> [round(r, 2) for r in values.tolist()]
[1.05, 1.05, 1.0, 1.0]
"""

from reason_rl.algorithm.group_reward import adaptive_bonus
from reason_rl.algorithm.reward import Reward, correctness, product, total, truncation

TRUNCATION_PENALTY = True


def reward(*, bonus: float = 0.05, easy: float = 0.95, hard: float = 0.3) -> Reward:
    """Return correctness with a bonus that shortens easy problems and lengthens hard ones."""
    return total(product(correctness(), truncation()), adaptive_bonus(bonus, easy, hard))
