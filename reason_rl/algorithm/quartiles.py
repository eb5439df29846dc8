"""How many rollouts of a group are learned from, by how hard its problem is among those seen so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reason_rl.algorithm.store import Observed, Policy, State


def counts_by_quartile(
    rates: Float[Tensor, " groups"], seen: Sequence[float], counts: Sequence[int], warm_groups: int
) -> Int[Tensor, " groups"]:
    """Return how many rollouts each group keeps: by the quarter of all earlier pass rates that its own falls into.

    Args:
        rates: share right of each group, [groups].
        seen: shares right of earlier groups.
        counts: rollouts kept in the hardest quarter, the second, the third and the easiest one.
        warm_groups: earlier groups needed; with fewer every group keeps ``counts[0]``.

    >>> seen = [0.1, 0.2, 0.4, 0.5, 0.7, 0.8, 0.9, 0.9]
    >>> counts_by_quartile(torch.tensor([0.0, 0.5, 0.7, 1.0]), seen, (8, 8, 6, 4), warm_groups=8).tolist()
    [8, 8, 6, 4]

    Source: GFPO (arXiv 2508.09726). The paper keeps a t-digest of mean rewards; here quartiles are exact and of
    shares right.
    """
    kept = torch.tensor(counts)
    if len(seen) < max(warm_groups, 1):
        return kept[:1].repeat(len(rates))
    edges = torch.quantile(torch.tensor(seen), torch.tensor([0.25, 0.5, 0.75]))
    return kept[(rates[:, None] >= edges).sum(dim=1)]


@dataclass(frozen=True)
class QuartileCounts(Policy):
    """Counts by quartile; the state is a table from pass rate to how often it came, small as a group has few rates.

    Args:
        counts: rollouts kept of a group, hardest quarter first.
        warm_groups: groups seen before the quartiles are used (our choice: the paper gives no number).
    """

    counts: tuple[int, int, int, int]
    warm_groups: int = 256

    name = "selection"

    def initial_state(self) -> State:
        """Return an empty table."""
        return {"rates": {}}

    def after_generation(self, state: State, groups: Sequence[Observed]) -> State:
        """Return the table with the pass rates of these groups counted; groups without a verdict are left out.

        >>> seen = [Observed("a", (1, 0), (9, 9)), Observed("b", (0, 0), (9, 9))]
        >>> QuartileCounts((8, 8, 6, 4)).after_generation({"rates": {"0.5": 1}}, seen)
        {'rates': {'0.5': 2, '0.0': 1}}
        """
        table = dict(state["rates"])
        for group in groups:
            if group.scored:
                rate = str(group.right / group.scored)
                table[rate] = table.get(rate, 0) + 1
        return {"rates": table}

    def rows_kept(self, state: State, correct: Float[Tensor, " rows"], group_size: int) -> Int[Tensor, " groups"]:
        """Return how many rollouts each group keeps, from its verdicts and the table so far.

        >>> QuartileCounts((4, 4, 3, 2)).rows_kept({"rates": {}}, torch.tensor([1.0, 0, 1, 1]), 2).tolist()
        [4, 4]
        """
        seen = [float(rate) for rate, times in state["rates"].items() for _ in range(times)]
        rates = correct.view(-1, group_size).nanmean(dim=1).nan_to_num()
        return counts_by_quartile(rates, seen, self.counts, self.warm_groups)
