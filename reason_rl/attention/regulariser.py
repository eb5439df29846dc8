"""The prior as the trainer meets it: something that watches a forward pass and adds a term to its loss."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from reason_rl.algorithm.store import Store
from reason_rl.attention.guardian import Guardian, temperature
from reason_rl.attention.kl import AttentionKL
from reason_rl.attention.prior import Prior, static_memberships
from reason_rl.attention.schedule import Strength

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from reason_rl.recipe.attention_specs import PriorSpec


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

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the forward passes of the block."""
        with self.watch.collecting():
            yield

    def term(self, step: int) -> Tensor:
        """Return the mean divergence of what was watched."""
        return self.watch.term(step)


def make_prior(spec: PriorSpec) -> Prior:
    """Return the prior of a recipe."""
    memberships = static_memberships(spec.reference_tokens, spec.regimes)
    return Prior(memberships, spec.regimes, spec.align, spec.tau)


def make_prior_loss(spec: PriorSpec, model: PreTrainedModel, seed: int) -> PriorLoss:
    """Return the loss term of a recipe, watching ``model``.

    Raises:
        RecipeError: for a model whose attention is not known.
    """
    watch = AttentionKL(model, make_prior(spec).log_prior, tuple(spec.layers), spec.queries, seed)
    return PriorLoss(watch, Strength(spec.weight, spec.warm, spec.fall, spec.end))


def make_guardian(spec: PriorSpec | None, max_tokens: int, seed: int) -> Guardian | None:
    """Return the controller that a recipe asks for; lengths are divided by ``max_tokens`` completion tokens."""
    if spec is None or spec.guardian is None:
        return None
    mu = static_memberships(spec.reference_tokens, spec.regimes)
    entropy = float(-(mu * mu.clamp(min=1e-12).log()).sum(dim=1).mean())
    options: dict[str, Any] = spec.guardian.model_dump()
    return Guardian(max_tokens=max_tokens, entropy=entropy, seed=seed, **options)
