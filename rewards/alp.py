"""ALP: r = c - beta max(p, 1 / K) L / max, p the share right of the problem's K rollouts, L and max in completion tokens.

The easier the problem, the dearer a token. Cut rollouts count as wrong.

Source: Just Enough Thinking (arXiv 2506.05256); beta and the division by max: our choice.

>>> from reason_rl.rollout.batch import example_batch
>>> values = reward(max_tokens=4000)(example_batch(correct=[1, 1, 1, 0], length=[1000, 2000, 3000, 4000]))
>>> [round(r, 4) for r in values.tolist()]
[0.9625, 0.925, 0.8875, -0.15]
"""

from reason_rl.algorithm.group_reward import easy_length_penalty
from reason_rl.algorithm.reward import Reward

TRUNCATION_PENALTY = True


def reward(*, max_tokens: int, beta: float = 0.2) -> Reward:
    """Return correctness with a price on tokens that rises with the share of the problem's rollouts that is right."""
    return easy_length_penalty(beta, max_tokens)
