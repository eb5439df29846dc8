"""Length rewards that compare a rollout with the past: the same problem's earlier rollouts, or the starting model's."""

from __future__ import annotations

from typing import Literal

import torch

from reason_rl.algorithm.reward import Reward, Rows
from reason_rl.errors import RecipeError, RunError
from reason_rl.rollout.batch import RolloutBatch

Mode = Literal["min", "mean", "low"]
Shape = Literal["cosine", "linear"]

FACTS = {"min": "shortest_right", "mean": "mean_right", "low": "low_right"}
RIGHT_FLOOR = -0.7
DEAD_ZONE = 1.1


def own_history(mode: Mode = "min", shape: Shape = "cosine") -> Reward:
    """Return how a rollout's length compares with that of the problem's right rollouts so far, ``h``; 0 without any.

    - ``cosine``: ``f = cos(pi/2 min(length / h, 2))``; ``max(-0.7, f)`` for a right answer, ``min(0, f)`` for a wrong one;
    - ``linear``: 0 up to 1.1 h but ``1 - length / h`` for a right answer below h, then ``-(length - 1.1 h) / h``, not
      below -0.7 for a right answer and -1 for a wrong one.

    Args:
        mode: h in completion tokens: the shortest, the mean, or the 20th percentile of the newest 32 (our choice).
        shape: of the reward.

    Raises:
        RecipeError: for an unknown mode or shape.

    >>> from reason_rl.rollout.batch import example_batch
    >>> batch = example_batch([1, 1, 1, 0], [1000, 2000, 3000, 4000], known={"shortest_right": [2000.0] * 4})
    >>> [round(r, 4) for r in own_history()(batch).tolist()]
    [0.7071, -0.0, -0.7, -1.0]

    Source: HAPO (arXiv 2505.11225), and its released code.
    """
    if mode not in FACTS:
        raise RecipeError(f"hapo: unknown mode {mode!r}; known: {', '.join(FACTS)}")
    if shape not in ("cosine", "linear"):
        raise RecipeError(f"hapo: unknown shape {shape!r}; known: cosine, linear")

    def reward(batch: RolloutBatch) -> Rows:
        history = batch.known[FACTS[mode]]
        share = batch.length / history
        right = batch.correct == 1
        if shape == "cosine":
            value = torch.cos(torch.pi / 2 * share.clamp(max=2))
            value = torch.where(right, value.clamp(min=RIGHT_FLOOR), value.clamp(max=0))
        else:
            late = (DEAD_ZONE - share).clamp(max=0)
            early = torch.where(right & (share < 1), 1 - share, 0.0)
            value = early + torch.where(right, late.clamp(min=RIGHT_FLOOR), late.clamp(min=-1))
        value = torch.where(history.isnan(), 0.0, value)
        return torch.where(batch.correct.isnan(), torch.nan, value)

    return reward


def against_reference(accuracy_weight: float, low: float = -2.0, high: float = 4.0) -> Reward:
    """Return ``clip(L_ref / length - 1 + alpha (s - A_ref), low, high)``, lengths in completion tokens.

    ``L_ref`` and ``A_ref`` are mean length and accuracy of the reference on the problem.

    Args:
        accuracy_weight: alpha.
        low, high: bounds.

    Raises:
        RunError: when a problem has no reference.

    >>> from reason_rl.rollout.batch import example_batch
    >>> known = {"reference_tokens": [2500.0] * 4, "reference_accuracy": [0.75] * 4}
    >>> reward = against_reference(2.0)(example_batch([1, 1, 1, 0], [1000, 2000, 3000, 4000], known=known))
    >>> [round(r, 4) for r in reward.tolist()]
    [2.0, 0.75, 0.3333, -1.875]

    Source: O1-Pruner (arXiv 2501.12570) and its released code, off-policy there and on-policy here (our choice).
    """

    def reward(batch: RolloutBatch) -> Rows:
        tokens, accuracy = batch.known["reference_tokens"], batch.known["reference_accuracy"]
        if tokens.isnan().any():
            missing = batch.problem_id[int(tokens.isnan().nonzero()[0])]
            raise RunError(f"problem {missing} has no reference; set algorithm.reference or difficulty.table")
        value = tokens / batch.length.clamp(min=1) - 1 + accuracy_weight * (batch.correct - accuracy)
        return value.clamp(low, high)

    return reward
