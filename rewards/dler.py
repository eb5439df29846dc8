"""DLER: r = s (finished + (1 - finished) c), where s is correctness and c what a cut rollout keeps (unit: none).

A rollout is cut when it used its whole budget (completion tokens) without ending. c = 0 in the paper, 0.1 in the
released configuration.

Source: DLER (arXiv 2510.15110) section 3.1.

>>> from reason_rl.rollout.batch import example_batch
>>> reward()(example_batch(correct=[1, 1, 0], length=[20, 64, 30], cut=[False, True, False], budget=64)).tolist()
[1.0, 0.0, 0.0]
"""

from reason_rl.algorithm.reward import Reward, correctness, cut_answer, product, total, truncation

TRUNCATION_PENALTY = True


def reward(*, truncated_reward: float = 0.0) -> Reward:
    """Return correctness, zeroed (or scaled by ``truncated_reward``) when cut."""
    return total(product(correctness(), truncation()), cut_answer(truncated_reward))
