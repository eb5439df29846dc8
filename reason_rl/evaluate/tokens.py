"""Where the tokens go: right against wrong answers, easy against hard problems, and sets taken together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from reason_rl.evaluate.grid import Samples

QUARTERS = 4


def length_gap(correct: Samples, tokens: Samples) -> dict[str, float | None]:
    """Return how much longer wrong answers are than right ones, in tokens and as a ratio.

    ``difference`` and ``ratio`` compare within each problem that has both (``mean_i w_i - r_i`` and
    ``exp(mean_i log(w_i / r_i))`` with a problem's mean wrong and right lengths): pooled figures mix the length of wrong
    answers with the length of hard problems. ``pooled_ratio`` is for comparison with papers. None where one kind is missing.

    Args:
        correct: 1 right, 0 wrong, [problems, samples].
        tokens: think, answer or completion tokens, [problems, samples].

    >>> gap = length_gap(np.array([[1.0, 0], [1, 1], [0, 0]]), np.array([[100.0, 150], [50, 50], [400, 600]]))
    >>> {name: round(value, 3) for name, value in gap.items()}
    {'difference': 50.0, 'ratio': 1.5, 'pooled_ratio': 5.75, 'problems': 1}

    Source: our choice; the pooled ratio as in Thoughts Are All Over the Place (arXiv 2501.18585).
    """
    right = correct == 1
    both = right.any(axis=1) & (~right).any(axis=1)
    gap: dict[str, float | None] = {
        "difference": None,
        "ratio": None,
        "pooled_ratio": None,
        "problems": int(both.sum()),
    }
    if both.any():
        mean_right, mean_wrong = (
            (tokens[both] * kind[both]).sum(axis=1) / kind[both].sum(axis=1) for kind in (right, ~right)
        )
        gap["difference"] = float((mean_wrong - mean_right).mean())
        if (mean_right > 0).all() and (mean_wrong > 0).all():
            gap["ratio"] = float(np.exp(np.log(mean_wrong / mean_right).mean()))
    if right.any() and not right.all() and tokens[right].mean() > 0:
        gap["pooled_ratio"] = float(tokens[~right].mean() / tokens[right].mean())
    return gap


def by_difficulty(base_correct: Samples, correct: Samples, tokens: Samples) -> list[dict[str, float]]:
    """Return accuracy and mean tokens by quarter of difficulty, the easiest first.

    Difficulty is the start model's accuracy on the problem, so every model is judged on the same quarters; problems of
    equal accuracy stay in their given order. Fewer than four problems make fewer parts.

    Args:
        base_correct: of the start model, [problems, samples].
        correct: of the model described, [problems, samples].
        tokens: think, answer or completion tokens of the model described, [problems, samples].

    >>> parts = by_difficulty(np.array([[0.0], [1.0]]), np.array([[1.0], [1.0]]), np.array([[30.0], [10.0]]))
    >>> [part["tokens"] for part in parts]
    [10.0, 30.0]
    """
    order = np.argsort(-base_correct.mean(axis=1), kind="stable")
    return [
        {
            "problems": len(part),
            "base_accuracy": float(base_correct[part].mean()),
            "accuracy": float(correct[part].mean()),
            "tokens": float(tokens[part].mean()),
        }
        for part in np.array_split(order, QUARTERS)
        if len(part)
    ]


def cut_over_sets(
    base_tokens: Float[np.ndarray, " sets"] | Sequence[float], tokens: Float[np.ndarray, " sets"] | Sequence[float]
) -> dict[str, Any]:
    """Return the token cut over several benchmarks, both ways papers take it: they do not agree, so say which.

    ``mean_of_cuts = mean_d (1 - T_d / T0_d)`` and ``cut_of_means = 1 - sum_d T_d / sum_d T0_d``, with a set's mean
    completion tokens T.

    Raises:
        ValueError: when a set has no tokens before.

    >>> cut_over_sets([1000, 9000], [500, 9000])
    {'mean_of_cuts': 0.25, 'cut_of_means': 0.05}

    Source: mean of cuts in AdaptThink (arXiv 2505.13417), cut of means in DLER (arXiv 2510.15110).
    """
    before, after = np.asarray(base_tokens, dtype=float), np.asarray(tokens, dtype=float)
    if (before <= 0).any():
        raise ValueError("a set without tokens before has no cut")
    return {
        "mean_of_cuts": float((1 - after / before).mean()),
        "cut_of_means": round(float(1 - after.sum() / before.sum()), 12),
    }
