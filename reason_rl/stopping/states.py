"""Hidden states of the newest position, taken by hooks during the forward pass that decoding does anyway."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from reason_rl.errors import RecipeError


class Tap:
    """Holds the newest states of the tapped layers, in the order asked for."""

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers = tuple(layers)
        self._states: dict[int, Tensor] = {}

    def put(self, layer: int, states: Tensor) -> None:
        """Keep the states of the last position, [rows, width of the model]."""
        self._states[layer] = states[:, -1].float()

    def features(self) -> Float[Tensor, "rows width"] | None:
        """Return the states of all tapped layers side by side, float32; None when no layer is tapped."""
        return torch.cat([self._states[layer] for layer in self.layers], dim=-1) if self.layers else None


def last_layer(model: PreTrainedModel) -> int:
    """Return the number of the last layer, whose states are taken after the final norm."""
    return int(model.config.get_text_config().num_hidden_layers)


@contextlib.contextmanager
def tapped(model: PreTrainedModel, layers: Sequence[int]) -> Iterator[Tap]:
    """Read states while the block runs; layer i is the output of block i (from 1), the last one is after the final norm.

    These are the entries of transformers' ``hidden_states``, without keeping all of them.

    Raises:
        RecipeError: for a layer that the model does not have.
    """
    total = last_layer(model)
    wrong = [layer for layer in layers if not 1 <= layer <= total]
    if wrong:
        raise RecipeError(f"probe layers {wrong}: the model has layers 1 to {total}")
    tap = Tap(layers)
    with contextlib.ExitStack() as stack:
        for layer in tap.layers:
            handle = _last_hook(model, tap, layer) if layer == total else _block_hook(model, tap, layer)
            stack.callback(handle.remove)
        yield tap


def _last_hook(model: PreTrainedModel, tap: Tap, layer: int) -> Any:
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Module)

    def before(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        tap.put(layer, arguments[0])

    return head.register_forward_pre_hook(before)


def _block_hook(model: PreTrainedModel, tap: Tap, layer: int) -> Any:
    base: Any = model
    if hasattr(base, "get_base_model"):  # peft
        base = base.get_base_model()
    block = base.get_decoder().layers[layer - 1]

    def after(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        tap.put(layer, output[0] if isinstance(output, tuple) else output)

    return block.register_forward_hook(after)
