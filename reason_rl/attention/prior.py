"""The RPA prior: which earlier tokens a token is expected to attend to, from soft regimes aligned with soft blocks.

Source: RPA (arXiv 2603.09253). Its listings are not causal, couple the rows of a batch, and overflow with the length; the
construction here is our own, a constant of the reference length, so it is causal and can be cached. What the paper's listing
computes is kept in ``published.py``, to be compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from reason_rl.errors import RecipeError

Square = Float[Tensor, "tokens tokens"]
ALIGNED = 1e-6  # largest error of a row sum after the alignment
SINKHORN_ROUNDS = 400_000  # 8 regimes at align 0.3 need 100,000, which is seconds; the default needs 25
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
        RecipeError: when the rows do not settle, which finite scores do in the end.

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
    raise RecipeError(
        f"attention.prior: the alignment of {scores.shape[0]} regimes and {scores.shape[1]} blocks did not settle; use a "
        "higher align or fewer regimes"
    )


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
        """Mean and standard deviation of the raw prior over causal entries; (m, 1) where all are equal.

        From running sums over keys, so that a long prior needs no square of its length.
        """
        queries, keys, count = self.queries, self.keys, self.tokens * (self.tokens + 1) / 2
        mean = float((queries * keys.cumsum(dim=0)).sum()) / count
        centred = queries - mean  # rows of keys sum to 1
        outer = (keys[:, :, None] * keys[:, None, :]).cumsum(dim=0)
        variance = float(torch.einsum("tk,tkl,tl->", centred, outer, centred)) / count
        deviation = math.sqrt(max(variance, 0.0))
        return (mean, deviation) if deviation > 1e-8 else (mean, 1.0)

    @property
    def reach(self) -> float:
        """An upper bound of ``|z|`` before the clip: an entry is a mean of its query's expectations, weighted by the key."""
        mean, deviation = self.moments
        return float((self.queries - mean).abs().max()) / deviation

    @cached_property
    def log_prior(self) -> Square:
        """``log pi``, float32 [query, key]; -inf for later keys."""
        mean, deviation = self.moments
        z = ((self.queries @ self.keys.T - mean) / deviation).clamp(-CLIP, CLIP) / self.tau
        return over_earlier(z)

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """Return (query, key) factors, float32, each [tokens, blocks]: their product is ``z / tau`` up to constants of rows.

        Appended to queries and keys they give the biased attention without a dense bias. None where the clip may act, which a
        product cannot do; it acts on no static prior of 2 to 8 regimes.
        """
        if self.reach > CLIP:
            return None
        # A constant of a row is one of its softmax; without it the factors are small enough for 16-bit numbers.
        centred = self.queries - self.queries.mean(dim=1, keepdim=True)
        return (centred / (self.tau * self.moments[1])).float(), self.keys.float()


def over_earlier(logits: Square) -> Square:
    """Return the log-softmax of each row over the places up to its own, float32; -inf for later places.

    >>> over_earlier(torch.zeros(2, 2)).exp().tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """
    causal = logits.masked_fill(~torch.ones_like(logits).tril().bool(), -math.inf)
    return (causal - causal.logsumexp(dim=1, keepdim=True)).float()
