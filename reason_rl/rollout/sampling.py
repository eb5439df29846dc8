"""Drawing one token a row by inverse CDF, each row from its own random stream."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from reason_rl.rollout.backend import SamplingOptions


def uniforms(seeds: list[int], count: int) -> Tensor:
    """Return ``count`` uniform numbers a seed, float32 [rows, count] in [0, 1), from a counter-based generator."""
    streams = [np.random.Generator(np.random.Philox(key=seed)).random(count, dtype=np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(streams))


def truncate(logps: Tensor, options: SamplingOptions) -> Tensor:
    """Apply top-k, then top-p, to log-probabilities [rows, vocabulary] and renormalise; the top token always stays."""
    if options.top_k > 0:
        threshold = logps.topk(min(options.top_k, logps.shape[-1]), dim=-1).values[:, -1:]
        logps = logps.masked_fill(logps < threshold, -torch.inf).log_softmax(dim=-1)
    if options.top_p < 1.0:
        ordered, order = logps.sort(dim=-1, descending=True)
        before = ordered.exp().cumsum(dim=-1) - ordered.exp()
        dropped = torch.zeros_like(logps, dtype=torch.bool).scatter(-1, order, before >= options.top_p)
        logps = logps.masked_fill(dropped, -torch.inf).log_softmax(dim=-1)
    return logps


def draw(logits: Tensor, options: SamplingOptions, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token a row.

    Args:
        logits: [rows, vocabulary].
        options: temperature, top-p and top-k; temperature 0 takes the most likely token.
        uniform: one number in [0, 1) a row, [rows].

    Returns:
        Token ids [rows] and their log-probabilities under the distribution really sampled from, float32 [rows]. Greedy
        tokens carry their log-probability at temperature 1.
    """
    if options.temperature == 0.0:
        logps = logits.float().log_softmax(dim=-1)
        tokens = logps.argmax(dim=-1)
    else:
        logps = (logits.float() / options.temperature).log_softmax(dim=-1)
        if options.top_k > 0 or options.top_p < 1.0:
            logps = truncate(logps, options)
        cumulative = logps.exp().cumsum(dim=-1)
        aim = uniform.to(cumulative)[:, None] * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, aim, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)
    return tokens, logps.gather(1, tokens[:, None]).squeeze(1)
