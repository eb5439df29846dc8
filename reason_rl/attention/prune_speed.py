"""How much faster a pruned model is: both models in turn in one process, as a ratio."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch


def speed_ratio(dense: Any, pruned: Any, tokens: int, repeats: int) -> dict[str, float]:
    """Return the median seconds of a prefill of both models, and dense over pruned.

    They take turns, after one pass of each that does not count, so that a busy machine slows both alike.

    Args:
        dense, pruned: in eval mode.
        tokens: prompt tokens of the one row.
        repeats: measured passes of each.
    """
    ids = torch.arange(tokens)[None] % dense.config.vocab_size
    seconds: dict[str, list[float]] = {"dense": [], "pruned": []}
    with torch.no_grad():
        for _ in range(repeats + 1):
            for name, model in (("dense", dense), ("pruned", pruned)):
                start = time.perf_counter()
                model(input_ids=ids, use_cache=False)
                seconds[name].append(time.perf_counter() - start)
    medians = {f"{name}_seconds": statistics.median(values[1:]) for name, values in seconds.items()}
    return {**medians, "speed_up": medians["dense_seconds"] / medians["pruned_seconds"]}
