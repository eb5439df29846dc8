"""Soft overlong punishment: r = s + clip((max - cache - length) / cache, -1, 0), s correctness, lengths in completion tokens.

Source: DAPO (arXiv 2503.14476) eq. 13. DAPO grades with +1 / -1; here 1 / 0, which moves every reward of a group alike.
"""

from reason_rl.algorithm.reward import Reward, correctness, soft_overlong, total

TRUNCATION_PENALTY = True


def reward(*, max_tokens: int, cache_tokens: int) -> Reward:
    """Return correctness with a penalty that sets in ``cache_tokens`` before ``max_tokens``."""
    return total(correctness(), soft_overlong(max_tokens, cache_tokens))
