"""The prior of the paper's listing, to be compared: corrected only where it does not run, its other defects kept.

Source: RPA (arXiv 2603.09253), the full listing, which computes it of the tokens at hand. As a bias or a term here its
memberships are constants of the places, so a model stays causal.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from reason_rl.attention.prior import CLIP, Square, soft_blocks


def published_mass(memberships: Float[Tensor, "rows tokens regimes"]) -> Float[Tensor, "regimes blocks"]:
    """Return how much each regime has of each block, summed over tokens: what the alignment starts from.

    >>> mu = torch.tensor([[[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.1, 0.9]]])
    >>> [round(v, 4) for v in published_mass(mu)[0].tolist()]
    [1.45, 0.55]
    """
    mu = memberships.double()
    return torch.einsum("btr,tk->brk", mu, soft_blocks(mu.shape[1], mu.shape[2])).mean(dim=0)


def published_alignment(
    memberships: Float[Tensor, "rows tokens regimes"], align: float = 0.7, rounds: int = 8
) -> Float[Tensor, "regimes blocks"]:
    """Return the alignment of the paper's listing: a sum over tokens, a clamp, and so many rounds of scaling.

    >>> mu = torch.tensor([[[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.1, 0.9]]])
    >>> [round(v, 4) for v in published_alignment(mu)[0].tolist()]
    [0.7834, 0.2166]

    Source: RPA (arXiv 2603.09253), the full listing.
    """
    plan = (published_mass(memberships) / align).exp().clamp(1e-9, 1e9)
    for _ in range(rounds):
        plan = plan / plan.sum(dim=1, keepdim=True)
        plan = plan / plan.sum(dim=0, keepdim=True)
    return plan


def published_raw(memberships: Float[Tensor, "rows tokens regimes"], align: float = 0.7, rounds: int = 8) -> Square:
    """Return how much each token expects of each other one, before it is standardised.

    >>> mu = torch.tensor([[[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.1, 0.9]]])
    >>> [round(v, 4) for v in published_raw(mu)[0].tolist()]
    [0.7267, 0.6134, 0.3866, 0.2733]
    """
    mu = memberships.double()
    plan = published_alignment(memberships, align, rounds)
    return torch.einsum("btr,rk,sk->bts", mu, plan, soft_blocks(mu.shape[1], mu.shape[2])).mean(dim=0)


def published_bias(memberships: Float[Tensor, "rows tokens regimes"], align: float = 0.7, rounds: int = 8) -> Square:
    """Return the bias of the paper's listing, corrected only where it does not run: standardised, clipped, not yet scaled.

    Its defects are kept: the alignment sums over tokens, so its entries saturate (all at 512 tokens and 4 regimes, and
    what is left to standardise is rounding); it averages over the batch, and standardises over later tokens too, so it is
    neither causal nor a matter of one row.

    >>> mu = torch.tensor([[[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.1, 0.9]]])
    >>> [round(v, 4) for v in published_bias(mu)[0].tolist()]
    [1.6803, 0.8402, -0.8402, -1.6803]

    Source: RPA (arXiv 2603.09253), the full listing.
    """
    raw = published_raw(memberships, align, rounds)
    return ((raw - raw.mean()) / raw.std()).nan_to_num(0.0).clamp(-CLIP, CLIP).float()
