"""Self-rewarded efficiency: r = c (1 + w p Lmin / L), Lmin the shortest right length of the problem, lengths in tokens.

p is the group's share right: where the problem is hard, length counts less (``dynamic``). Cut rollouts count as wrong. An
approximation: the idea is the paper's, the formula is ours, for the paper's was not at hand.

Source: Self-Rewarded Efficiency RL (arXiv 2506.15647), abstract; the section with the formula was not at hand.

>>> from reason_rl.rollout.batch import example_batch
>>> values = reward(dynamic=False)(example_batch(correct=[1, 1, 1, 0], length=[1000, 2000, 3000, 4000]))
>>> [round(r, 4) for r in values.tolist()]
[1.5, 1.25, 1.1667, 0.0]
"""

from reason_rl.algorithm.group_reward import shortest_right_share
from reason_rl.algorithm.reward import Reward, correctness, product, total, truncation

TRUNCATION_PENALTY = True


def reward(*, weight: float = 0.5, dynamic: bool = True) -> Reward:
    """Return correctness with a bonus for being as short as the shortest right answer."""
    return total(product(correctness(), truncation()), shortest_right_share(weight, dynamic))
