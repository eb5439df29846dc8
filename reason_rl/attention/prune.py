"""Materialise a head mask: fold gates into the weights, or cut the heads out and keep a standard architecture."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reason_rl.attention.decoder import attentions_of, decoder_of
from reason_rl.attention.heads import check_budget
from reason_rl.attention.heads_module import HeadOptions, Shape, unit_mask
from reason_rl.errors import RecipeError
from reason_rl.models import carries_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HeadMask = Bool[Tensor, "layers heads"]


@dataclass(frozen=True)
class Choice:
    """Which heads a budget keeps.

    Args:
        mask: of query heads.
        asked: share that was asked for.
        kept: share of the query heads that stays.
    """

    mask: HeadMask
    asked: float
    kept: float


def config_refuses(config: Any, heads: int, groups: int) -> bool:
    """Tell whether an architecture's configuration refuses so many query and key-value heads.

    >>> from transformers import LlamaConfig
    >>> tiny = LlamaConfig(hidden_size=160, num_attention_heads=5, head_dim=32)
    >>> [heads for heads in range(1, 6) if not config_refuses(tiny, heads, heads)]
    [1, 2, 4, 5]
    """
    from huggingface_hub.errors import StrictDataclassError

    try:
        smaller_config(config, heads, groups)
    except (StrictDataclassError, ValueError):
        return True
    return False


def smaller_config(config: Any, heads: int, groups: int) -> Any:
    """Return the configuration with fewer heads of the same size."""
    fields = {**config.to_dict(), "num_attention_heads": heads, "num_key_value_heads": groups}
    return type(config)(**{**fields, "head_dim": head_size(config)})


def head_size(config: Any) -> int:
    """Return the size of a head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def choose_heads(scores: Float[Tensor, "layers units"], config: Any, options: HeadOptions, budget: float) -> Choice:
    """Return the heads to keep in every layer, as many in each, so that the architecture stays a standard one.

    The number is the one nearest to the budget that the configuration accepts (of two the larger): some architectures want
    the hidden size to be a multiple of the number of heads.

    Args:
        scores: larger is kept first.
        config: of the model.
        options: unit; its layout does not matter, every layer keeps its own best.
        budget: share to keep.

    Raises:
        ValueError: for a budget outside (0, 1].
    """
    check_budget(budget)
    shape = Shape.of(config)
    unit = shape.dropped(options.unit)
    most = shape.groups if unit == "kv_group" else shape.heads // shape.groups
    sizes = {n: (n * shape.heads // shape.groups, n) for n in range(1, most + 1)}
    if unit == "head":
        sizes = {n: (n * shape.groups, shape.groups) for n in range(1, most + 1)}
    allowed = [n for n, size in sizes.items() if not config_refuses(config, *size)]
    count = min(reversed(allowed), key=lambda n: abs(n - budget * most))
    standard = HeadOptions(unit, "layer", options.rank)
    mask = unit_mask(scores, shape, standard, budget, kept=count)
    return Choice(mask.repeat_interleave(shape.heads // mask.shape[1], dim=1), budget, count / most)


def norm_scores(model: PreTrainedModel, options: HeadOptions) -> Float[Tensor, "layers units"]:
    """Return what ranks heads without gates or data: the norm of a head's columns of ``W_o`` times that of its ``W_v``.

    Args:
        model: any supported one.
        options: unit; a group counts the sum over its heads.
    """
    config = decoder_of(model).config
    shape, size = Shape.of(config), head_size(config)
    rows = []
    for attention in attentions_of(model):
        out = attention.o_proj.weight.detach().float().unflatten(1, (shape.heads, size)).norm(dim=(0, 2))
        value = attention.v_proj.weight.detach().float().unflatten(0, (shape.groups, size)).norm(dim=(1, 2))
        rows.append(out * value.repeat_interleave(shape.heads // shape.groups))
    scores = torch.stack(rows).cpu()
    return scores.unflatten(1, (shape.groups, -1)).sum(-1) if options.unit == "kv_group" else scores


def fold(model: PreTrainedModel, factor: Float[Tensor, "layers heads"]) -> None:
    """Multiply each head's columns of ``W_o`` by its gate, in place: same outputs as with the gate, same architecture.

    Raises:
        RecipeError: for a model with an adapter; merge it first.
    """
    _refuse_patched(model)
    with torch.no_grad():
        for attention, row in zip(attentions_of(model), factor, strict=True):
            weight = attention.o_proj.weight
            columns = row.repeat_interleave(weight.shape[1] // len(row))
            weight.mul_(columns.to(weight.dtype))


def prune(model: PreTrainedModel, mask: HeadMask) -> PreTrainedModel:
    """Return a smaller model of the same architecture without the heads that a mask drops; outputs are those of the mask.

    A key-value head goes when all its query heads do. Every layer must keep as many key-value heads, each with as many query
    heads: that is all a configuration can say.

    Args:
        model: Llama, Mistral, Qwen2 or Qwen3, without adapter; it is left alone.
        mask: query heads to keep.

    Raises:
        RecipeError: when the architecture cannot hold what is left.
    """
    _refuse_patched(model)
    config = decoder_of(model).config
    shape = Shape.of(config)
    heads, groups = kept_counts(mask, shape)
    if config_refuses(config, heads, groups):
        raise RecipeError(
            f"prune: {config.model_type} of hidden size {config.hidden_size} takes no {heads} heads a layer; "
            "name another budget"
        )
    with torch.device("meta"):
        smaller = type(model)(smaller_config(model.config, heads, groups))
    names = smaller.state_dict().keys()
    state = {name: tensor for name, tensor in model.state_dict().items() if name in names}
    layers = next(name for name in names if name.endswith("layers.0.self_attn.o_proj.weight")).split("layers.0.")[0]
    for layer, row in enumerate(mask):
        state |= _cut(state, f"{layers}layers.{layer}.self_attn.", row, shape, head_size(config))
    smaller.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
    return _finished(smaller, model)


def kept_counts(mask: HeadMask, shape: Shape) -> tuple[int, int]:
    """Return how many query and key-value heads every layer keeps.

    Raises:
        RecipeError: when layers or groups keep different numbers.

    >>> mask = torch.tensor([[True, False, True, False], [False, True, True, False]])
    >>> kept_counts(mask, Shape(2, 4, 2))
    (2, 2)
    """
    by_group = mask.view(shape.layers, shape.groups, -1).sum(-1)
    groups = (by_group > 0).sum(-1)
    sizes = by_group[by_group > 0].unique()
    if len(groups.unique()) != 1 or len(sizes) != 1:
        raise RecipeError(
            "prune: layers keep different numbers of heads, which no standard configuration can say; use layout layer, "
            "or fold the mask into the weights"
        )
    return int(groups[0] * sizes[0]), int(groups[0])


def _cut(
    state: dict[str, Tensor], prefix: str, row: Bool[Tensor, " heads"], shape: Shape, size: int
) -> dict[str, Tensor]:
    """Return the projections of a layer without the dropped heads."""
    kept_groups = row.view(shape.groups, -1).any(-1)
    queries, values = _positions(row, size), _positions(kept_groups, size)
    cut = {}
    for name, index in (("q_proj", queries), ("k_proj", values), ("v_proj", values)):
        for part in ("weight", "bias"):
            if (key := f"{prefix}{name}.{part}") in state:
                cut[key] = state[key][index.to(state[key].device)]
    key = f"{prefix}o_proj.weight"
    return {**cut, key: state[key][:, queries.to(state[key].device)]}


def _positions(kept: Bool[Tensor, " heads"], size: int) -> Int[Tensor, " positions"]:
    return kept.repeat_interleave(size).nonzero()[:, 0].cpu()


def _refuse_patched(model: Any) -> None:
    if carries_adapter(model):
        raise RecipeError("prune: the model carries an adapter; merge it first (reason-rl export)")
    if hasattr(attentions_of(model)[0], "ssa"):
        raise RecipeError("prune: the model has selective temperatures; prune first, then add them")


def _finished(smaller: Any, model: PreTrainedModel) -> PreTrainedModel:
    """Give the smaller model what is not in the state: buffers of the rotation, ties, mode and generation settings."""
    smaller.model.rotary_emb = copy.deepcopy(decoder_of(model).rotary_emb)
    smaller.tie_weights()
    smaller.generation_config = copy.deepcopy(model.generation_config)
    return smaller.train(model.training)
