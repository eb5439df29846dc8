"""DA-DLER: r = s finished (length <= target), target by the share right of the group; lengths in completion tokens.

``tokens`` has one length more than ``thresholds``: problems solved more often get the shorter target. The budget must be
the longest target, so that the share right is measured there.

Source: DA-DLER (arXiv 2510.15110) section 3.5: thresholds [0.5], tokens [4000, 2000].

>>> from reason_rl.rollout.batch import example_batch
>>> reward(thresholds=[0.5], tokens=[4000, 2000])(example_batch([1, 1, 0, 1], [1500, 2000, 900, 2600])).tolist()
[1.0, 1.0, 0.0, 0.0]
"""

from reason_rl.algorithm.reward import Reward, correctness, product
from reason_rl.algorithm.tiers import within_tier

TRUNCATION_PENALTY = True


def reward(*, thresholds: list[float], tokens: list[int]) -> Reward:
    """Return correctness, zeroed when cut or longer than the target of the group's tier."""
    return product(correctness(), within_tier(thresholds, tokens))
