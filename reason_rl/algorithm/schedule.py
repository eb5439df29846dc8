"""Schedules of the cap: completion tokens a rollout may use, as a function of the rollout batches trained on so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from reason_rl.errors import RecipeError

Shape = Literal["cosine", "stair", "stair_cosine"]


def cycle(generation: int, shape: Shape, low_tokens: int, high_tokens: int, period: int) -> float:
    """Return the cap of a rollout batch, before rounding, in completion tokens.

    With ``phi = 2 pi (t mod T) / T``, middle ``M`` and half width ``H`` of the two caps:

    - ``cosine``: ``M + H cos phi``; highest at the ends of a cycle, lowest in its middle;
    - ``stair``: low in the first half, high in the second, so that cycles end high as with the cosine (our choice);
    - ``stair_cosine``: high, falling, low, rising, a quarter of the cycle each, shifted by an eighth.

    Args:
        generation: rollout batches trained on so far (t).
        low_tokens, high_tokens: the caps, completion tokens.
        period: rollout batches of a cycle (T).

    Raises:
        RecipeError: unless ``1 <= low_tokens <= high_tokens`` and ``period >= 1``.

    >>> [round(cycle(t, "cosine", 8192, 16384, 640)) for t in (0, 80, 320, 480)]
    [16384, 15184, 8192, 12288]
    >>> [cycle(t, "stair", 8192, 16384, 640) for t in (0, 320)]
    [8192, 16384]

    Source: SIRI (arXiv 2509.25176) section 3.2.
    """
    if not 1 <= low_tokens <= high_tokens:
        raise RecipeError(f"algorithm.budget: low_tokens {low_tokens} is not between 1 and high_tokens {high_tokens}")
    if period < 1:
        raise RecipeError(f"algorithm.budget: a cycle of {period} rollout batches")
    share = generation % period / period
    middle, half = (high_tokens + low_tokens) / 2, (high_tokens - low_tokens) / 2
    if shape == "cosine":
        return middle + half * math.cos(2 * math.pi * share)
    if shape == "stair":
        return low_tokens if share < 1 / 2 else high_tokens
    if shape == "stair_cosine":
        # The two flat quarters are clamped ends of cosines of twice the speed.
        eighths = min(max(8 * min(share, 1 - share), 1.0), 3.0)
        return middle + half * math.cos(math.pi / 2 * (eighths - 1))
    raise RecipeError(f"algorithm.budget.shape: unknown shape {shape!r}")


def cycle_end(done: int, period: int) -> str | None:
    """Return the name of the model after ``done`` rollout batches when it is one to keep: lowest cap, or end of a cycle.

    >>> [cycle_end(done, 640) for done in (0, 320, 640, 960, 1000)]
    [None, 'low-1', 'high-1', 'low-2', None]

    Source: SIRI (arXiv 2509.25176) section 4: the compressed and the expanded model of each cycle. Lengths lag behind
    the cap, so the shortest model may come some batches later; ``trainer.save_steps`` keeps more.
    """
    full, rest = divmod(done, period)
    if rest == period // 2 and period > 1:
        return f"low-{full + 1}"
    return f"high-{full}" if rest == 0 and full else None


def stairs(generation: int, tokens: Sequence[int], every: int) -> int:
    """Return the cap of a rollout batch that goes down by one step each ``every`` batches and stays at the last.

    Args:
        generation: rollout batches trained on so far.
        tokens: the caps, completion tokens, falling.
        every: rollout batches of a step.

    Raises:
        RecipeError: when the caps do not fall, or ``every`` is not positive.

    >>> [stairs(t, [4000, 3000, 2000], 100) for t in (0, 99, 100, 250, 900)]
    [4000, 4000, 3000, 2000, 2000]

    Source: ThinkPrune (arXiv 2504.01296): three runs, each from the model of the last; here one run in three stages.
    """
    if list(tokens) != sorted(set(tokens), reverse=True) or not tokens or tokens[-1] < 1:
        raise RecipeError(f"algorithm.budget.tokens: {list(tokens)} do not fall to something above 0")
    if every < 1:
        raise RecipeError(f"algorithm.budget.every: {every} is not positive")
    return tokens[min(generation // every, len(tokens) - 1)]
