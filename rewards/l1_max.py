"""L1-Max: r = c clip(alpha (n - L) + delta, 0, 1), n the length that the prompt allows and L the answer's, in tokens.

Completion tokens; cut answers count as wrong. The recipe's ``prompt.target_tokens`` draws n and writes it into the prompt.
``token_slope`` is the paper's alpha, for targets up to 4000 tokens: scale it with them. ``at_target`` is its delta.

Source: L1 (arXiv 2503.04697); alpha 0.0003, delta 0.5.

>>> from reason_rl.rollout.batch import example_batch
>>> batch = example_batch(correct=[1, 1, 1], length=[2048, 1024, 3000], columns={"target_tokens": (2048, 3000, 1024)})
>>> [round(r, 4) for r in reward()(batch).tolist()]
[0.5, 1.0, 0.0]
"""

from reason_rl.algorithm.length_reward import at_most_length
from reason_rl.algorithm.reward import Reward

TRUNCATION_PENALTY = True


def reward(*, token_slope: float = 0.0003, at_target: float = 0.5) -> Reward:
    """Return correctness, scaled down the less the answer stays below the length allowed."""
    return at_most_length(token_slope, at_target)
