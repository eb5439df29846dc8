"""Side decodes: continuations tried on a copy of some rows' cache, which leave the main decode as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from reason_rl.rollout.cache import chunked_cache
from reason_rl.stopping.rule import Ask, Trial


def fork(cache: Cache, rows: Int[Tensor, " kept"]) -> Cache:
    """Return a cache of its own with copies of these rows."""
    copy = chunked_cache(len(cache.layers))
    for number, layer in enumerate(cache.layers):
        assert isinstance(layer, DynamicLayer)
        assert layer.keys is not None
        assert layer.values is not None
        copy.update(layer.keys[rows], layer.values[rows], number)
    return copy


def feed(
    model: PreTrainedModel, ids: Int[Tensor, "rows tokens"], mask: Int[Tensor, "rows seen"], cache: Any
) -> Float[Tensor, "rows vocab"]:
    """Feed tokens after what the cache holds and return the next-token logits; ``mask`` covers cache and new tokens."""
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1]


def extend(mask: Int[Tensor, "rows seen"], tokens: int) -> Int[Tensor, "rows longer"]:
    """Return the mask with so many new tokens at its end."""
    return torch.nn.functional.pad(mask, (0, tokens), value=1)


def entropy_nats(logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows"]:
    """Return the entropy of the next token in nats, ``-sum p ln p``.

    >>> two = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.97, 0.01, 0.01, 0.01]]).log()
    >>> [round(value, 4) for value in entropy_nats(two).tolist()]
    [1.3863, 0.1677]
    """
    # Apple's devices have no float64.
    logps = logits.to(torch.float32 if logits.device.type == "mps" else torch.float64).log_softmax(dim=-1)
    return -(logps.exp() * logps.clamp(min=-1e30)).sum(dim=-1)


def side_decode(
    model: PreTrainedModel, cache: Cache, mask: Int[Tensor, "rows seen"], rows: Sequence[int], ask: Ask
) -> list[Trial]:
    """Decode greedily after ``ask.suffix`` on copies of these rows and return what came out.

    Args:
        model: in eval mode, without gradients.
        cache: holds every token written so far; not changed.
        mask: the attention mask of what the cache holds.
        rows: which rows of the cache.
        ask: suffix, length and stop tokens.

    Raises:
        ValueError: for an empty suffix: nothing new would be read.
    """
    if not ask.suffix:
        raise ValueError("a side decode needs at least one suffix token")
    chosen = torch.tensor(list(rows), device=mask.device)
    copy, seen = fork(cache, chosen), mask[chosen]
    suffix = torch.tensor([ask.suffix] * len(rows), device=mask.device)
    seen = extend(seen, suffix.shape[1])
    logits = feed(model, suffix, seen, copy).float()
    entropies = entropy_nats(logits).tolist()
    written: list[list[int]] = [[] for _ in rows]
    logps: list[list[float]] = [[] for _ in rows]
    open_rows = set(range(len(rows))) if ask.max_tokens else set()
    while open_rows:
        best = logits.log_softmax(dim=-1).max(dim=-1)
        for row in sorted(open_rows):
            token = int(best.indices[row])
            written[row].append(token)
            logps[row].append(float(best.values[row]))
            if token in ask.stop or len(written[row]) == ask.max_tokens:
                open_rows.discard(row)
        if open_rows:
            seen = extend(seen, 1)
            logits = feed(model, best.indices[:, None], seen, copy).float()
    return [Trial(tuple(w), tuple(p), e) for w, p, e in zip(written, logps, entropies, strict=True)]
