"""Correctness alone: r = 1 for a right answer, 0 for a wrong one; lengths play no part (unit: none).

Source: GRPO (arXiv 2402.03300) section 4.1, with the rule-based outcome reward of DeepSeek-R1 (2501.12948) section 2.2.2.

>>> from reason_rl.rollout.batch import example_batch
>>> reward()(example_batch(correct=[1, 0], length=[20, 30])).tolist()
[1.0, 0.0]
"""

from reason_rl.algorithm.reward import Reward, correctness


def reward() -> Reward:
    """Return the outcome reward."""
    return correctness()
