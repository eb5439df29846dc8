"""The decoder of a Llama- or Qwen-type model as transformers builds it, and hooks that outlive wrapped projections."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxtyping import Int
from torch import Tensor, arange, nn

from reason_rl.errors import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")


def decoder_of(model: Any) -> Any:
    """Return the stack of decoder layers inside a causal language model, with a LoRA adapter on it or without.

    Raises:
        RecipeError: for an architecture whose attention we have not checked.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind = base.config.model_type
    if kind not in SUPPORTED:
        raise RecipeError(f"model.path: attention of {kind} models is not known; supported: {', '.join(SUPPORTED)}")
    return base.get_decoder()


def attentions_of(model: nn.Module) -> list[Any]:
    """Return the attention modules, first layer first."""
    return [layer.self_attn for layer in decoder_of(model).layers]


def absolute_positions(inputs: dict[str, Any]) -> Int[Tensor, "rows tokens"]:
    """Return the 1-based absolute position of each token of a decoder's call.

    Positions that were given count (packed rows start again at 1); else tokens of a 2-D attention mask are counted, so left
    padding does not shift anything; else tokens follow those in the KV cache. Padding is at position 1.

    Args:
        inputs: the keyword arguments of the decoder.

    Raises:
        ValueError: for a mask that is not 2-D and no positions: padding cannot be told.

    >>> from torch import tensor, zeros
    >>> ids, mask = zeros(2, 3).long(), tensor([[0, 1, 1], [1, 1, 1]])
    >>> absolute_positions({"input_ids": ids, "attention_mask": mask}).tolist()
    [[1, 1, 2], [1, 2, 3]]
    >>> absolute_positions({"input_ids": ids, "attention_mask": mask, "position_ids": tensor([[0, 1, 0]])}).tolist()
    [[1, 2, 1]]
    """
    given, mask = inputs.get("position_ids"), inputs.get("attention_mask")
    if given is not None:
        return (given + 1).clamp(min=1)
    embeds = inputs.get("inputs_embeds")
    tokens = embeds if embeds is not None else inputs["input_ids"]
    width = tokens.shape[1]
    if mask is None:
        cache = inputs.get("past_key_values")
        seen = cache.get_seq_length() if cache is not None else 0
        return (arange(1, width + 1, device=tokens.device) + seen)[None]
    if getattr(mask, "ndim", None) != 2:
        raise ValueError("attention_mask is not 2-D, so padding cannot be told; give position_ids")
    return mask.long().cumsum(dim=1)[:, -width:].clamp(min=1)


class Follower:
    """Hooks a projection of an attention module by its name, and whatever wraps it later.

    PEFT puts LoRA around a projection by replacing it; a hook on the old one would see the output of the base weights only.
    Before each call the projection of that name is looked up: a new one is hooked, and hooks on replaced ones do nothing.
    """

    def __init__(
        self, owner: nn.Module, name: str, edit: Callable[[Tensor], Tensor], *, of_input: bool = False
    ) -> None:
        self.owner, self.name, self.edit, self.of_input = owner, name, edit, of_input
        self.hooked: list[nn.Module] = []

    def follow(self) -> None:
        """Hook the projection that has the name now."""
        target = getattr(self.owner, self.name)
        if not any(target is known for known in self.hooked):
            self.hooked.append(target)
            if self.of_input:
                target.register_forward_pre_hook(self._before)
            else:
                target.register_forward_hook(self._after)

    def _before(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if module is not getattr(self.owner, self.name):
            return None
        return (self.edit(args[0]), *args[1:])

    def _after(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        return self.edit(output) if module is getattr(self.owner, self.name) else None


def refuse_reentrant(decoder: Any) -> None:
    """Raise when layers are to be recomputed by reentrant checkpointing: what is handed down to them gets no gradient.

    Raises:
        RecipeError: then.
    """
    layer = decoder.layers[0]
    if not (layer.training and getattr(layer, "gradient_checkpointing", False)):
        return
    if getattr(layer._gradient_checkpointing_func, "keywords", {}).get("use_reentrant", False):
        raise RecipeError(
            "attention: reentrant gradient checkpointing loses gradients here; set "
            "trainer.gradient_checkpointing_kwargs: {use_reentrant: false}"
        )


def query_name(attention: nn.Module) -> str:
    """Return what gives the queries before their rotation: the norm where there is one (it would undo a scale)."""
    return "q_norm" if hasattr(attention, "q_norm") else "q_proj"


def window_of(attention: Any) -> int | None:
    """Return how many tokens back an attention module looks; None = to the first."""
    if attention.config.model_type == "mistral":
        return attention.config.sliding_window
    return getattr(attention, "sliding_window", None)


def parameter_count(model: PreTrainedModel) -> int:
    """Return the number of parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters())
