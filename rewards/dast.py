"""DAST on-policy: r = max(0.5 - 0.5 lam, 0.1) if right, min(0.9 lam - 0.1, -0.1) if wrong, lam = (L - B) / B.

B = p Lr + (1 - p) max: p is the share right and Lr the mean length of the problem's right rollouts, in completion tokens.
Cut ones count as wrong. The paper ranks samples for preference training; taking p and Lr from the group is our choice.

Source: DAST (arXiv 2503.04472).

>>> from reason_rl.rollout.batch import example_batch
>>> values = reward(max_tokens=4096)(example_batch(correct=[1, 1, 1, 0], length=[1000, 2000, 3000, 4000]))
>>> [round(r, 4) for r in values.tolist()]
[0.8019, 0.6038, 0.4057, -0.1]
"""

from reason_rl.algorithm.group_reward import difficulty_budget
from reason_rl.algorithm.reward import Reward

TRUNCATION_PENALTY = True


def reward(*, max_tokens: int) -> Reward:
    """Return a reward against a token budget that the problem's difficulty sets."""
    return difficulty_budget(max_tokens)
