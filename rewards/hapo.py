"""HAPO: r = s + w f(length / h), h the shortest right rollout of the problem so far; lengths in completion tokens.

f is half a cosine from 1 at length 0 over 0 at h to -1 at 2h; not below -0.7 for a right answer, not above 0 for a wrong
one, 0 before there is a right rollout. ``mode``: min or mean of the paper's code, or low, a 20th percentile (our choice).

Source: HAPO (arXiv 2505.11225).

>>> from reason_rl.rollout.batch import example_batch
>>> history = {"shortest_right": [2000.0] * 3}
>>> [round(r, 4) for r in reward()(example_batch([1, 1, 0], [1000, 3000, 3000], known=history)).tolist()]
[1.7071, 0.3, -0.7071]
"""

from reason_rl.algorithm.history_reward import Mode, Shape, own_history
from reason_rl.algorithm.reward import Reward, correctness, scaled, total


def reward(*, weight: float = 1.0, mode: Mode = "min", shape: Shape = "cosine") -> Reward:
    """Return correctness plus the comparison with the problem's own history."""
    return total(correctness(), scaled(weight, own_history(mode, shape)))
