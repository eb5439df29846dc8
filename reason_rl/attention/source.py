"""Which prior each layer has at which reference length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from reason_rl.attention.prior import Prior, Square, over_earlier, static_memberships
from reason_rl.attention.published import published_bias
from reason_rl.errors import RecipeError, RunError

Variant = Literal["static", "content", "published"]


@dataclass(frozen=True, eq=False)
class PriorSource:
    """The priors of a model's layers; constants of (reference length, layer), so whatever is made of them can be cached.

    Args:
        variant: static: the same for all layers; content: from ``frozen``; published: the paper's listing.
        regimes, align, tau: as of :class:`Prior`; the published listing divides by tau too.
        frozen: memberships by layer, each [places, regimes]; the first places of a longer one serve a shorter reference.

    >>> source = PriorSource()
    >>> source.log_prior(4, 0).shape, source.memberships(4, 0).shape
    (torch.Size([4, 4]), torch.Size([4, 4]))
    """

    variant: Variant = "static"
    regimes: int = 4
    align: float = 0.7
    tau: float = 1.0
    frozen: Mapping[int, Float[Tensor, "places regimes"]] = field(default_factory=dict)

    @property
    def shared(self) -> bool:
        """Whether all layers have the same prior."""
        return self.variant != "content"

    def memberships(self, tokens: int, layer: int) -> Float[Tensor, "tokens regimes"]:
        """Return the memberships of a layer at a reference length.

        Raises:
            RunError: for content memberships that were not calibrated, or on fewer places.
        """
        if self.shared:
            return static_memberships(tokens, self.regimes)
        if layer not in self.frozen:
            raise RunError(f"attention.prior: content memberships of layer {layer} are not calibrated")
        if len(self.frozen[layer]) < tokens:
            raise RunError(
                f"attention.prior: memberships of {len(self.frozen[layer])} places, the reference has {tokens} tokens"
            )
        return self.frozen[layer][:tokens]

    def log_prior(self, tokens: int, layer: int) -> Square:
        """Return ``log pi``, [query, key]; -inf for later keys."""
        if self.variant == "published":
            bias = published_bias(self.memberships(tokens, layer)[None].float(), self.align)
            return over_earlier(bias / self.tau)
        return self._prior(tokens, layer).log_prior

    def factors(self, tokens: int, layer: int) -> tuple[Tensor, Tensor] | None:
        """Return the low-rank factors of the prior, None where it has none (see :meth:`Prior.factors`)."""
        return None if self.variant == "published" else self._prior(tokens, layer).factors()

    def _prior(self, tokens: int, layer: int) -> Prior:
        return Prior(self.memberships(tokens, layer), self.regimes, self.align, self.tau)


def chosen_layers(layers: tuple[int, ...] | None, count: int) -> tuple[int, ...]:
    """Return the numbers of layers from 0; negative ones count from the last, None is all.

    Raises:
        RecipeError: for layers that there are not.

    >>> chosen_layers((-1, 0), 4), chosen_layers(None, 2)
    ((3, 0), (0, 1))
    """
    if layers is None:
        return tuple(range(count))
    if any(not -count <= layer < count for layer in layers):
        raise RecipeError(f"attention.prior.layers: {list(layers)}; the model has {count} layers")
    return tuple(layer % count for layer in layers)


def head_weights(weights: tuple[float, ...] | None, count: int) -> tuple[float, ...] | None:
    """Return how much the prior counts in each head, None = fully in all.

    Raises:
        RecipeError: for another number of weights than heads.

    >>> head_weights(None, 4), head_weights((1.0, 0.0), 2)
    (None, (1.0, 0.0))
    """
    if weights is not None and len(weights) != count:
        raise RecipeError(f"attention.prior.heads: {len(weights)} weights; the model has {count} attention heads")
    return weights
