"""Filters: which groups carry a learning signal."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
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
