"""ShorterBetter: r = alpha c - beta |L - L*|, L* the shortest right length of the problem, lengths in completion tokens.

Where nobody is right L* is the mean length. Cut rollouts count as wrong. ``token_penalty`` is the paper's beta, for windows
of 6000 tokens: scale it with the window.

Source: ShorterBetter (arXiv 2504.21370); alpha 2 and beta 0.001.

>>> from reason_rl.rollout.batch import example_batch
>>> values = reward()(example_batch(correct=[1, 1, 1, 0], length=[1000, 2000, 3000, 4000]))
>>> [round(r, 4) for r in values.tolist()]
[2.0, 1.0, 0.0, -3.0]
"""

from reason_rl.algorithm.group_reward import distance_to_shortest
from reason_rl.algorithm.reward import Reward

TRUNCATION_PENALTY = True


def reward(*, right_reward: float = 2.0, token_penalty: float = 0.001) -> Reward:
    """Return a reward for right answers, less a penalty for each token away from the shortest right one."""
    return distance_to_shortest(right_reward, token_penalty)
