"""Head gates in a model: a patch that multiplies each head's output by its gate at the budget that was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from reason_rl.attention.decoder import Follower, attentions_of, decoder_of, refuse_reentrant
from reason_rl.attention.heads import (
    OFFSET_START,
    SLOPE_START,
    Gates,
    Layout,
    Rank,
    check_budget,
    gate_logits,
    gates,
    global_mask,
    layer_mask,
    rounded,
    straight_through,
    thresholds,
)
from reason_rl.errors import RecipeError

Unit = Literal["kv_group", "head"]
Mode = Literal["soft", "hard", "straight_through"]
Factor = Bool[Tensor, "layers units"] | Float[Tensor, "layers units"]
PASSED = "head_gates"


@dataclass(frozen=True)
class HeadOptions:
    """What has a gate, and how a budget becomes a mask.

    Args:
        unit: ``kv_group``: a key-value head with all its query heads; ``head``: each query head, key-value heads all stay.
            Where none is shared, the two are the same.
        layout: ``layer``: as many in every layer (and, with unit head, in every group), so that the mask can be pruned to a
            standard model; ``global``: the best of all layers.
        rank: by the ``gate`` at the budget, or by its ``threshold`` (nested masks).
    """

    unit: Unit = "kv_group"
    layout: Layout = "layer"
    rank: Rank = "gate"


@dataclass(frozen=True)
class Shape:
    """Heads of a model: layers, query heads and key-value heads a layer."""

    layers: int
    heads: int
    groups: int

    @staticmethod
    def of(config: Any) -> Shape:
        """Return the shape that a configuration describes."""
        return Shape(config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads)

    def units(self, unit: Unit) -> int:
        """Return the number of gates of a layer."""
        return self.groups if unit == "kv_group" else self.heads

    def dropped(self, unit: Unit) -> Unit:
        """Return what a mask drops: a query head that shares its key-value head with no other takes that with it."""
        return "kv_group" if self.heads == self.groups else unit


class HeadGates(nn.Module):
    """The gates of all layers, and the request that they answer; without a request the model is the dense one."""

    def __init__(self, shape: Shape, options: HeadOptions) -> None:
        super().__init__()
        self.shape, self.options = shape, options
        size = (shape.layers, shape.units(options.unit))
        self.offset = nn.Parameter(torch.full(size, OFFSET_START))
        self.slope = nn.Parameter(torch.full(size, SLOPE_START))
        self.budgets: tuple[float, ...] | None = None
        self.mode: Mode = "soft"
        self.fixed: Factor | None = None

    def soft(self, budget: float) -> Gates:
        """Return the soft gates at a budget."""
        return gates(self.offset.float(), self.slope.float(), budget)

    def scores(self, budget: float) -> Float[Tensor, "layers units"]:
        """Return what heads are ranked by, larger first."""
        with torch.no_grad():
            if self.options.rank == "threshold":
                return -thresholds(self.offset.float(), self.slope.float())
            return gate_logits(self.offset.float(), self.slope.float(), budget)

    def mask(self, budget: float) -> Bool[Tensor, "layers units"]:
        """Return which units a budget keeps.

        Raises:
            ValueError: for a budget outside (0, 1].
        """
        check_budget(budget)
        return unit_mask(self.scores(budget).cpu(), self.shape, self.options, budget).to(self.offset.device)

    def forward(self) -> Float[Tensor, "rows layers heads"] | None:
        """Return the factor of each query head for the request; None = dense."""
        if self.fixed is not None:
            return self._by_head([self.fixed.to(self.offset.dtype)])
        if self.budgets is None:
            return None
        rows: list[Gates] = []
        for budget in self.budgets:
            soft = self.soft(budget)
            if self.mode == "hard":
                soft = self.mask(budget).to(soft.dtype)
            elif self.mode == "straight_through":
                soft = straight_through(soft, self.mask(budget))
            rows.append(soft)
        return self._by_head(rows)

    def _by_head(self, rows: list[Gates]) -> Float[Tensor, "rows layers heads"]:
        return torch.stack(rows).repeat_interleave(self.shape.heads // rows[0].shape[-1], dim=-1)


def unit_mask(
    scores: Float[Tensor, "layers units"], shape: Shape, options: HeadOptions, budget: float, kept: int | None = None
) -> Bool[Tensor, "layers units"]:
    """Return the mask of a budget over gated units, at least one in every layer (with unit head: in every group).

    Args:
        scores: larger is kept first.
        shape: of the model.
        options: unit and layout.
        budget: share to keep.
        kept: units a layer (with unit head: a group) instead of those of the budget; layout layer only.

    >>> scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    >>> unit_mask(scores, Shape(1, 4, 2), HeadOptions(unit="head"), 0.5).tolist()
    [[True, False, True, False]]
    >>> unit_mask(scores, Shape(1, 4, 4), HeadOptions(unit="head"), 0.5).tolist()
    [[True, True, False, False]]
    """
    if options.layout == "global":
        return global_mask(scores, max(shape.layers, rounded(budget, scores.numel())))
    rows = scores.view(-1, shape.heads // shape.groups) if shape.dropped(options.unit) == "head" else scores
    count = kept if kept is not None else max(1, rounded(budget, rows.shape[-1]))
    return layer_mask(rows, count).view_as(scores)


class _Gated:
    """The hooks of one attention module."""

    def __init__(self, attention: Any, layer: int, heads: int) -> None:
        self.layer, self.heads = layer, heads
        self.now: Tensor | None = None
        self.follower = Follower(attention, "o_proj", self._scale, of_input=True)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        passed = kwargs.pop(PASSED, None)
        self.now = None if passed is None else passed[:, self.layer]
        self.follower.follow()
        return args, kwargs

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        self.now = None

    def _scale(self, output: Tensor) -> Tensor:
        if self.now is None:
            return output
        by_head = output.unflatten(-1, (self.heads, -1))
        return (by_head * self.now.to(output.dtype)[:, None, :, None]).flatten(-2)


def add_heads(model: nn.Module, options: HeadOptions) -> HeadGates:
    """Put gates on the heads of a model, in place, and return them; without a request its logits stay bit by bit.

    Args:
        model: Llama, Mistral, Qwen2 or Qwen3.
        options: what has a gate.

    Raises:
        RecipeError: for another architecture, or when there are gates already.
    """
    decoder = decoder_of(model)
    if hasattr(decoder, "head_gates"):
        raise RecipeError("attention.heads: the model has head gates already")
    shape = Shape.of(decoder.config)
    decoder.head_gates = HeadGates(shape, options).to(next(decoder.parameters()).device)
    for layer, attention in enumerate(attentions_of(model)):
        gated = _Gated(attention, layer, shape.heads)
        attention.register_forward_pre_hook(gated.before, with_kwargs=True)
        attention.register_forward_hook(gated.after)
    decoder.register_forward_pre_hook(_pass_gates, with_kwargs=True)
    return decoder.head_gates


def _pass_gates(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Hand the gates down to the layers, as an argument: recomputation under checkpointing must see the same ones."""
    factor = module.head_gates()
    if factor is None:
        return args, kwargs
    refuse_reentrant(module)
    return args, {**kwargs, PASSED: factor}


def gates_of(model: nn.Module) -> HeadGates:
    """Return the gates of a model.

    Raises:
        RecipeError: when it has none.
    """
    held: HeadGates | None = getattr(decoder_of(model), "head_gates", None)
    if held is None:
        raise RecipeError("attention.heads: the model has no head gates")
    return held


@contextmanager
def at_mask(model: nn.Module, mask: Factor) -> Iterator[HeadGates]:
    """Run a model with a fixed mask, or fixed gates, over its units while the block runs, whatever its own gates say.

    Raises:
        RecipeError: for a model without gates.
    """
    held = gates_of(model)
    before, held.fixed = held.fixed, mask.to(held.offset.device)
    try:
        yield held
    finally:
        held.fixed = before


@contextmanager
def at_budget(model: nn.Module, budget: float | Sequence[float], mode: Mode = "soft") -> Iterator[HeadGates]:
    """Run a model with gates at a budget, or at one a row, while the block runs.

    Raises:
        RecipeError: for a model without gates.
        ValueError: for a budget outside (0, 1].
    """
    held = gates_of(model)
    budgets = (budget,) if isinstance(budget, float | int) else tuple(budget)
    for one in budgets:
        check_budget(one)
    before = held.budgets, held.mode
    held.budgets, held.mode = budgets, mode
    try:
        yield held
    finally:
        held.budgets, held.mode = before
