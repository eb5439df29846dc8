"""TLDR: r = s (1 - price max(0, min(length, max) - free) / max), s = 1 right, 0 wrong or cut; lengths in completion tokens.

The price in [0, 1) comes from ``algorithm.prices``, by the level that the prompt asks for, so that every right answer beats
every wrong one. The paper's formula is not public: this one is our choice.

Source: TLDR (arXiv 2505.07961), abstract; docs/methods/tldr.md says why no group standard deviation.

>>> from reason_rl.rollout.batch import example_batch
>>> batch = example_batch([1, 1, 0, 1], [1000, 2000, 4000, 8000], budget=8000, known={"price": [0.5] * 4})
>>> reward(max_tokens=8000)(batch).tolist()
[0.9375, 0.875, 0.0, 0.5]
"""

from reason_rl.algorithm.price import priced
from reason_rl.algorithm.reward import Reward, correctness, product, truncation

TRUNCATION_PENALTY = True
CANCELLED_BY_GROUP_STD = True


def reward(*, max_tokens: int, free_tokens: int = 0) -> Reward:
    """Return correctness, zero when cut, at the price of the row's level; the first ``free_tokens`` cost nothing."""
    return product(correctness(), truncation(), priced(max_tokens, free_tokens))
