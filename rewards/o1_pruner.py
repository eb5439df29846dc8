"""O1-Pruner: r = clip(L_ref / length - 1 + alpha (s - A_ref), -2, 4); lengths in completion tokens.

L_ref and A_ref are mean length and accuracy of the starting model on the problem (``algorithm.reference``, or a table).

Source: O1-Pruner (arXiv 2501.12570): alpha 2 for a 7B model, 5 for a 32B one.

>>> from reason_rl.rollout.batch import example_batch
>>> start = {"reference_tokens": [2500.0, 2500.0], "reference_accuracy": [0.75, 0.75]}
>>> reward(accuracy_weight=5.0)(example_batch([1, 0], [1000, 4000], known=start)).tolist()
[2.75, -2.0]
"""

from reason_rl.algorithm.history_reward import against_reference
from reason_rl.algorithm.reward import Reward

NEEDS_REFERENCE = True


def reward(*, accuracy_weight: float = 2.0) -> Reward:
    """Return the gain in length plus the weighted gain in accuracy over the starting model."""
    return against_reference(accuracy_weight)
