"""Plan-and-Budget: a word budget by difficulty, shared out over sub-questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Schedule = Literal["constant", "linear", "polynomial", "cosine", "exponential"]
WORDS_BY_LEVEL = {1: 200, 2: 250, 3: 350, 4: 450, 5: 600}


def decay(schedule: Schedule, place: int, parts: int) -> float:
    """Return the weight of sub-question ``place`` (from 0) among ``parts``.

    constant 1; linear ``N - i``; polynomial ``(N - i)^2``; cosine ``(1 + cos(pi i / (N - 1))) / 2 + 0.1``, 1 for one part;
    exponential ``0.9^i``.

    >>> [round(decay("cosine", i, 3), 2) for i in range(3)]
    [1.1, 0.6, 0.1]

    Raises:
        ValueError: for an unknown schedule.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return float(parts - place)
    if schedule == "polynomial":
        return float((parts - place) ** 2)
    if schedule == "cosine":
        return 1.0 if parts == 1 else 0.5 * (1 + math.cos(math.pi * place / (parts - 1))) + 0.1
    if schedule == "exponential":
        return 0.9**place
    raise ValueError(f"unknown schedule {schedule!r}")


def share_out(total: int, credits: Sequence[float], schedule: Schedule) -> list[int]:
    """Return the words of each sub-question: in proportion to credit times decay, rounded down, the rest to the largest.

    Args:
        total: words of the whole problem.
        credits: difficulty of each sub-question, as the model judged it.
        schedule: how later sub-questions weigh.

    Raises:
        ValueError: for no sub-questions, or credits that are negative or all 0.

    >>> share_out(350, [0.2, 0.3, 0.3, 0.2], "polynomial")
    [154, 130, 57, 9]

    Source: Plan-and-Budget (arXiv 2505.16122), released code.
    """
    if not credits or min(credits) < 0 or sum(credits) <= 0:
        raise ValueError(f"credits {list(credits)} are no shares")
    weights = [credit * decay(schedule, i, len(credits)) for i, credit in enumerate(credits)]
    exact = [total * weight / sum(weights) for weight in weights]
    # 350 * 0.3 / 1.0 must not round down to 104.
    words = [math.floor(value + 1e-9) for value in exact]
    by_weight = sorted(range(len(words)), key=lambda i: (-weights[i], i))
    for i in by_weight[: total - sum(words)]:
        words[i] += 1
    return words


def uncertainty_budgets(total: float, costs: Sequence[float], beta: float) -> list[float]:
    """Return the budgets that minimise ``sum c_i / b_i^beta`` for a total: ``b_i ~ (c_i beta)^(1 / (beta + 1))``.

    >>> uncertainty_budgets(300, [1, 4], 1.0)
    [100.0, 200.0]

    Source: the paper's uncertainty model; the closed form for one beta is ours.
    """
    roots = [(cost * beta) ** (1 / (beta + 1)) for cost in costs]
    return [total * root / sum(roots) for root in roots]
