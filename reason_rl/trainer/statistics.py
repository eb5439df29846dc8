"""What is counted of a round of rollouts: sums and counts that can be added over rounds and ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from reason_rl.algorithm.store import observed
from reason_rl.rollout.batch import RolloutBatch


def round_statistics(
    batch: RolloutBatch, rewards: Tensor, kept: Tensor, figures: Mapping[str, Tensor] | None = None
) -> dict[str, Any]:
    """Return sums and counts over the rows of one round, and what the store keeps of each of its groups.

    Every row that was sampled counts, also those of groups that are then dropped, so that the figures describe the
    policy and not the filter. ``figures`` are further values a row, [rows], nan where a row does not count.
    """
    rows = len(rewards)
    scored = ~batch.correct.isnan()
    spread = [(float(group.min()), float(group.max())) for group in batch.correct.nan_to_num().split(batch.sizes)]
    sums = {
        "reward": float(rewards.nansum()),
        "accuracy": float(batch.correct[scored].sum()),
        "completion_tokens": float(batch.length.sum()),
        "think_tokens": float(batch.think_length.sum()),
        "share_cut": float(batch.truncated.float().sum()),
        "budget_tokens": float(batch.budget.sum()),
        "groups_all_right": float(sum(low == 1 for low, _ in spread)),
        "groups_all_wrong": float(sum(high == 0 for _, high in spread)),
    }
    counts = dict.fromkeys(sums, rows)
    counts["accuracy"] = int(scored.sum())
    counts["groups_all_right"] = counts["groups_all_wrong"] = batch.groups
    for name, values in (figures or {}).items():
        sums[name], counts[name] = float(values.nansum()), int((~values.isnan()).sum())
    return {
        "sums": sums,
        "counts": counts,
        "kept": int(kept.sum()),
        "drawn": len(kept),
        "groups": observed(batch),
    }
