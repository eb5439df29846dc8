"""Efficient reasoning: r = c (1 - alpha sigmoid((L - mean) / std)) over the right rollouts of a problem, lengths in tokens.

Cut rollouts count as wrong. A lone right answer gets 1 - alpha / 2, as in the released code.

Source: Training Language Models to Reason Efficiently (arXiv 2502.04463); alpha 0.1 in the released scripts.

>>> from reason_rl.rollout.batch import example_batch
>>> values = reward()(example_batch(correct=[1, 1, 1, 0], length=[1000, 2000, 3000, 4000]))
>>> [round(r, 4) for r in values.tolist()]
[0.9773, 0.95, 0.9227, 0.0]
"""

from reason_rl.algorithm.group_reward import efficient
from reason_rl.algorithm.reward import Reward

TRUNCATION_PENALTY = True


def reward(*, alpha: float = 0.1) -> Reward:
    """Return correctness, of which ``alpha`` at most is lost by being longer than the other right answers."""
    return efficient(alpha)
