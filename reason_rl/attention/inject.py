"""The prior as a bias on attention logits, through transformers' registries of attention and mask functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reason_rl.attention.decoder import absolute_positions, attentions_of, decoder_of, window_of
from reason_rl.attention.prior import Square
from reason_rl.errors import RecipeError, RunError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "reason_rl_prior"
SUPPORTED = ("sdpa", NAME)


@dataclass
class AttentionBias:
    """Adds ``strength log pi(place of key | place of query)`` to the attention logits of chosen layers.

    At strength 0 the stock function is called with the stock arguments, so logits are the same to the bit. Places count real
    tokens, so padding, a KV cache and decoding token by token change nothing. It keeps the places of the latest forward pass:
    with gradient checkpointing, go backward before the next one.

    Args:
        model: Llama- or Qwen-type with sdpa attention; it is changed in place.
        log_prior: [places, places]; a longer sequence is an error.
        layers: None = all.
        strength: of the bias; set it as the run goes on.

    Raises:
        RecipeError: for another architecture, other attention code, or attention over a window.

    Source: RPA (arXiv 2603.09253), inference with a cached prior; through the registries: ours.
    """

    model: PreTrainedModel
    log_prior: Square
    layers: tuple[int, ...] | None = None
    strength: float = 0.0
    _places: Any = None

    def __post_init__(self) -> None:
        modules = attentions_of(self.model)
        chosen = range(len(modules)) if self.layers is None else self.layers
        if any(not -len(modules) <= layer < len(modules) for layer in chosen):
            raise RecipeError(f"attention.prior.layers: {list(chosen)}; the model has {len(modules)} layers")
        base: Any = decoder_of(self.model)
        code = base.config._attn_implementation
        if code not in SUPPORTED:
            raise RecipeError(f"prior as a bias: {code} attention takes no bias; set model.attn_implementation: sdpa")
        if any(window_of(modules[layer]) is not None for layer in chosen):
            raise RecipeError("attention.prior: attention over a sliding window is not known")
        # Later positions get no probability from the causal mask; 0 keeps the sum of bias and mask free of nan.
        self.table = self.log_prior.masked_fill(torch.isinf(self.log_prior), 0.0)
        _register()
        for layer in chosen:
            modules[layer].attention_bias = self
        base.register_forward_pre_hook(self._before_decoder, with_kwargs=True)
        base.config._attn_implementation = NAME

    def remove(self) -> None:
        """Give the model its stock attention back."""
        for module in attentions_of(self.model):
            module.__dict__.pop("attention_bias", None)
        decoder_of(self.model).config._attn_implementation = "sdpa"

    def bias(self, like: Tensor) -> Float[Tensor, "rows 1 queries tokens"]:
        """Return the bias of the present forward pass, in the dtype of ``like``."""
        queries, keys = self._places
        longest = int(keys.max()) + 1
        if longest > len(self.table):
            raise RunError(
                f"attention.prior: a sequence has {longest} tokens, the prior {len(self.table)}; raise reference_tokens"
            )
        table = self.table.to(like.device)
        return (self.strength * table[queries[:, :, None], keys[:, None, :]])[:, None].to(like.dtype)

    def _before_decoder(self, _module: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
        if self.strength:
            self._places = places({"input_ids": args[0], **inputs} if args else inputs)


def places(inputs: dict[str, Any]) -> tuple[Int[Tensor, "rows queries"], Int[Tensor, "rows tokens"]]:
    """Return the 0-based places of the tokens of a decoder's call, and of all keys with those in the cache.

    >>> ids, mask = torch.zeros(1, 3).long(), torch.tensor([[0, 1, 1]])
    >>> [p.tolist() for p in places({"input_ids": ids, "attention_mask": mask})]
    [[[0, 0, 1]], [[0, 0, 1]]]
    """
    given = inputs.get("input_ids")
    tokens = given if given is not None else inputs["inputs_embeds"]
    width, mask, cache = tokens.shape[1], inputs.get("attention_mask"), inputs.get("past_key_values")
    seen = cache.get_seq_length() if cache is not None else 0
    if mask is None:
        keys = torch.arange(seen + width, device=tokens.device)[None]
        return keys[:, seen:], keys
    queries = absolute_positions({**inputs, "position_ids": None}) - 1
    return queries, (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, biased_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def biased_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Return sdpa attention, with the bias of the module if it has one that is on."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    owner = getattr(module, "attention_bias", None)
    if owner is not None and owner.strength:
        bias = owner.bias(query)
        options["position_bias"] = bias.expand(query.shape[0], query.shape[1], -1, -1)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
