"""The RPA prior: which earlier tokens a token is expected to attend to, from soft regimes aligned with soft blocks.

Source: RPA (arXiv 2603.09253). Its listings are not causal, couple the rows of a batch, and overflow with the length; the
construction here is our own, a constant of the reference length, so it is causal and can be cached. What the paper's listing
computes is kept as :func:`published_bias`, to be compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

Square = Float[Tensor, "tokens tokens"]
ALIGNED = 1e-6  # largest error of a row sum after the alignment
SINKHORN_ROUNDS = 2000
CLIP = 4.0


def static_memberships(tokens: int, regimes: int) -> Float[Tensor, "tokens regimes"]:
    """Return how much each place belongs to each regime: a softmax of Gaussians with centres spread over the length.

    >>> static_memberships(3, 2)[1].tolist()
    [0.5, 0.5]
    """
    if regimes == 1:
        return torch.ones(tokens, 1, dtype=torch.float64)
    place = torch.arange(tokens, dtype=torch.float64) / max(tokens - 1, 1)
    centres = torch.arange(regimes, dtype=torch.float64) / (regimes - 1)
    width = 1 / (2 * (regimes - 1))
    return torch.softmax(-((place[:, None] - centres) ** 2) / (2 * width**2), dim=1)


def soft_blocks(tokens: int, blocks: int) -> Float[Tensor, "tokens blocks"]:
    """Return raised-cosine windows over the length, each row summing to 1.

    >>> soft_blocks(4, 2)[1].round(decimals=4).tolist()
    [0.75, 0.25]
    """
    place = torch.arange(tokens, dtype=torch.float64)
    centres = torch.linspace(0, tokens - 1, blocks, dtype=torch.float64)
    distance = ((place[:, None] - centres).abs() / max(1.0, 1.5 * tokens / blocks)).clamp(max=1)
    windows = (1 + torch.cos(math.pi * distance)) / 2
    return windows / windows.sum(dim=1, keepdim=True)


def sinkhorn(scores: Float[Tensor, "regimes blocks"]) -> Float[Tensor, "regimes blocks"]:
    """Return ``exp(scores)`` scaled to row sums of K/R and column sums of 1, in the log domain; R regimes, K blocks.

    Raises:
        ArithmeticError: when the rows do not settle, which finite scores do.

    >>> sinkhorn(torch.zeros(2, 2)).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    log = scores.double()
    target = math.log(log.shape[1] / log.shape[0])
    for _ in range(SINKHORN_ROUNDS):
        log = log - log.logsumexp(dim=1, keepdim=True) + target
        log = log - log.logsumexp(dim=0, keepdim=True)
        if (log.logsumexp(dim=1) - target).exp().sub(1).abs().max() < ALIGNED:
            return log.exp()
    raise ArithmeticError(f"the alignment of {tuple(scores.shape)} regimes and blocks did not settle")


@dataclass(frozen=True, eq=False)
class Prior:
    """``log pi(j | i)`` over the places ``j <= i`` of a reference length, and its low-rank parts.

    ``z = (U Phi^T - m) / s`` clipped to +-4, with m and s over causal entries; ``log pi = z / tau`` normalised over each row.

    Args:
        memberships: of each place in each regime, [tokens, regimes].
        blocks: as many as regimes for a doubly stochastic alignment.
        align: temperature of the alignment.
        tau: temperature of the prior; lower is sharper.

    >>> prior = Prior(static_memberships(8, 4), 4)
    >>> prior.log_prior.exp().sum(dim=1).round(decimals=5).unique().tolist()
    [1.0]
    >>> prior.log_prior[0, 0].item(), prior.log_prior[0, 1].item()
    (0.0, -inf)

    Source: RPA (arXiv 2603.09253), with a mean in place of the sum over places (our choice: the same for every length),
    a log-domain alignment, and statistics over causal entries.
    """

    memberships: Float[Tensor, "tokens regimes"]
    blocks: int
    align: float = 0.7
    tau: float = 1.0

    @property
    def tokens(self) -> int:
        """The reference length."""
        return len(self.memberships)

    @cached_property
    def keys(self) -> Float[Tensor, "tokens blocks"]:
        """``Phi``: how much each place, as a key, belongs to each block."""
        return soft_blocks(self.tokens, self.blocks)

    @cached_property
    def queries(self) -> Float[Tensor, "tokens blocks"]:
        """``U``: how much each place, as a query, expects of each block."""
        mu = self.memberships.double()
        mass = mu.shape[1] * self.blocks / self.tokens * mu.T @ self.keys
        return mu @ sinkhorn(mass / self.align)

    @cached_property
    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the raw prior over causal entries; (0, 1) where all are equal."""
        raw = self.queries @ self.keys.T
        causal = raw[torch.ones_like(raw).tril().bool()]
        deviation = float(causal.std(unbiased=False))
        return (float(causal.mean()), deviation) if deviation > 1e-12 else (float(causal.mean()), 1.0)

    @cached_property
    def log_prior(self) -> Square:
        """``log pi``, float32 [query, key]; -inf for later keys."""
        mean, deviation = self.moments
        z = ((self.queries @ self.keys.T - mean) / deviation).clamp(-CLIP, CLIP) / self.tau
        z = z.masked_fill(~torch.ones_like(z).tril().bool(), -math.inf)
        return (z - z.logsumexp(dim=1, keepdim=True)).float()

    def factors(self, strength: float) -> tuple[Tensor, Tensor]:
        """Return (query, key) factors, each [tokens, blocks]: their product is ``strength z / tau`` up to constants of rows.

        Appended to queries and keys they give the biased attention without a dense bias; the clip is left out, which acts on
        no static prior of 2 to 8 regimes.
        """
        return (strength / (self.tau * self.moments[1]) * self.queries).float(), self.keys.float()


def published_alignment(
    memberships: Float[Tensor, "rows tokens regimes"], align: float = 0.7, rounds: int = 8
) -> Float[Tensor, "regimes blocks"]:
    """Return the alignment of the paper's listing: a sum over tokens, a clamp, and so many rounds of scaling.

    >>> mu = torch.tensor([[[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.1, 0.9]]])
    >>> [round(v, 4) for v in published_alignment(mu)[0].tolist()]
    [0.7834, 0.2166]

    Source: RPA (arXiv 2603.09253), the full listing.
    """
    mu = memberships.double()
    mass = torch.einsum("btr,tk->brk", mu, soft_blocks(mu.shape[1], mu.shape[2])).mean(dim=0)
    plan = (mass / align).exp().clamp(1e-9, 1e9)
    for _ in range(rounds):
        plan = plan / plan.sum(dim=1, keepdim=True)
        plan = plan / plan.sum(dim=0, keepdim=True)
    return plan


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
    mu = memberships.double()
    plan = published_alignment(memberships, align, rounds)
    raw = torch.einsum("btr,rk,sk->bts", mu, plan, soft_blocks(mu.shape[1], mu.shape[2])).mean(dim=0)
    return ((raw - raw.mean()) / raw.std()).nan_to_num(0.0).clamp(-CLIP, CLIP).float()
