"""The trainer's weights as a rollout engine needs them: whole, where they are sharded, or as a copy that stands still."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from reason_rl.errors import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor without its history and, when it is sharded, gathered; then all processes must take part."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor, without its history: its shard, or all of it."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter of the model, whole, under its Hugging Face name; sharded ones one after another."""
    for name, parameter in model.named_parameters():
        yield name, whole(parameter)


def adapter_weights(model: Any) -> dict[str, Tensor]:
    """Return the tensors of the model's adapter, whole, under the names that peft saves them with."""
    from peft import get_peft_model_state_dict

    return {name: whole(tensor).contiguous() for name, tensor in get_peft_model_state_dict(model).items()}


def still_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a model that no update touches, with the forward pass of its class.

    TRL gives the trainer's model a forward pass that is bound to that very object; a plain copy of it would go on computing
    with the weights of the original.
    """
    twin = copy.deepcopy(model).requires_grad_(False).eval()
    for module in twin.modules():
        module.__dict__.pop("forward", None)
    return twin


@torch.no_grad()
def copy_weights(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Bring ``target`` from :func:`still_copy` to the weights of ``source``, sharded or not."""
    places = dict(target.named_parameters(remove_duplicate=False))
    for name, value in full_weights(source):
        places[name].copy_(value)


def check_readable(state: Any) -> None:
    """Raise RecipeError where the weights are sharded in a way that no rollout engine can read.

    Args:
        state: accelerate's state; whole weights on each process and FSDP2 are fine.
    """
    kind = str(getattr(state.distributed_type, "value", state.distributed_type))
    if kind == "DEEPSPEED" and state.deepspeed_plugin.zero_stage == 3:
        raise RecipeError(
            "DeepSpeed ZeRO-3 hands its weights to no rollout engine; shard with FSDP2 (recipes/accelerate/gpu_8_fsdp2.yaml)"
        )
    if kind == "FSDP" and state.fsdp_plugin.fsdp_version != 2:
        raise RecipeError(
            "FSDP version 1 hands its weights to no rollout engine; set fsdp_version: 2 (recipes/accelerate/gpu_8_fsdp2.yaml)"
        )
