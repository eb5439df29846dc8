"""GRPO-LEAD: r = exp(-alpha z) if right, -1 if wrong, z the length standardised over the problem's right rollouts, in tokens.

Lengths count where the three shortest rollouts have more than ``gate_tokens`` on average, else r is 1 or -1. Cut ones count
as wrong. The weight by difficulty is ``advantage.difficulty_weight``.

Source: GRPO-LEAD (arXiv 2504.09696); the gate is in the released code only.

>>> from reason_rl.rollout.batch import example_batch
>>> values = reward()(example_batch(correct=[1, 1, 1, 0], length=[5000, 6000, 7000, 8000]))
>>> [round(r, 4) for r in values.tolist()]
[1.0513, 1.0, 0.9512, -1.0]
"""

from reason_rl.algorithm.group_reward import lead
from reason_rl.algorithm.reward import Reward

TRUNCATION_PENALTY = True


def reward(*, alpha: float = 0.05, gate_tokens: int = 4000) -> Reward:
    """Return a reward that falls exponentially with length among right answers; -1 for wrong ones."""
    return lead(alpha, gate_tokens)
