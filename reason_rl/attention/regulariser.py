"""The prior as the RL trainer meets it: something that watches a forward pass and adds a term to its loss."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from reason_rl.algorithm.store import Store
from reason_rl.attention.guardian import Guardian, last_decision, temperature
from reason_rl.attention.kl import AttentionKL
from reason_rl.attention.schedule import Strength
from reason_rl.attention.source import PriorSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from reason_rl.recipe.attention_specs import PriorSpec

WEIGHT = {"kl": 1e-3, "bias": 0.5}
LAYERS: dict[str, tuple[int, ...] | None] = {"kl": (-1,), "bias": None}


@dataclass
class PriorLoss:
    """``weight(progress) / tau KL(attention || prior)``, tau by Guardian or 1.

    Where the weight is 0 nothing is watched and nothing is added.
    """

    watch: AttentionKL
    weight: Strength

    name = "attention_kl"

    def factor(self, progress: float, store: Store) -> float:
        """Return what the divergence is multiplied by."""
        return self.weight(progress) / temperature(store)

    def figures(self, store: Store) -> dict[str, float]:
        """Return what Guardian decided last; nothing without it."""
        return last_decision(store)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the forward passes of the block."""
        with self.watch.collecting():
            yield

    def term(self, step: int) -> Tensor:
        """Return the mean divergence of what was watched."""
        return self.watch.term(step)


def make_source(spec: PriorSpec, frozen: Mapping[int, Tensor] | None = None) -> PriorSource:
    """Return the priors of a recipe; ``frozen`` are calibrated memberships by layer."""
    return PriorSource(spec.variant, spec.regimes, spec.align, spec.tau, frozen or {})


def make_strength(spec: PriorSpec) -> Strength:
    """Return the schedule of a recipe's weight."""
    peak = WEIGHT[spec.mode] if spec.weight is None else spec.weight
    return Strength(peak, spec.warm, spec.fall, spec.end, spec.begin)


def layers_of(spec: PriorSpec) -> tuple[int, ...] | None:
    """Return the layers of a recipe, None = all."""
    return LAYERS[spec.mode] if spec.layers is None else tuple(spec.layers)


def make_watch(
    spec: PriorSpec, model: PreTrainedModel, source: PriorSource, layers: tuple[int, ...], seed: int
) -> AttentionKL:
    """Return what watches the layers of a recipe."""
    heads = None if spec.heads is None else tuple(spec.heads)
    return AttentionKL(model, source, spec.reference_tokens, layers, spec.queries, seed, heads)


def make_prior_loss(
    spec: PriorSpec, model: PreTrainedModel, seed: int, frozen: Mapping[int, Tensor] | None = None
) -> PriorLoss:
    """Return the loss term of a recipe, watching ``model``.

    Raises:
        RecipeError: for a model whose attention is not known.
    """
    layers = layers_of(spec)
    assert layers is not None
    return PriorLoss(make_watch(spec, model, make_source(spec, frozen), layers, seed), make_strength(spec))


def make_guardian(spec: PriorSpec | None, max_tokens: int, seed: int) -> Guardian | None:
    """Return the controller that a recipe asks for; lengths are divided by ``max_tokens`` completion tokens."""
    if spec is None or spec.guardian is None:
        return None
    # What the policy sees of the memberships is a constant; those of the places stand for calibrated ones.
    mu = PriorSource(regimes=spec.regimes).memberships(spec.reference_tokens, 0)
    entropy = float(-(mu * mu.clamp(min=1e-12).log()).sum(dim=1).mean())
    options: dict[str, Any] = spec.guardian.model_dump(exclude={"every", "held_out_traces"})
    return Guardian(max_tokens=max_tokens, entropy=entropy, seed=seed, every=spec.guardian.every or 1, **options)
