"""Idealised cost of inference: operations, cache bytes and decoding time of a model configuration on a stated device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

Tokens = TypeVar("Tokens", float, np.ndarray)


@dataclass(frozen=True)
class ModelShape:
    """What the cost depends on: parameters, layers, attention width (heads x head size), key-value heads, bytes a number."""

    parameters: float
    layers: int
    attention_width: int
    key_value_heads: int
    head_size: int
    bytes_per_number: int = 2

    @property
    def kv_bytes_per_token(self) -> int:
        """Cache of one token: ``2 l kv hd w`` bytes."""
        return 2 * self.layers * self.key_value_heads * self.head_size * self.bytes_per_number


@dataclass(frozen=True)
class Device:
    """Peak figures of an accelerator: inputs of the idealisation, not measurements."""

    name: str
    flops_per_second: float
    bytes_per_second: float


H100 = Device("H100 SXM, bfloat16", 989e12, 3.35e12)


def shape_of(config: Mapping[str, Any], bytes_per_number: int = 2) -> ModelShape:
    """Return the shape of a Llama- or Qwen-like decoder from its config.json.

    >>> config = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    ...           "intermediate_size": 128, "vocab_size": 100}
    >>> shape_of(config).kv_bytes_per_token
    256
    """
    from reason_rl.recipe.plan import parameters

    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    key_value = config.get("num_key_value_heads") or heads
    layers = config["num_hidden_layers"]
    return ModelShape(parameters(config), layers, heads * size, key_value, size, bytes_per_number)


def sequence_flops(model: ModelShape, prompt_tokens: float, completion_tokens: Tokens) -> Tokens:
    """Return the operations of one sequence: ``2 P L + 2 l d L^2`` with ``L`` prompt and completion tokens together.

    Matrices cost two operations a parameter and token, causal attention half of ``4 l d L^2``.

    >>> qwen = ModelShape(1.54e9, 28, 1536, 2, 128)
    >>> f"{sequence_flops(qwen, 200, 4000):.3e}"
    '1.445e+13'

    Source: Scaling Laws for Neural Language Models (arXiv 2001.08361) section 2.1, and its attention term made causal.
    """
    length = prompt_tokens + completion_tokens
    return 2 * model.parameters * length + 2 * model.layers * model.attention_width * length**2


def decode_seconds(
    model: ModelShape, prompt_tokens: int, completion_tokens: int, batch: int = 1, device: Device = H100
) -> float:
    """Return the ideal decoding time a sequence, in seconds: each step bound by arithmetic or by memory.

    Step i takes ``max(2 P B / F, (P w + B KV (L_in + i)) / BW)``; the sum over the completion is shared by the batch.
    Small batches read weights, so time follows tokens; large ones read cache, so long completions cost more than their
    share.

    Args:
        model: its shape.
        prompt_tokens: of each sequence.
        completion_tokens: of each sequence, all of the same length.
        batch: sequences decoded together.
        device: peak figures.

    >>> qwen = ModelShape(1.54e9, 28, 1536, 2, 128)
    >>> [round(decode_seconds(qwen, 200, length), 2) for length in (1000, 4000, 16000)]
    [0.93, 3.75, 15.83]
    >>> [round(decode_seconds(qwen, 200, length, batch=64), 4) for length in (1000, 4000, 16000)]
    [0.0204, 0.1328, 1.3527]

    Source: derived (roofline of a decoder); the device constants are our choice.
    """
    steps = np.arange(completion_tokens, dtype=float)
    arithmetic = 2 * model.parameters * batch / device.flops_per_second
    cache = batch * model.kv_bytes_per_token * (prompt_tokens + steps)
    memory = (model.parameters * model.bytes_per_number + cache) / device.bytes_per_second
    return float(np.maximum(arithmetic, memory).sum() / batch)


def prefill_seconds(model: ModelShape, prompt_tokens: int, device: Device = H100) -> float:
    """Return the ideal time for reading the prompt, a sequence: ``2 P L_in / F`` seconds.

    >>> round(1000 * prefill_seconds(ModelShape(1.54e9, 28, 1536, 2, 128), 200), 3)
    0.623
    """
    return 2 * model.parameters * prompt_tokens / device.flops_per_second


def time_saved(
    model: ModelShape, prompt_tokens: int, base_tokens: int, tokens: int, batch: int = 1, device: Device = H100
) -> float:
    """Return the share of ideal decoding time that shorter completions save: ``1 - time(T) / time(T0)``.

    >>> qwen = ModelShape(1.54e9, 28, 1536, 2, 128)
    >>> [round(time_saved(qwen, 200, 16000, 4000, batch), 3) for batch in (1, 64)]
    [0.763, 0.902]
    """
    base = decode_seconds(model, prompt_tokens, base_tokens, batch, device)
    return 1 - decode_seconds(model, prompt_tokens, tokens, batch, device) / base


def mean_decode_seconds(
    model: ModelShape,
    prompt_tokens: int,
    lengths: Float[np.ndarray, "*completions"],
    batch: int = 1,
    device: Device = H100,
) -> float:
    """Return the mean over completions of `decode_seconds`, each batched with others of its own length.

    >>> qwen = ModelShape(1.54e9, 28, 1536, 2, 128)
    >>> lengths = np.array([1000.0, 4000.0])
    >>> exact = [decode_seconds(qwen, 200, int(length), batch=64) for length in lengths]
    >>> bool(np.isclose(mean_decode_seconds(qwen, 200, lengths, batch=64), np.mean(exact)))
    True
    """
    unique, counts = np.unique(np.asarray(lengths).ravel(), return_counts=True)
    seconds = [decode_seconds(model, prompt_tokens, int(length), batch, device) for length in unique]
    return float(np.average(seconds, weights=counts))
