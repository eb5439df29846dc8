"""What is counted of a round of rollouts: sums and counts that can be added over rounds and ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reason_rl.rollout.batch import RolloutBatch


def round_statistics(batch: RolloutBatch, rewards: Tensor, kept: Tensor) -> dict[str, Any]:
    """Return sums and counts over the rows of one round, and the pass rate of each of its problems.

    Every row that was sampled counts, also those of groups that are then dropped, so that the figures describe the
    policy and not the filter.
    """
    rows = len(rewards)
    scored = ~batch.correct.isnan()
    spread = batch.correct.nan_to_num().view(batch.groups, batch.group_size)
    sums = {
        "reward": float(rewards.nansum()),
        "accuracy": float(batch.correct[scored].sum()),
        "completion_tokens": float(batch.length.sum()),
        "think_tokens": float(batch.think_length.sum()),
        "share_cut": float(batch.truncated.float().sum()),
        "budget_tokens": float(batch.budget.sum()),
        "groups_all_right": float((spread.min(dim=1).values == 1).sum()),
        "groups_all_wrong": float((spread.max(dim=1).values == 0).sum()),
    }
    counts = dict.fromkeys(sums, rows)
    counts["accuracy"] = int(scored.sum())
    counts["groups_all_right"] = counts["groups_all_wrong"] = batch.groups
    rates = torch.where(scored, batch.correct, torch.nan).view(batch.groups, batch.group_size).nanmean(dim=1)
    names = batch.problem_id[:: batch.group_size]
    return {
        "sums": sums,
        "counts": counts,
        "kept": int(kept.sum()),
        "drawn": len(kept),
        "pass_rates": [(name, rate) for name, rate in zip(names, rates.tolist(), strict=True) if rate == rate],
    }
