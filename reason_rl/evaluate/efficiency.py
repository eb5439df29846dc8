"""Accuracy and cost in one number: AES, E3, accuracy per token, cost-of-pass and its frontier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from reason_rl.evaluate.estimate import Estimate, estimate, no_estimate, resampled_means
from reason_rl.evaluate.grid import Samples

Costs = Float[np.ndarray, "problems models"]


def aes(
    base_accuracy: float,
    base_tokens: float,
    accuracy: float,
    tokens: float,
    *,
    alpha: float = 1.0,
    beta: float = 3.0,
    gamma: float = 5.0,
) -> float | None:
    """Return the accuracy-efficiency score; higher is better, a model against itself has 0.

    ``AES = alpha (T0 - T) / T0 + beta |dA|`` when ``dA = (A - A0) / A0 >= 0``, else ``... - gamma |dA|``: relative changes,
    not points. None when the start model is never right.

    Args:
        base_accuracy, accuracy: in any unit, the same for both.
        base_tokens, tokens: mean completion tokens.
        alpha, beta, gamma: weights of tokens, of gained and of lost accuracy; print them, for papers differ.

    Raises:
        ValueError: when there are no tokens before.

    >>> round(aes(80, 4000, 82, 2400), 3), round(aes(80, 4000, 78, 2400), 3)
    (0.475, 0.275)
    >>> round(aes(51.71, 10_499, 56.74, 2_466), 3)
    1.057

    Source: O1-Pruner (arXiv 2501.12570) section 5.1.
    """
    if base_tokens <= 0:
        raise ValueError("a start model without tokens has no AES")
    if base_accuracy == 0:
        return None
    gain = (accuracy - base_accuracy) / base_accuracy
    return alpha * (base_tokens - tokens) / base_tokens + (beta if gain >= 0 else gamma) * gain


def aes_estimate(
    base_correct: Samples,
    base_tokens: Samples,
    correct: Samples,
    tokens: Samples,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Return the AES with default weights and its interval, problems resampled on both sides together.

    >>> same = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[10.0, 20.0], [30.0, 40.0]])
    >>> aes_estimate(*same, *same)
    {'mean': 0.0, 'low': 0.0, 'high': 0.0}
    """
    columns = [side.mean(axis=1) for side in (base_correct, base_tokens, correct, tokens)]
    table = np.stack(columns, axis=1)
    value = aes(*(float(mean) for mean in table.mean(axis=0)))
    if value is None:
        return no_estimate()
    draws = [aes(*row) for row in resampled_means(table, resamples, seed).tolist()]
    return estimate(value, np.array([np.nan if draw is None else draw for draw in draws]), len(table))


def e3(accuracy_percent: float, tokens: float) -> float:
    """Return ``E3 = A^2 / T``: accuracy in percent, mean completion tokens; higher is better.

    It prefers 60 % with 1,000 tokens to 78 % with 2,000, so it is never a headline on its own.

    >>> [round(e3(*point), 3) for point in ((80, 4000), (78, 2000), (60, 1000))]
    [1.6, 3.042, 3.6]

    Source: Plan and Budget (arXiv 2505.16122).
    """
    return accuracy_percent**2 / tokens


def accuracy_per_kilotoken(accuracy: float, tokens: float) -> float:
    """Return accuracy in [0, 1] for each 1,000 completion tokens ("intelligence per token").

    >>> accuracy_per_kilotoken(0.8, 4000)
    0.2

    Source: DLER (arXiv 2510.15110) gives the name and no formula; the formula is our choice.
    """
    return accuracy / (tokens / 1000)


def gain_per_doubling(tokens: Sequence[float], accuracy: Sequence[float]) -> list[float]:
    """Return ``dA / dlog2 T`` between neighbours of a curve: accuracy gained by each doubling of the tokens.

    >>> [round(gain, 3) for gain in gain_per_doubling([1000, 2000, 8000], [0.3, 0.45, 0.55])]
    [0.15, 0.05]

    Source: our choice.
    """
    gains = np.diff(np.asarray(accuracy, dtype=float)) / np.diff(np.log2(np.asarray(tokens, dtype=float)))
    return [float(gain) for gain in gains]


def cost_of_pass(correct: Samples, costs: Samples) -> Float[np.ndarray, " problems"]:
    """Return the expected cost of one right answer, a problem: ``mean cost / mean success``; inf when never right.

    Args:
        correct: 1 right, 0 wrong, [problems, samples]; eight or more samples, for a ratio of means is biased for few.
        costs: of each sample, [problems, samples]: dollars, or completion tokens.

    >>> cost_of_pass(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[0.02, 0.04], [0.01, 0.01]])).tolist()
    [0.06, inf]

    Source: Cost-of-Pass (arXiv 2504.13359).
    """
    with np.errstate(divide="ignore"):
        return np.asarray(costs.mean(axis=1) / correct.mean(axis=1))


def completion_dollars(tokens: Samples, dollars_per_million_tokens: float) -> Samples:
    """Return the price of each completion in US dollars; prompt tokens are not in it.

    >>> completion_dollars(np.array([[500_000.0]]), 0.6).tolist()
    [[0.3]]
    """
    return np.asarray(tokens * dollars_per_million_tokens / 1e6)


def frontier_cost_of_pass(costs: Costs, expert_cost: float | None = None) -> float:
    """Return the mean over problems of the cheapest cost-of-pass among models, and the expert's price unless None.

    Args:
        costs: cost-of-pass of each problem by each model, [problems, models].
        expert_cost: what a person who solves any of the problems costs, in the same unit; None leaves the expert out.

    Raises:
        ValueError: when no model (nor expert) solves some problem.

    >>> costs = np.array([[0.025, 0.2], [0.05, np.inf], [0.5, 0.04]])
    >>> round(frontier_cost_of_pass(costs, expert_cost=0.30), 4)
    0.0383

    Source: Cost-of-Pass (arXiv 2504.13359).
    """
    cheapest = costs.min(axis=1)
    if expert_cost is not None:
        cheapest = np.minimum(cheapest, expert_cost)
    if np.isinf(cheapest).any():
        raise ValueError(
            f"{int(np.isinf(cheapest).sum())} problems are solved by no model; the frontier is finite only with expert_cost"
        )
    return float(cheapest.mean())


def essentialness(costs: Costs, models: Sequence[int], expert_cost: float) -> float:
    """Return how much dearer the frontier is without some models: ``(without - with) / without``, in [0, 1].

    Args:
        costs: [problems, models].
        models: columns that are left out.
        expert_cost: as for `frontier_cost_of_pass`.

    >>> costs = np.array([[0.025, 0.2], [0.05, np.inf], [0.5, 0.04]])
    >>> round(essentialness(costs, [0], 0.30), 3)
    0.787

    Source: Cost-of-Pass (arXiv 2504.13359).
    """
    kept = [model for model in range(costs.shape[1]) if model not in set(models)]
    rest = costs[:, kept] if kept else np.full((len(costs), 1), np.inf)
    without = frontier_cost_of_pass(rest, expert_cost)
    return (without - frontier_cost_of_pass(costs, expert_cost)) / without
