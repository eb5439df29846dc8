"""Kimi k1.5's length reward: r = c + w lam, lam = 0.5 - (L - Lmin) / (Lmax - Lmin), min(0, lam) if wrong, lengths in tokens.

Extremes are over the problem's rollouts; cut ones count as wrong. The weight is not published; 0.4 is what a later
re-implementation used (our default). Without the paper's warm-up, which is a first run without this term.

Source: Kimi k1.5 (arXiv 2501.12599).

>>> from reason_rl.rollout.batch import example_batch
>>> values = reward()(example_batch(correct=[1, 1, 1, 0], length=[1000, 2000, 3000, 4000]))
>>> [round(r, 4) for r in values.tolist()]
[1.2, 1.0667, 0.9333, -0.2]
"""

from reason_rl.algorithm.group_reward import relative_length
from reason_rl.algorithm.reward import Reward, correctness, product, scaled, total, truncation

TRUNCATION_PENALTY = True


def reward(*, weight: float = 0.4) -> Reward:
    """Return correctness with a weighted reward for being among the short ones of the group."""
    return total(product(correctness(), truncation()), scaled(weight, relative_length()))
