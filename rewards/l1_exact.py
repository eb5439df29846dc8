"""L1-Exact: r = c - alpha |n - L|, n the length that the prompt asks for and L the answer's, in completion tokens.

Wrong answers keep the penalty; cut ones count as wrong. The recipe's ``prompt.target_tokens`` puts n into the prompt.
``token_penalty`` is the paper's alpha, for targets up to 4000 tokens: scale it with them.

Source: L1 (arXiv 2503.04697); alpha 0.0003.

>>> from reason_rl.rollout.batch import example_batch
>>> batch = example_batch(correct=[1, 0], length=[3000, 3000], columns={"target_tokens": (1024, 1024)})
>>> [round(r, 4) for r in reward()(batch).tolist()]
[0.4072, -0.5928]
"""

from reason_rl.algorithm.length_reward import exact_length
from reason_rl.algorithm.reward import Reward

TRUNCATION_PENALTY = True


def reward(*, token_penalty: float = 0.0003) -> Reward:
    """Return correctness, less a penalty for each token away from the length asked for."""
    return exact_length(token_penalty)
