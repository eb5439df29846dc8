"""The arithmetic of merging, one tensor at a time: pure functions of a base's tensor and those of K models.

The election of signs and the disjoint mean are peft's. Ours are the trim, for peft's rounds the count down (28 of 100
entries at density 0.29) and the methods here state it rounded; the random drop, for peft's takes no generator; and the
weighted mean, for peft's divides by the number of models that agree, which is no mean with weights other than 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from peft.utils.merge_utils import calculate_majority_sign_mask, disjoint_merge
from torch import Tensor

from reason_rl.merge.spec import MergeSpec

Weights = Float[Tensor, "..."]
Stack = Float[Tensor, "models ..."]


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type to compute in: differences of nearby weights of this type are exact in it.

    >>> working_dtype(torch.bfloat16), working_dtype(torch.float32)
    (torch.float32, torch.float64)
    """
    return torch.float32 if torch.finfo(dtype).bits == 16 else torch.float64


def linear(tensors: Stack, weights: Sequence[float]) -> Weights:
    """Return the weighted mean, ``sum_k w_k theta_k / sum_k w_k``.

    >>> linear(torch.tensor([[1.0, -0.4, 0.05], [-0.6, -0.5, 0.4]]), (0.8, 0.2))
    tensor([ 0.6800, -0.4200,  0.1200])

    Source: AdaR1 (arXiv 2504.21659) eq. 2, for two models.
    """
    return _weighted(tensors, weights).sum(0) / sum(weights)


def trim(difference: Weights, density: float) -> Weights:
    """Return a difference with the ``round(density * entries)`` largest magnitudes kept and the rest set to zero.

    Ranked within the tensor; a tensor too small to keep any entry becomes zero. The official TIES code ranks over the whole
    model, that of long-to-short merging (arXiv 2503.20641) and mergekit within a tensor, as here.

    >>> trim(torch.tensor([1.0, -0.4, 0.05, 0.8, -0.02, 0.3]), 0.5)
    tensor([ 1.0000, -0.4000,  0.0000,  0.8000,  0.0000,  0.0000])

    Source: TIES (arXiv 2306.01708) section 3; DLER (arXiv 2510.15110) for update-selective merging.
    """
    count = round(density * difference.numel())
    flat = difference.flatten()
    kept = flat.abs().topk(count, sorted=False).indices
    return torch.zeros_like(flat).scatter_(0, kept, flat[kept]).view_as(difference)


def drop(difference: Weights, density: float, generator: torch.Generator) -> Weights:
    """Return ``m d / density`` with ``m ~ Bernoulli(density)`` an entry: the same difference on average.

    >>> drop(torch.ones(6), 0.5, torch.Generator().manual_seed(0))
    tensor([2., 0., 2., 2., 2., 0.])

    Source: DARE (arXiv 2311.03099); its drop rate p is ``1 - density``.
    """
    mask = torch.rand(difference.shape, generator=generator) < density
    return torch.where(mask, difference / density, 0.0)


def elect(differences: Stack, weights: Sequence[float]) -> Weights:
    """Return the weighted mean of the entries that have the elected sign, 0 where none has.

    The sign is that of ``sum_k w_k d_k``, plus where it is zero. With equal weights this is the disjoint mean of TIES.

    >>> elect(torch.tensor([[1.0, -0.4, 0.0, 0.8], [-0.6, -0.5, 0.0, 0.0]]), (1.0, 1.0))
    tensor([ 1.0000, -0.4500,  0.0000,  0.8000])

    Source: TIES (arXiv 2306.01708) section 3; the official code gives a zero sum the majority sign of the vector.
    """
    weighted = _weighted(differences, weights)
    agree = calculate_majority_sign_mask(weighted)
    # Both are sums over those that agree divided by their number, which cancels.
    mean_weight = disjoint_merge(_weighted(torch.ones_like(weighted), weights), agree)
    return torch.where(mean_weight > 0, disjoint_merge(weighted, agree) / mean_weight, 0.0)


def merge_tensor(spec: MergeSpec, name: str, base: Weights | None, models: Sequence[Weights]) -> Weights:
    """Return the merge of one tensor, in the working type.

    ==================  ==========================================================
    linear              ``sum w theta / sum w``
    task_arithmetic     ``base + scale sum w d``, with ``d = theta - base``
    ties                ``base + scale elect(trim(d))``
    dare_linear         ``base + scale sum w drop(d)``
    dare_ties           ``base + scale elect(drop(d))``
    selective           ``base + scale sum w trim(d)``
    ==================  ==========================================================

    Args:
        spec: checked; weights, density and scale are filled in.
        name: of the tensor; with the seed it decides what DARE drops, so that no order of tensors does.
        base: the base's tensor; None for linear.
        models: the models' tensors, in the order of the weights.
    """
    wide = working_dtype(models[0].dtype)
    if base is None:
        return linear(torch.stack([model.to(wide) for model in models]), spec.weights)
    start = base.to(wide)
    differences = [model.to(wide) - start for model in models]
    if spec.density is not None and spec.method.startswith("dare"):
        differences = [drop(d, spec.density, generator_of(spec.seed, k, name)) for k, d in enumerate(differences)]
    elif spec.density is not None:
        differences = [trim(d, spec.density) for d in differences]
    stack = torch.stack(differences)
    merged = elect(stack, spec.weights) if spec.method.endswith("ties") else _weighted(stack, spec.weights).sum(0)
    return start + (1.0 if spec.scale is None else spec.scale) * merged


def generator_of(seed: int, model: int, name: str) -> torch.Generator:
    """Return the random stream of one tensor of one model."""
    digest = hashlib.sha256(f"{seed}/{model}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _weighted(tensors: Stack, weights: Sequence[float]) -> Stack:
    return tensors * torch.tensor(weights, dtype=tensors.dtype).view(-1, *[1] * (tensors.ndim - 1))
