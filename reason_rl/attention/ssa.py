"""Selective self-attention: every query gets its own inverse temperature and every value its own scale.

A patch of a pretrained model, exactly the identity until it is trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reason_rl.attention.decoder import (
    Follower,
    absolute_positions,
    attentions_of,
    decoder_of,
    query_name,
    refuse_reentrant,
    window_of,
)
from reason_rl.errors import RecipeError

Features = Literal["linear", "mlp", "none"]
Gate = Literal["linear", "double_exponential", "none"]
Scale = Float[Tensor, "rows tokens 1"]

HIDDEN = 16
SMALLEST_TAU = 0.01
BETA_START = {"linear": 0.0, "double_exponential": 2.0}
POSITIONS = "ssa_positions"


@dataclass(frozen=True)
class SSAOptions:
    """What sets the temperature of a query and the scale of a value.

    Args:
        features: of the token: ``linear`` w.x + c, ``mlp`` w2.gelu(W1 x) with W1 shared by all layers, or ``none``.
        gate: of the position: ``linear`` (exactly the identity at the start), ``double_exponential``, or ``none``.
        values: scale values by their token too.
        rate: steps in these parameters count so many times, as if their learning rate were that much higher.

    Raises:
        ValueError: when nothing would be scaled, or the rate is not positive.
    """

    features: Features = "linear"
    gate: Gate = "linear"
    values: bool = True
    rate: float = 10.0

    def __post_init__(self) -> None:
        if self.features == "none" and self.gate == "none":
            raise ValueError("features none and gate none scale nothing")
        if self.rate <= 0:
            raise ValueError(f"rate {self.rate} is not above 0")


def position_factor(
    positions: Int[Tensor, "*shape"], beta: Float[Tensor, ""], gate: Literal["linear", "double_exponential"]
) -> Float[Tensor, "*shape"]:
    """Return how much sharper a query attends at its position: it counters the dilution of long contexts.

    ``linear: 1 + beta ln n``, ``double_exponential: 1 + exp(-exp(beta)) ln n``.

    Args:
        positions: absolute, 1-based, in tokens.
        beta: of a layer, shared by its heads.
        gate: the map of beta.

    >>> n = torch.tensor([1, 10, 100, 2048])
    >>> [round(v, 5) for v in position_factor(n, torch.tensor(1.5), "double_exponential").tolist()]
    [1.0, 1.02605, 1.0521, 1.08627]

    Source: github umich-sota/selective_attention, both gates. Ours starts the linear one at beta = 0, where it is 1.
    """
    strength = beta if gate == "linear" else torch.exp(-torch.exp(beta))
    return 1.0 + strength * positions.float().log()


def inverse_temperature(
    token: Float[Tensor, "*shape"] | float, position: Float[Tensor, "*shape"] | float
) -> Float[Tensor, "*shape"]:
    """Return ``tau = tanh(f) + tau_pos``, what queries are multiplied by; never below 0.01.

    Args:
        token: f(x), before its tanh.
        position: tau_pos(n).

    >>> inverse_temperature(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]))
    tensor([1.0000, 1.7616])

    Source: SSA (arXiv 2411.12892). The floor is ours: with the linear gate tau_pos can fall below 1.
    """
    return (torch.tanh(torch.as_tensor(token)) + position).clamp(min=SMALLEST_TAU)


def spikiness(shares: Float[Tensor, "*rows keys"]) -> Float[Tensor, "*rows"]:
    """Return ``||s||_1 / (||s||_2^2 L)`` of rows of attention: 1 when uniform, 1/L when all is on one key.

    Args:
        shares: attention weights of a query over its L keys.

    >>> spikiness(torch.tensor([[0.5, 0.5], [1.0, 0.0]])).tolist()
    [1.0, 0.5]

    Source: SSA (arXiv 2411.12892), the diagnostic as reviews of it give it.
    """
    return shares.sum(dim=-1) / (shares.square().sum(dim=-1) * shares.shape[-1])


def new_parameters(hidden_size: int, layers: int, options: SSAOptions) -> int:
    """Return how many parameters the patch adds.

    ``linear: layers (k (D + 1) + 1)``, ``mlp: 16 D + 16 k layers + layers``, ``none: layers``; k = 2 with values, else 1.

    >>> new_parameters(2048, 24, SSAOptions())  # beside 24 * 12 * 2048**2, about 1.2e9, of the layers' matrices
    98376
    """
    kinds = 2 if options.values else 1
    beta = layers if options.gate != "none" else 0
    if options.features == "linear":
        return layers * kinds * (hidden_size + 1) + beta
    return (HIDDEN * hidden_size + layers * kinds * HIDDEN if options.features == "mlp" else 0) + beta


class SelectiveTemperature(nn.Module):
    """The temperatures of one attention layer. Parameters stay float32, whatever the model's type."""

    query: nn.Linear
    value: nn.Linear

    def __init__(self, attention: Any, hidden_size: int, options: SSAOptions, shared: nn.Module | None) -> None:
        super().__init__()
        self.options, self.window = options, window_of(attention)
        width = hidden_size if options.features == "linear" else HIDDEN
        kinds = [] if options.features == "none" else ["query", "value"] if options.values else ["query"]
        for kind in kinds:
            layer = nn.Linear(width, 1, bias=options.features == "linear")
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
            setattr(self, kind, layer)
        if options.gate != "none":
            self.beta = nn.Parameter(torch.tensor(BETA_START[options.gate] / options.rate))
        # In a tuple, so that the module shared by all layers is registered once, at the decoder.
        self.shared = (shared,)
        self.scales: tuple[Scale, Scale | None] | None = None
        self.followers = [Follower(attention, query_name(attention), self._scale_query)]
        if "value" in kinds:
            self.followers.append(Follower(attention, "v_proj", self._scale_value))

    def forward(
        self, x: Float[Tensor, "rows tokens hidden"], positions: Int[Tensor, "#rows tokens"]
    ) -> tuple[Scale, Scale | None]:
        """Return tau of the queries and the scale of the values, in float32, under autocast too."""
        with torch.autocast(x.device.type, enabled=False):
            return self._scales(x.float(), positions)

    def _scales(self, x: Tensor, positions: Tensor) -> tuple[Scale, Scale | None]:
        options = self.options
        if options.features == "mlp":
            x = nn.functional.gelu(self.shared[0](x))  # type: ignore[misc]
        token: Tensor | float = 0.0
        if options.features != "none":
            token = options.rate * self.query(x)
        position: Tensor | float = 1.0
        if options.gate != "none":
            n = positions if self.window is None else positions.clamp(max=self.window)
            position = position_factor(n, options.rate * self.beta, options.gate)[..., None]
        scale = 1.0 + torch.tanh(options.rate * self.value(x)) if hasattr(self, "value") else None
        return inverse_temperature(token, position), scale

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Work out the scales at the attention's input; called before its forward, and again when it is recomputed."""
        positions = kwargs.pop(POSITIONS)
        self.scales = self(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0], positions)
        for follower in self.followers:
            follower.follow()
        return args, kwargs

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        """Forget the scales of the call."""
        self.scales = None

    def _scale_query(self, query: Tensor) -> Tensor:
        assert self.scales is not None
        tau = self.scales[0][..., None] if query.ndim == 4 else self.scales[0]
        return (query.float() * tau).to(query.dtype)

    def _scale_value(self, value: Tensor) -> Tensor:
        assert self.scales is not None
        assert self.scales[1] is not None
        return (value.float() * self.scales[1]).to(value.dtype)


def add_ssa(model: nn.Module, options: SSAOptions, seed: int = 0) -> None:
    """Put selective temperatures into every layer of a model, in place; its logits stay what they are, bit by bit.

    Queries are scaled after their norm (Qwen3 has one, which would undo a scale) and values before they enter the KV cache,
    so cached decoding needs nothing else. Works with every attention implementation, LoRA added before or after, and
    non-reentrant gradient checkpointing.

    Args:
        model: Llama, Mistral, Qwen2 or Qwen3.
        options: what sets the scales.
        seed: of W1 (features mlp); everything else starts at zero, or where the double exponential gate does.

    Raises:
        RecipeError: for another architecture, or when there are temperatures already.

    Source: SSA (arXiv 2411.12892). Structure of f and what is shared are ours; the official code has positions only.
    """
    decoder, attentions = decoder_of(model), attentions_of(model)
    if any(hasattr(attention, "ssa") for attention in attentions):
        raise RecipeError("attention.ssa: the model has selective temperatures already")
    size, device = int(decoder.config.hidden_size), next(decoder.parameters()).device
    if options.features == "mlp":
        decoder.ssa_shared = nn.Linear(size, HIDDEN, bias=False).to(device)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            decoder.ssa_shared.weight.copy_(torch.randn(HIDDEN, size, generator=generator) / size**0.5)
    for attention in attentions:
        layer = SelectiveTemperature(attention, size, options, getattr(decoder, "ssa_shared", None)).to(device)
        attention.ssa = layer
        attention.register_forward_pre_hook(layer.before, with_kwargs=True)
        attention.register_forward_hook(layer.after)
    decoder.register_forward_pre_hook(_tell_positions, with_kwargs=True)


def _tell_positions(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Hand positions down to the layers, as an argument: recomputation under checkpointing must see the same ones."""
    refuse_reentrant(module)
    inputs = {**({"input_ids": args[0]} if args else {}), **kwargs}
    return args, {**kwargs, POSITIONS: absolute_positions(inputs)}


def ssa_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield name and parameter of everything that the patch added; names do not depend on a LoRA wrapper."""
    decoder = decoder_of(model)
    yield from ((f"shared.{name}", p) for name, p in getattr(decoder, "ssa_shared", nn.Module()).named_parameters())
    for index, attention in enumerate(attentions_of(model)):
        if hasattr(attention, "ssa"):
            yield from ((f"layers.{index}.{name}", p) for name, p in attention.ssa.named_parameters())


def train_ssa_only(model: nn.Module) -> None:
    """Freeze everything but the temperatures."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    train_ssa_too(model)


def train_ssa_too(model: nn.Module) -> None:
    """Make the temperatures trainable, whatever else is; LoRA freezes all that it did not add."""
    for _, parameter in ssa_parameters(model):
        parameter.requires_grad_(True)
