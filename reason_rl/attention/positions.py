"""Places of the tokens of a decoder's call, whatever its padding and its KV cache."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from reason_rl.attention.decoder import absolute_positions


def places(inputs: dict[str, Any]) -> tuple[Int[Tensor, "rows queries"], Int[Tensor, "rows tokens"]]:
    """Return the 0-based places of the tokens of a decoder's call, and of all keys with those in the cache.

    >>> ids, mask = torch.zeros(1, 3).long(), torch.tensor([[0, 1, 1]])
    >>> [p.tolist() for p in places({"input_ids": ids, "attention_mask": mask})]
    [[[0, 0, 1]], [[0, 0, 1]]]
    """
    given = inputs.get("input_ids")
    tokens = given if given is not None else inputs["inputs_embeds"]
    width, mask, cache = tokens.shape[1], inputs.get("attention_mask"), inputs.get("past_key_values")
    seen = cache.get_seq_length() if cache is not None else 0
    if mask is None:
        keys = torch.arange(seen + width, device=tokens.device)[None]
        return keys[:, seen:], keys
    queries = absolute_positions({**inputs, "position_ids": None}) - 1
    return queries, (mask.long().cumsum(dim=1) - 1).clamp(min=0)
