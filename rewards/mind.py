"""MinD: r = f + a + u - w a (K - 1) / (K_max - 1): thinking in turns, each one attempt with its answer (unit: none).

f = 1 when thinking and answers take turns in a finished rollout, else -1; a = correctness of the last answer; u =
``unit_penalty`` when one thinking holds several attempts (``cut`` and ``candidate`` tell them apart), else 0; K turns;
w = ``turn_weight``, 0 by default. The tags are looked for in the text.

Source: MinD (arXiv 2505.19788) abstract and reviews; every constant is our choice.

>>> from dataclasses import replace
>>> from reason_rl.rollout.batch import example_batch
>>> texts = ("x = 1 </think> 1 <think> y = 1 </think> 1", "x = 1\\nWait, x = 2 </think> 2", "x = 1")
>>> [round(r, 2) for r in reward()(replace(example_batch([1, 1, 0], [9, 8, 3]), text=texts)).tolist()]
[2.0, 1.7, -1.0]
"""

from reason_rl.algorithm.reward import Reward
from reason_rl.algorithm.turn_reward import turn_reward
from reason_rl.algorithm.turns import CANDIDATE, CUT

TRUNCATION_PENALTY = True


def reward(
    *,
    unit_penalty: float = -0.3,
    turn_weight: float = 0.0,
    max_turns: int = 10,
    cut: str = CUT,
    candidate: str = CANDIDATE,
) -> Reward:
    """Return format + accuracy + compactness, less ``turn_weight`` for the most turns."""
    return turn_reward(unit_penalty, turn_weight, max_turns, cut, candidate)
