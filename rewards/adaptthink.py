"""AdaptThink: r = s - R_ref + delta (did not think), s = 1 right, 0 wrong (unit: none; lengths in tokens play no part).

R_ref is the starting model's accuracy on the problem (``algorithm.reference``, or a table), its own baseline: use it
with ``advantage: {baseline: none, scale: none}``; ``group_mean`` is the paper's ablation, in which R_ref cancels.

Source: AdaptThink (arXiv 2505.13417) eq. 7; delta 0.05 is the paper's main setting.

>>> from dataclasses import replace
>>> import torch
>>> from reason_rl.rollout.batch import example_batch
>>> batch = example_batch([1, 0, 1, 1], [200, 200, 1000, 1000], known={"reference_accuracy": [0.75] * 4})
>>> batch = replace(batch, think_length=torch.tensor([1, 1, 900, 900]))
>>> [round(value, 2) for value in reward()(batch).tolist()]
[0.3, -0.7, 0.25, 0.25]
"""

from reason_rl.algorithm.reward import Reward, correctness, total
from reason_rl.algorithm.think_choice import minus_reference, no_think_bonus

NEEDS_REFERENCE = True


def reward(*, delta: float = 0.05) -> Reward:
    """Return how much better than the starting model a row is, with a bonus for not thinking."""
    return total(correctness(), minus_reference(), no_think_bonus(delta))
