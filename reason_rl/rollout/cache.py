"""A key-value cache that grows in chunks in place; transformers' dynamic cache copies everything at every token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

CHUNK_TOKENS = 64


class ChunkedLayer(DynamicLayer):
    """A dynamic layer whose keys and values are views into buffers with spare room."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._buffers: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append and return all keys and values, [rows, heads, tokens, head size]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self._buffers or self._buffers[0].shape[2] < end:
            self._move([b[:, :, :start] for b in self._buffers], like=key_states, room=end)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        return self._show(end)

    def keep_rows(self, rows: Tensor, first: int) -> None:
        """Keep these rows and drop the ``first`` oldest positions, which are padding in every kept row."""
        end = self.get_seq_length()
        kept = [buffer[rows, :, first:end] for buffer in self._buffers]
        self._move(kept, like=kept[0], room=kept[0].shape[2] + 1)
        self._show(kept[0].shape[2])

    def join(self, other: ChunkedLayer) -> None:
        """Add another layer's rows below these, the newest positions side by side; what the shorter lacks is zero."""
        end = max(self.get_seq_length(), other.get_seq_length())
        both = []
        for mine, theirs in zip((self.keys, self.values), (other.keys, other.values), strict=True):
            assert mine is not None
            assert theirs is not None
            # Masked, but 0 times what happens to stand in fresh memory need not be 0.
            padded = [torch.nn.functional.pad(part, (0, 0, end - part.shape[2], 0)) for part in (mine, theirs)]
            both.append(torch.cat(padded))
        self._move(both, like=both[0], room=end + 1)
        self._show(end)

    def _move(self, old: list[Tensor], like: Tensor, room: int) -> None:
        rows, heads, _, size = like.shape
        tokens = -(-room // CHUNK_TOKENS) * CHUNK_TOKENS
        self._buffers = [like.new_empty(rows, heads, tokens, size) for _ in range(2)]
        for buffer, states in zip(self._buffers, old, strict=False):
            buffer[:, :, : states.shape[2]] = states

    def _show(self, tokens: int) -> tuple[Tensor, Tensor]:
        keys, values = (buffer[:, :, :tokens] for buffer in self._buffers)
        self.keys, self.values = keys, values
        return keys, values


def chunked_cache(layers: int) -> Cache:
    """Return an empty cache for a decoder with full attention in each layer."""
    return Cache(layers=[ChunkedLayer() for _ in range(layers)])


def keep_rows(cache: Cache, rows: Tensor, first: int) -> None:
    """Keep these rows of every layer, without the ``first`` oldest positions."""
    for layer in cache.layers:
        assert isinstance(layer, ChunkedLayer)
        layer.keep_rows(rows, first)


def join_rows(cache: Cache, other: Cache) -> None:
    """Add the rows of another cache of the same model below those of ``cache``, aligned at their newest positions."""
    for layer, more in zip(cache.layers, other.layers, strict=True):
        assert isinstance(layer, ChunkedLayer)
        assert isinstance(more, ChunkedLayer)
        layer.join(more)
