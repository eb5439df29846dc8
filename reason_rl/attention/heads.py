"""Budgeted attention heads: gates that open with the requested budget, what they cost, and which heads a budget keeps."""

from __future__ import annotations

from math import floor, log
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

Gates = Float[Tensor, "*rows layers units"]
Layout = Literal["layer", "global"]
Rank = Literal["gate", "threshold"]

DENSE_FROM = 1.0 - 1e-6
SMALLEST_BUDGET, LARGEST_BUDGET = 0.02, 0.98
OFFSET_START = 2.0
SLOPE_START = 0.541324854612918  # softplus of it is 1


def gates(offset: Float[Tensor, "layers units"], slope: Float[Tensor, "layers units"], budget: float) -> Gates:
    """Return how open each gate is at a budget: ``g = sigmoid(a + softplus(r) logit(b))``, which never falls as b grows.

    From 1 - 1e-6 on all gates are exactly 1; below, b is kept between 0.02 and 0.98 before its logit is taken.

    Args:
        offset: a.
        slope: r; the odds of a gate grow with the budget's odds to the power softplus(r).
        budget: share of the attention asked for, above 0 and at most 1.

    Raises:
        ValueError: for a budget outside of that.

    >>> start = torch.full((1, 1), OFFSET_START), torch.full((1, 1), SLOPE_START)
    >>> [round(gates(*start, b).item(), 4) for b in (0.25, 0.5, 0.75, 1.0)]
    [0.7112, 0.8808, 0.9568, 1.0]

    Source: Budgeted Attention Allocation (arXiv 2605.05697) as an audit of it gives the formula. Clamp, bypass and start are
    ours.
    """
    check_budget(budget)
    if budget >= DENSE_FROM:
        return torch.ones_like(offset)
    return torch.sigmoid(gate_logits(offset, slope, budget))


def gate_logits(
    offset: Float[Tensor, "layers units"], slope: Float[Tensor, "layers units"], budget: float
) -> Float[Tensor, "layers units"]:
    """Return what the sigmoid of a gate is taken of; it ranks heads where the sigmoid itself rounds to 1.

    >>> gate_logits(torch.full((1, 1), 30.0), torch.zeros(1, 1), 0.5).item()
    30.0
    """
    b = min(max(budget, SMALLEST_BUDGET), LARGEST_BUDGET)
    return offset + softplus(slope) * log(b / (1 - b))


def check_budget(budget: float) -> None:
    """Raise unless ``0 < budget <= 1``.

    Raises:
        ValueError: then.
    """
    if not 0.0 < budget <= 1.0:
        raise ValueError(f"budget {budget} is not above 0 and at most 1")


def cost(open_gates: Gates) -> Float[Tensor, "*rows"]:
    """Return the mean of all gates: the share of the attention that is used, an estimate and no latency.

    >>> cost(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).item()
    0.5
    """
    return open_gates.mean(dim=(-2, -1))


def budget_penalty(
    open_gates: Gates, budget: float, cost_weight: float = 0.01, overshoot_weight: float = 1.0
) -> Float[Tensor, "*rows"]:
    """Return what is added to the loss: ``c C + o max(0, C - b)``.

    Args:
        open_gates: gates at the budget.
        budget: b.
        cost_weight, overshoot_weight: c and o; our choice, the paper's are not public.

    >>> round(budget_penalty(torch.full((1, 4), 0.75), 0.5).item(), 4)
    0.2575

    Source: Budgeted Attention Allocation (arXiv 2605.05697), the two terms.
    """
    used = cost(open_gates)
    return cost_weight * used + overshoot_weight * (used - budget).clamp(min=0.0)


def thresholds(
    offset: Float[Tensor, "layers units"], slope: Float[Tensor, "layers units"]
) -> Float[Tensor, "layers units"]:
    """Return the budget at which each gate is half open, ``sigmoid(-a / softplus(r))``.

    Heads ranked by it (smaller first) give nested masks: what a small budget keeps, a larger one keeps too.

    >>> r = torch.expm1(torch.tensor([[1.0, 1.0, 2.0, 0.5]])).log()
    >>> thresholds(torch.tensor([[1.0, -1.0, 0.0, 0.5]]), r)
    tensor([[0.2689, 0.7311, 0.5000, 0.2689]])
    """
    s = softplus(slope)
    flat = torch.where(offset > 0, 0.0, 1.0)
    return torch.where(s > 0, torch.sigmoid(-offset / s.clamp(min=torch.finfo(s.dtype).tiny)), flat)


def rounded(share: float, units: int) -> int:
    """Return how many of so many units a share is; halves go up.

    >>> [rounded(share, 5) for share in (0.1, 0.5, 0.9)]
    [1, 3, 5]
    """
    return floor(share * units + 0.5)


def global_mask(scores: Float[Tensor, "layers units"], kept: int) -> Bool[Tensor, "layers units"]:
    """Return a mask of exactly ``kept`` units: the best of each layer, then the best of all; of equals the first.

    Raises:
        ValueError: when fewer than one a layer would stay.

    >>> global_mask(torch.tensor([[0.9, 0.8], [0.1, 0.2]]), 3).tolist()
    [[True, True], [False, True]]

    Source: Budgeted Attention Allocation (arXiv 2605.05697), hard operating point. One unit a layer at least is ours.
    """
    layers, units = scores.shape
    if not layers <= kept <= layers * units:
        raise ValueError(f"{kept} of {layers * units} heads: at least one in each of {layers} layers must stay")
    order = scores.flatten().argsort(descending=True, stable=True)
    first = scores.argsort(dim=-1, descending=True, stable=True)[:, 0] + units * torch.arange(layers)
    mask = torch.zeros(layers * units, dtype=torch.bool)
    mask[first] = True
    rest = order[~mask[order]]
    mask[rest[: kept - layers]] = True
    return mask.view(layers, units)


def layer_mask(scores: Float[Tensor, "layers units"], kept: int) -> Bool[Tensor, "layers units"]:
    """Return a mask of ``kept`` units in every layer, the best ones of each; of equals the first.

    A configuration of transformers has one number of heads for all layers, so only such masks can be pruned to a model of
    the same architecture.

    Raises:
        ValueError: when no unit would stay.

    >>> layer_mask(torch.tensor([[0.9, 0.8], [0.1, 0.2]]), 1).tolist()
    [[True, False], [False, True]]
    """
    layers, units = scores.shape
    if not 1 <= kept <= units:
        raise ValueError(f"{kept} of {units} heads a layer: at least one must stay")
    best = scores.argsort(dim=-1, descending=True, stable=True)[:, :kept]
    return torch.zeros(layers, units, dtype=torch.bool).scatter(1, best, True)


def straight_through(soft: Gates, hard: Bool[Tensor, "*rows layers units"]) -> Gates:
    """Return gates that are the mask going forward and the soft gates going backward.

    >>> soft = torch.tensor([[0.7, 0.3]], requires_grad=True)
    >>> straight_through(soft, torch.tensor([[True, False]])).tolist()
    [[1.0, 0.0]]
    """
    # The mask itself plus an exact zero: hard + soft - soft would round.
    return hard.to(soft.dtype) + (soft - soft.detach())
