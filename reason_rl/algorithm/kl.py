"""Estimators of KL(policy || reference) from the log-probabilities of sampled tokens."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

TokenLogps = Float[Tensor, "..."]


def k1(logp: TokenLogps, reference: TokenLogps) -> TokenLogps:
    """Return ``logp - reference``: unbiased, of either sign."""
    return logp - reference


def k2(logp: TokenLogps, reference: TokenLogps) -> TokenLogps:
    """Return ``0.5 (logp - reference)^2``: biased, never negative ("mse" in verl; DLER's table)."""
    return 0.5 * (logp - reference).square()


def k3(logp: TokenLogps, reference: TokenLogps) -> TokenLogps:
    """Return ``exp(reference - logp) - (reference - logp) - 1``: unbiased, never negative (TRL's ``beta``)."""
    return (reference - logp).exp() - (reference - logp) - 1
