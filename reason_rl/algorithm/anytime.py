"""Rewards along one thinking trace: it is cut at several budgets, and each prefix is judged by its own summaries.

Shapes: q questions, g traces each, m budgets in think tokens, n summaries of each (trace, budget). Segment ``s`` of a
trace holds the think tokens after budget ``s - 1`` up to budget ``s``.

Source: AnytimeReasoner (arXiv 2505.13438) eq. 4-9; its released code normalises nothing by a standard
deviation either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reason_rl.errors import RecipeError

Prior = Literal["uniform", "linear", "base"]
Variance = Literal["brpo", "earlier_only", "group_only", "none"]

Returns = Float[Tensor, "q g m"]


def prior_weights(prior: Prior, budgets: Sequence[int]) -> Float[Tensor, " m"]:
    """Return the probability of each budget (think tokens): equal, in proportion to the budget, or all on the last.

    Raises:
        RecipeError: when the budgets do not grow from above 0, or for an unknown prior.

    >>> [round(p, 1) for p in prior_weights("linear", [2000, 4000, 6000, 8000]).tolist()]
    [0.1, 0.2, 0.3, 0.4]

    Source: AnytimeReasoner (arXiv 2505.13438), its three budget priors.
    """
    if not budgets or list(budgets) != sorted(set(budgets)) or budgets[0] <= 0:
        raise RecipeError(f"algorithm.summaries.budgets: {list(budgets)} do not grow from above 0")
    if prior == "uniform":
        return torch.full((len(budgets),), 1 / len(budgets))
    if prior == "linear":
        return torch.tensor([budget / sum(budgets) for budget in budgets])
    if prior == "base":
        return torch.tensor([0.0] * (len(budgets) - 1) + [1.0])
    raise RecipeError(f"algorithm.summaries.prior: unknown prior {prior!r}")


def returns_to_come(accuracy: Returns, prior: Float[Tensor, " m"]) -> Returns:
    """Return ``R[s] = sum_{j >= s} P_j r_j``: what the segment and those after it still earn (eq. 6).

    >>> returns_to_come(torch.tensor([[[0.0, 0.25, 0.75, 1.0]]]), torch.full((4,), 0.25)).tolist()
    [[[0.5, 0.5, 0.4375, 0.25]]]
    """
    return (accuracy * prior).flip(-1).cumsum(-1).flip(-1)


def value_of_earlier(accuracy: Returns, prior: Float[Tensor, " m"], decay: float) -> Returns:
    """Return ``V1[s]``: the mean accuracy at earlier budgets, the newest weighing most, times the weight to come (eq. 7).

    ``V1[s] = sum_{j<s} decay^(s-j) r_j / sum_{j<s} decay^(s-j) * sum_{j>=s} P_j``; 0 for the first segment.

    >>> r = torch.tensor([[[0.25, 0.25, 0.5, 0.5]]])
    >>> [round(v, 4) for v in value_of_earlier(r, torch.full((4,), 0.25), 0.5).flatten().tolist()]
    [0.0, 0.1875, 0.125, 0.0982]
    """
    count = accuracy.shape[-1]
    lag = torch.arange(count)[:, None] - torch.arange(count)
    weights = torch.where(lag > 0, decay ** lag.clamp(min=0).to(accuracy), 0.0)
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(accuracy.dtype).tiny)
    return accuracy @ weights.T * prior.flip(0).cumsum(0).flip(0)


def segment_advantages(
    accuracy: Returns, budgets: Sequence[int], prior: Prior, decay: float = 0.5, variance: Variance = "brpo"
) -> Returns:
    """Return the advantage of each segment, ``A[s] = R[s] - V[s]`` (no standard deviation).

    ``V[s] = w V1[s] + (1 - w) V2[s]`` with ``V2`` the group's mean return (0 in a group of one) and
    ``w = b_{s-1} / b_m`` (eq. 8, 9).

    Args:
        accuracy: share of right summaries of each trace at each budget, [q, g, m].
        budgets: think tokens, growing, [m].
        prior: how likely each budget is.
        decay: how much less an earlier budget counts than the one after it, in V1.
        variance: which baseline: both, V1 alone, V2 alone, none.

    >>> r = torch.tensor([[[0.0, 0.25, 0.75, 1.0], [0.25, 0.25, 0.5, 0.5]]])
    >>> a = segment_advantages(r, [2000, 4000, 6000, 8000], "uniform")
    >>> [round(value, 4) for value in a[0, 0].tolist()]
    [0.0625, 0.1953, 0.224, 0.1094]

    Source: AnytimeReasoner (arXiv 2505.13438) eq. 6-9. Equation 9 and the code mix by (s - 1) / m, figure 1 by
    b_{s-1} / b_m; they agree for equally spaced budgets, and for others we take the second (our choice).
    """
    weights = prior_weights(prior, budgets).to(accuracy)
    returns = returns_to_come(accuracy, weights)
    earlier = value_of_earlier(accuracy, weights, decay)
    group = returns.mean(dim=1, keepdim=True) if accuracy.shape[1] > 1 else torch.zeros_like(returns)
    mix = torch.tensor([0, *budgets[:-1]]).to(accuracy) / budgets[-1]
    baselines = {
        "brpo": mix * earlier + (1 - mix) * group,
        "earlier_only": earlier,
        "group_only": group,
        "none": torch.zeros_like(returns),
    }
    return returns - baselines[variance]


def spread_over_tokens(
    values: Float[Tensor, "rows m"], lengths: Int[Tensor, " rows"], budgets: Sequence[int], width: int
) -> Float[Tensor, "rows width"]:
    """Return the value of each token's segment; 0 beyond the trace, so later segments of a short trace touch nothing.

    >>> spread_over_tokens(torch.tensor([[1.0, 2.0]]), torch.tensor([3]), [2, 4], 5).tolist()
    [[1.0, 1.0, 2.0, 0.0, 0.0]]
    """
    position = torch.arange(width)
    segment = torch.bucketize(position + 1, torch.tensor(budgets)).clamp(max=len(budgets) - 1)
    return torch.where(position < lengths[:, None], values[:, segment], 0.0)


def summary_advantages(right: Float[Tensor, "q g m n"], contexts: Int[Tensor, "q g m"]) -> Float[Tensor, "q g m n"]:
    """Return the advantage of each summary: right or not, minus the mean over all summaries of the same context.

    A finished trace has one context for all budgets beyond its end. Every context weighs alike, whatever the prior is.
    A context with one summary has no baseline of its own; it takes the mean over the group's traces at that budget.

    Args:
        right: 1 right, 0 wrong, [q, g, m, n].
        contexts: a number a context, the same for budgets that share one, [q, g, m].

    >>> summary_advantages(torch.tensor([[[[1.0, 0.0, 0.0, 1.0]]]]), torch.tensor([[[0]]])).flatten().tolist()
    [0.5, -0.5, -0.5, 0.5]

    Source: the released code of AnytimeReasoner (arXiv 2505.13438), section 2.3: thinking and summary are decoupled.
    """
    samples = right.shape[-1]
    place = contexts.flatten().unique(return_inverse=True)[1].repeat_interleave(samples)
    flat = right.flatten()
    sums = torch.zeros(int(place.max()) + 1).index_add(0, place, flat)
    counts = torch.zeros_like(sums).index_add(0, place, torch.ones_like(flat))
    mean = (sums / counts)[place].view_as(right)
    alone = (counts == 1)[place].view_as(right)
    at_budget = right.mean(dim=(1, 3), keepdim=True).expand_as(right)
    return right - torch.where(alone, at_budget, mean)
