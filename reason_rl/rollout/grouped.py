"""Attention of one new token without repeated keys and values, for models whose heads share them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "reason_rl_grouped"


def grouped_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Return sdpa attention; for one token a row, the heads of a group are read as so many tokens of one head.

    Under a mask transformers repeats keys and values for every head of a group, which at a few thousand tokens costs more
    than all else in a step.

    Args:
        module: the attention layer.
        query: [rows, heads, tokens, size].
        key: [rows, groups, all tokens, size]; ``value`` likewise.
        attention_mask: [rows, 1, tokens, all tokens]; None = everything is seen.
        options: of transformers' attention functions.

    >>> from types import SimpleNamespace
    >>> layer = SimpleNamespace(num_key_value_groups=2)
    >>> query, key, mask = torch.randn(3, 4, 1, 8), torch.randn(3, 2, 5, 8), torch.ones(3, 1, 1, 5).bool()
    >>> stock = sdpa_attention_forward(layer, query, key, key, mask)[0]
    >>> torch.allclose(grouped_attention(layer, query, key, key, mask)[0], stock, atol=1e-6)
    True
    """
    rows, heads, tokens, size = query.shape
    groups = key.shape[1]
    if tokens > 1 or heads == groups or options.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    folded = query.reshape(rows, groups, heads // groups, size)
    # Given whole: the fused kernel of the CPU is slower where it has to spread a mask itself.
    mask = None if attention_mask is None else attention_mask.expand(rows, 1, heads // groups, -1)
    mixed = torch.nn.functional.scaled_dot_product_attention(
        folded, key, value, attn_mask=mask, scale=options.get("scaling")
    )
    return mixed.reshape(rows, 1, heads, value.shape[-1]), None


@contextlib.contextmanager
def grouped_decoding(model: PreTrainedModel) -> Iterator[None]:
    """Let a model with sdpa attention and shared keys decode by :func:`grouped_attention` while the block runs."""
    config = model.config.get_text_config()
    shared = getattr(config, "num_key_value_heads", None) not in (None, config.num_attention_heads)
    if not shared or config._attn_implementation != "sdpa":
        yield
        return
    AttentionInterface.register(NAME, grouped_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"
