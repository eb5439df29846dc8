"""Hidden states of the newest position, taken by hooks during the forward pass that decoding does anyway."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from reason_rl.errors import RecipeError


class Tap:
    """Holds the newest states of the tapped layers, in the order asked for; of the last position, or of every one."""

    def __init__(self, layers: Sequence[int], *, every_position: bool = False) -> None:
        self.layers = tuple(layers)
        self.every_position = every_position
        self._states: dict[int, Tensor] = {}

    def put(self, layer: int, states: Tensor) -> None:
        """Keep the states of a forward pass, which come as [rows, positions, width of the model]."""
        self._states[layer] = (states if self.every_position else states[:, -1]).float()

    def features(self) -> Float[Tensor, "rows *positions width"] | None:
        """Return the states of all tapped layers side by side, float32; None when no layer is tapped."""
        return torch.cat([self._states[layer] for layer in self.layers], dim=-1) if self.layers else None


def last_layer(model: PreTrainedModel) -> int:
    """Return the number of the last layer, whose states are taken after the final norm."""
    return int(model.config.get_text_config().num_hidden_layers)


@contextlib.contextmanager
def tapped(model: PreTrainedModel, layers: Sequence[int], *, every_position: bool = False) -> Iterator[Tap]:
    """Read states while the block runs; layer i is the output of block i (from 1), the last one is after the final norm.

    These are the entries of transformers' ``hidden_states``, without keeping all of them.

    Raises:
        RecipeError: for a layer that the model does not have.
    """
    check_layers(model, layers)
    total = last_layer(model)
    tap = Tap(layers, every_position=every_position)
    with contextlib.ExitStack() as stack:
        for layer in tap.layers:
            module = decoder_of(model) if layer == total else block_of(model, layer)
            handle = module.register_forward_hook(_keeping(tap, layer))
            stack.callback(handle.remove)
        yield tap


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """Return the decoder, whose output is the last layer's after the final norm; also through a peft adapter."""
    base: Any = model
    if hasattr(base, "get_base_model"):  # peft
        base = base.get_base_model()
    decoder = base.get_decoder()
    assert isinstance(decoder, nn.Module)
    return decoder


def block_of(model: PreTrainedModel, layer: int) -> nn.Module:
    """Return the decoder block of a layer, counted from 1.

    Raises:
        RecipeError: for a layer that the model does not have.
    """
    check_layers(model, [layer])
    decoder: Any = decoder_of(model)
    block = decoder.layers[layer - 1]
    assert isinstance(block, nn.Module)
    return block


def check_layers(model: PreTrainedModel, layers: Sequence[int]) -> None:
    """Raise RecipeError for a layer that the model does not have."""
    total = last_layer(model)
    wrong = [layer for layer in layers if not 1 <= layer <= total]
    if wrong:
        raise RecipeError(f"layers {wrong}: the model has layers 1 to {total}")


def _keeping(tap: Tap, layer: int) -> Callable[[nn.Module, Any, Any], None]:
    def after(module: nn.Module, arguments: Any, output: Any) -> None:
        # Blocks give a tensor, or a tuple in older models; the decoder an output record, whose first entry are the states.
        tap.put(layer, output if isinstance(output, Tensor) else output[0])

    return after
