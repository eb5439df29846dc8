"""The reward of thinking in turns."""

from __future__ import annotations

import torch

from reason_rl.algorithm.reward import Reward, Rows
from reason_rl.algorithm.turns import CANDIDATE, CUT, parse_turns, several_attempts
from reason_rl.errors import RecipeError
from reason_rl.rollout.batch import RolloutBatch


def turn_reward(
    unit_penalty: float = -0.3,
    turn_weight: float = 0.0,
    max_turns: int = 10,
    cut: str = CUT,
    candidate: str = CANDIDATE,
) -> Reward:
    """Return ``f + a + u - w a (K - 1) / (K_max - 1)``, unit none.

    ``f`` is 1 where thinking and answers take turns in a finished rollout, else -1; ``a`` correctness of the last answer;
    ``u`` the penalty where one thinking holds several attempts, else 0; ``K`` turns.

    Args:
        unit_penalty: ``u``.
        turn_weight: ``w``; 0 leaves turns to the loss, which averages over each response.
        max_turns: ``K_max``, turns.
        cut: regular expression that matches where an attempt may begin.
        candidate: regular expression that matches what an attempt reaches.

    Raises:
        RecipeError: for fewer than two turns.

    Source: MinD (arXiv 2505.19788) abstract and reviews; the official code was not found, every constant is our choice.
    """
    if max_turns < 2:
        raise RecipeError(f"turns: max_turns {max_turns} is below 2, so no further turn could cost anything")

    def score(batch: RolloutBatch) -> Rows:
        cuts = batch.truncated.tolist()
        read = [None if was_cut else parse_turns(text) for text, was_cut in zip(batch.text, cuts, strict=True)]
        form = torch.tensor([-1.0 if turns is None else 1.0 for turns in read])
        several = torch.tensor([several_attempts(turns or [], cut, candidate) for turns in read])
        further = torch.tensor([max(0, len(turns or []) - 1) / (max_turns - 1) for turns in read])
        return form + batch.correct + unit_penalty * several - turn_weight * batch.correct * further

    return score
