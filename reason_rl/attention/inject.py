"""The prior as a bias on attention logits, through transformers' registries of attention and mask functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from reason_rl.attention.decoder import attentions_of, decoder_of, refuse_reentrant, window_of
from reason_rl.attention.positions import places
from reason_rl.attention.source import PriorSource, chosen_layers, head_weights
from reason_rl.errors import RecipeError, RunError
from reason_rl.models import PRIOR_ATTENTION

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = PRIOR_ATTENTION
SUPPORTED = ("sdpa", NAME)
DENSE_TOKENS = 2048
HEAD_MULTIPLE = 8  # fused kernels want heads of such sizes

Parts = tuple[Tensor, ...]  # (query factors, key factors), or (log prior,)


@dataclass
class AttentionBias:
    """Adds ``strength w_h log pi(place of key | place of query)`` to the attention logits of chosen layers.

    At strength 0 the stock function is called with the stock arguments, so logits are the same to the bit. Places count real
    tokens, so padding, a KV cache and decoding token by token change nothing. The bias is added to the mask once a forward
    pass; for long references the prior's low-rank factors are appended to queries and keys instead, which is the same bias
    without a square of the length. It keeps the places of the latest
    forward pass: with gradient checkpointing, go backward before the next one.

    Args:
        model: Llama- or Qwen-type with sdpa attention, plain or with an adapter; it is changed in place.
        source: of the layers' priors.
        reference_tokens: places that the priors are made for; fixed before a sequence starts, a longer one is an error.
        layers: None = all; negative ones count from the last.
        heads: w_h of each head, in [0, 1]; None = 1.
        strength: of the bias; set it as the run goes on.
        by_factors: whether low-rank factors are used where there are any; None = for references of over 2048 tokens.

    Raises:
        RecipeError: for another architecture, other attention code, attention over a window, or layers and heads that there
            are not; in a forward pass, for reentrant gradient checkpointing.

    Source: RPA (arXiv 2603.09253), inference with a cached prior; through the registries, and by factors: ours.
    """

    model: PreTrainedModel
    source: PriorSource
    reference_tokens: int
    layers: tuple[int, ...] | None = None
    heads: tuple[float, ...] | None = None
    strength: float = 0.0
    by_factors: bool | None = None
    _cache: dict[tuple[int, int, torch.dtype, torch.device], Parts] = field(default_factory=dict)
    _present: dict[int, Parts] = field(default_factory=dict)
    _places: Any = None

    def __post_init__(self) -> None:
        modules, base = attentions_of(self.model), decoder_of(self.model)
        chosen = chosen_layers(self.layers, len(modules))
        head_weights(self.heads, base.config.num_attention_heads)
        code = base.config._attn_implementation
        if code not in SUPPORTED:
            raise RecipeError(f"prior as a bias: {code} attention takes no bias; set model.attn_implementation: sdpa")
        if any(window_of(modules[layer]) is not None for layer in chosen):
            raise RecipeError("attention.prior: attention over a sliding window is not known")
        _register()
        for layer in chosen:
            modules[layer].attention_bias = self
        self._hook = base.register_forward_pre_hook(self._before_decoder, with_kwargs=True)
        base.config._attn_implementation = NAME

    def remove(self) -> None:
        """Give the model its stock attention back."""
        for module in attentions_of(self.model):
            module.__dict__.pop("attention_bias", None)
        self._hook.remove()
        decoder_of(self.model).config._attn_implementation = "sdpa"

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, options: Any
    ) -> tuple[Tensor, None]:
        """Return the attention of one layer with its bias.

        Raises:
            RunError: when the KV cache has places that nothing was put into.
        """
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        if key.shape[2] != self._places[1].shape[1]:
            raise RunError("attention.prior: a KV cache of fixed size is not known; use the dynamic one")
        present = self._parts_now(module.layer_idx, query, attention_mask)
        if len(present) == 1:
            return sdpa_attention_forward(module, query, key, value, present[0], **options)
        size = query.shape[-1]
        scale = options["scaling"] = options.get("scaling") or size**-0.5
        extra = -(size + present[0].shape[-1]) % HEAD_MULTIPLE
        query = _appended(query, self._weight(query) / scale * present[0][:, None], extra)
        key = _appended(key, present[1][:, None], extra)
        value = pad(value, (0, query.shape[-1] - size))
        mixed, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return mixed[..., :size], None

    def _weight(self, like: Tensor) -> Any:
        return self.strength if self.heads is None else self.strength * like.new_tensor(self.heads)[:, None, None]

    def _parts_now(self, layer: int, like: Tensor, attention_mask: Tensor | None) -> Parts:
        """Return the factors at the places of the present forward pass, or one mask that holds the bias.

        Layers with the same prior share them.
        """
        name = 0 if self.source.shared else layer
        if name not in self._present:
            queries, keys = self._places
            parts = self._parts(name, like)
            if len(parts) == 2:
                self._present[name] = (parts[0][queries], parts[1][keys])
            else:
                bias = self._weight(like) * parts[0][queries[:, :, None], keys[:, None, :]][:, None]
                if attention_mask is None:
                    bias = bias.masked_fill((keys[:, None, :] > queries[:, :, None])[:, None], -torch.inf)
                elif attention_mask.dtype == torch.bool:
                    bias = bias.masked_fill(~attention_mask, -torch.inf)
                else:
                    bias = bias + attention_mask
                self._present[name] = (bias,)
        return self._present[name]

    def _parts(self, name: int, like: Tensor) -> Parts:
        key = (self.reference_tokens, name, like.dtype, like.device)
        if key not in self._cache:
            by_factors = self.reference_tokens > DENSE_TOKENS if self.by_factors is None else self.by_factors
            factors: Parts | None = self.source.factors(self.reference_tokens, name) if by_factors else None
            if factors is None:
                table = self.source.log_prior(self.reference_tokens, name)
                # Later places get no probability from the causal mask; 0 keeps the sum of bias and mask free of nan.
                factors = (table.masked_fill(torch.isinf(table), 0.0),)
            self._cache[key] = tuple(part.to(like.device, like.dtype) for part in factors)
        return self._cache[key]

    def _before_decoder(self, module: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
        if not self.strength:
            return
        refuse_reentrant(module)
        self._present.clear()
        self._places = places({"input_ids": args[0], **inputs} if args else inputs)
        longest = int(self._places[1].max()) + 1
        if longest > self.reference_tokens:
            raise RunError(
                f"attention.prior: a sequence has {longest} tokens, the prior {self.reference_tokens}; raise "
                "reference_tokens"
            )


def _appended(states: Tensor, factors: Tensor, zeros: int) -> Tensor:
    """Return [rows, heads, tokens, size] states with [1 or rows, 1 or heads, tokens, blocks] factors and zeros after them."""
    rows, heads = states.shape[:2]
    return torch.cat([states, pad(factors.to(states.dtype), (0, zeros)).expand(rows, heads, -1, -1)], dim=-1)


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
        return owner.attend(module, query, key, value, attention_mask, options)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
