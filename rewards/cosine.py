"""Cosine reward: r = end + (start - end) (1 + cos(pi length / max)) / 2, by correctness, lengths in completion tokens.

Right answers fall from 2 to 1, wrong ones rise from -10 to 0; a rollout that is cut, or reaches the maximum, gets
``exceeded``, whatever its answer. Set ``max_tokens`` to the budget. Without the paper's repetition penalty.

Source: Demystifying Long CoT (arXiv 2502.03373) section 4.2 and its table of hyper-parameters.

>>> from reason_rl.rollout.batch import example_batch
>>> rewards = reward(max_tokens=4096)(example_batch(correct=[1, 0, 1], length=[2048, 2048, 4096]))
>>> [round(r, 4) for r in rewards.tolist()]
[1.5, -5.0, -10.0]
"""

from reason_rl.algorithm.reward import Reward, cosine

TRUNCATION_PENALTY = True


def reward(
    *,
    max_tokens: int,
    right_short: float = 2.0,
    right_long: float = 1.0,
    wrong_short: float = -10.0,
    wrong_long: float = 0.0,
    exceeded: float = -10.0,
) -> Reward:
    """Return a reward that is best for short right answers and worst for short wrong or cut ones."""
    return cosine(max_tokens, (right_short, right_long), (wrong_short, wrong_long), exceeded)
