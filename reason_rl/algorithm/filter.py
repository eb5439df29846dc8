"""Filters: which groups carry a learning signal."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Keep = Literal["all", "non_zero_std"]


def keep_groups(metric: Float[Tensor, " rows"], group_size: int, keep: Keep) -> Bool[Tensor, " groups"]:
    """Return which groups are kept: all, or those whose metric is not the same in all rows.

    Unscorable rows (nan) are left out of the comparison; a group with fewer than two scored rows has no signal.

    >>> keep_groups(torch.tensor([0.0, 0, 1, 1, 1, 0]), 2, "non_zero_std").tolist()
    [False, False, True]

    Source: DAPO (arXiv 2503.14476) section 3.2; DLER (2510.15110) section 3. The released DLER code filters on
    correctness, the paper's wording is about the reward; ``filter.metric`` chooses, default reward (our choice).
    """
    groups = metric.view(-1, group_size)
    if keep == "all":
        return torch.ones(len(groups), dtype=torch.bool)
    if keep == "non_zero_std":
        highest = groups.nan_to_num(nan=-torch.inf).max(dim=1).values
        lowest = groups.nan_to_num(nan=torch.inf).min(dim=1).values
        return highest > lowest
    raise ValueError(f"unknown filter {keep!r}")


def select_until_full(kept: Bool[Tensor, " drawn"], wanted: int) -> Int[Tensor, " groups"]:
    """Return which of the groups drawn so far make up the batch, in the order in which they were drawn.

    The first ``wanted`` kept groups; any further ones are surplus and dropped. While fewer are kept, rejected groups
    hold the remaining places so that shapes stay fixed (they must be left out of the loss: ``~kept[selected]``).

    Args:
        kept: verdicts of :func:`keep_groups` over all rounds, in drawing order, [drawn].
        wanted: groups that make up a batch.

    Two rounds of three groups, three wanted: 1000 of the first and 1100, 0111 of the second; 0010 is surplus.

    >>> select_until_full(torch.tensor([False, True, False, True, True, True]), 3).tolist()
    [1, 3, 4]

    Source: DAPO (arXiv 2503.14476) section 3.2. The released code draws without limit, or fails once a limit of
    rounds is hit; here the caller bounds the rounds and an incomplete batch is trained on (our choice).
    """
    chosen = kept.nonzero().flatten()[:wanted]
    spare = (~kept).nonzero().flatten()[: wanted - len(chosen)]
    return torch.cat([chosen, spare]).sort().values
