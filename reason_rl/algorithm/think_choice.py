"""Rewards for choosing whether to think: which rows did not think, and how right they are beside a reference."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from reason_rl.algorithm.reward import Reward, Rows
from reason_rl.errors import RecipeError
from reason_rl.rollout.batch import RolloutBatch

REFERENCE = "reference_accuracy"


def no_think(batch: RolloutBatch) -> Bool[Tensor, " rows"]:
    """Return which rows closed their thinking with their first token.

    A row of one token that was cut has one think token too, without having closed anything.

    >>> from dataclasses import replace
    >>> from reason_rl.rollout.batch import example_batch
    >>> no_think(replace(example_batch([1, 1], [20, 30]), think_length=torch.tensor([1, 24]))).tolist()
    [True, False]

    Source: AdaptThink (arXiv 2505.13417); its released code looks at the text, which must begin with the end-of-think token.
    """
    return (batch.think_length == 1) & (batch.length > 1)


def no_think_bonus(delta: float) -> Reward:
    """Return ``delta`` for rows that did not think, else 0 (unit: none).

    >>> from reason_rl.rollout.batch import example_batch
    >>> no_think_bonus(0.05)(example_batch([1], [20])).tolist()
    [0.0]

    Source: AdaptThink (arXiv 2505.13417) eq. 7: the inverse of the weight of "no less accurate than the start".
    """
    return lambda batch: torch.where(no_think(batch), delta, 0.0)


def minus_reference() -> Reward:
    """Return ``-R_ref``, minus the accuracy of the starting model on the row's problem (unit: none).

    Raises:
        RecipeError: when an accuracy is missing; 0 in its place would reward everything.

    >>> from reason_rl.rollout.batch import example_batch
    >>> minus_reference()(example_batch([1], [20], known={"reference_accuracy": [0.75]})).tolist()
    [-0.75]

    Source: AdaptThink (arXiv 2505.13417) eq. 5 and 7.
    """

    def reward(batch: RolloutBatch) -> Rows:
        known = batch.known.get(REFERENCE, torch.full((len(batch.problem_id),), torch.nan))
        rows = zip(batch.problem_id, known.isnan().tolist(), strict=True)
        missing = sorted({name for name, unknown in rows if unknown})
        if missing:
            raise RecipeError(
                f"no reference accuracy of {len(missing)} problems ({', '.join(missing[:3])} ...); set "
                "algorithm.reference, or difficulty.table to a table of all of them, which reason-rl difficulty writes"
            )
        return -known

    return reward
