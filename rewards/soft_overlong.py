"""Soft overlong punishment: r = s + clip((max - cache - length) / cache, -1, 0), lengths in completion tokens.

s is 1 for a right answer and ``wrong_reward`` for a wrong one. DAPO's is -1; the default here is 0 (our choice), which
makes the punishment weigh twice as much against correctness.

Source: DAPO (arXiv 2503.14476) eq. 13.

>>> from reason_rl.rollout.batch import example_batch
>>> reward(max_tokens=100, cache_tokens=20)(example_batch(correct=[1, 0, 1], length=[80, 90, 100])).tolist()
[1.0, -0.5, 0.0]
"""

from reason_rl.algorithm.reward import Reward, correctness, soft_overlong, total

TRUNCATION_PENALTY = True


def reward(*, max_tokens: int, cache_tokens: int, wrong_reward: float = 0.0) -> Reward:
    """Return correctness with a penalty that sets in ``cache_tokens`` before ``max_tokens``."""
    return total(correctness(wrong=wrong_reward), soft_overlong(max_tokens, cache_tokens))
