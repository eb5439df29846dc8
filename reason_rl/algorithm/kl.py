"""Estimators of KL(policy || reference) from the log-probabilities of tokens sampled from the policy.

Source: Schulman, "Approximating KL divergence" (2020), whose ratio is reference / policy. DLER's table (arXiv
2510.15110) names "mse", which is k2, while its script leaves verl's default, k3, in force; TRL knows k3 only.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

TokenLogps = Float[Tensor, "..."]


def k2(logp: TokenLogps, reference: TokenLogps) -> TokenLogps:
    """Return ``0.5 (logp - reference)^2``: biased, never negative ("mse" in verl; DLER's table).

    >>> import torch
    >>> round(k2(torch.tensor(-1.2), torch.tensor(-1.0)).item(), 6)
    0.02
    """
    return 0.5 * (logp - reference).square()


def k3(logp: TokenLogps, reference: TokenLogps) -> TokenLogps:
    """Return ``exp(reference - logp) - (reference - logp) - 1``: unbiased, never negative (TRL's ``beta``).

    >>> import torch
    >>> round(k3(torch.tensor(-1.2), torch.tensor(-1.0)).item(), 6)
    0.021403
    """
    return (reference - logp).exp() - (reference - logp) - 1
