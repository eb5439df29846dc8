"""Accuracy of several samples a problem: avg@k, pass@k, pass at a token budget, maj@k and what its votes cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from reason_rl.evaluate.estimate import Estimate, PerProblem, share_estimate
from reason_rl.evaluate.grid import Samples

MAJORITY_DRAWS = 200  # our choice: subsets averaged for maj@k when k is smaller than the number of samples
BUDGET_ORDERS = 200  # our choice: random orders averaged for pass at a token budget

Votes = Sequence[Sequence[str | None]]


def average_at_k(correct: Samples) -> Estimate:
    """Return avg@k, the mean over problems of the mean over samples, with its interval over problems (`share_estimate`).

    ``avg@k = mean_i mean_s ok[i, s]``, a share in [0, 1]. Samples of a problem are one cluster, however many they are.

    >>> average_at_k(np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]))["mean"]
    0.625
    """
    return share_estimate(correct.mean(axis=1))


def pass_at_k(correct: Samples, k: int) -> PerProblem:
    """Return the chance that at least one of ``k`` samples is right, a problem: ``1 - C(n - c, k) / C(n, k)``, [problems].

    Unbiased for every k up to the number of samples n; the plug-in ``1 - (1 - c/n)^k`` is biased low.

    Args:
        correct: 1 right, 0 wrong, [problems, samples].
        k: samples drawn, without order and without putting back.

    Raises:
        ValueError: unless ``1 <= k <= n``.

    >>> [round(float(pass_at_k(np.array([[1.0] * 4 + [0.0] * 12]), k)[0]), 4) for k in (1, 4, 8)]
    [0.25, 0.728, 0.9615]

    Source: Evaluating Large Language Models Trained on Code (arXiv 2107.03374) section 2.1.
    """
    samples = correct.shape[1]
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} cannot be had from {samples} samples")
    wrong = samples - correct.sum(axis=1)
    # C(n - c, k) / C(n, k) as a product, so that no factorial overflows.
    drawn = np.arange(k)
    return np.asarray(1 - np.prod(np.clip(wrong[:, None] - drawn, 0, None) / (samples - drawn), axis=1))


def pass_at_tokens(correct: Samples, tokens: Samples, budget_tokens: float, seed: int = 0) -> PerProblem:
    """Return the chance of a right answer among the samples that a budget of completion tokens pays for, [problems].

    The samples are taken in random order until the next one would exceed the budget; the mean is over ``BUDGET_ORDERS``
    orders. A short model gets more tries out of the same budget. With fewer samples than the budget would pay for, the
    figure is a lower bound.

    Args:
        correct: 1 right, 0 wrong, [problems, samples].
        tokens: completion tokens, [problems, samples].
        budget_tokens: completion tokens a problem.
        seed: of the orders.

    >>> pass_at_tokens(np.array([[0.0, 1.0]]), np.array([[10.0, 10.0]]), 20).tolist()
    [1.0]

    Source: our choice (an equal-cost reading of pass@k).
    """
    orders = np.random.default_rng(seed).permuted(np.tile(np.arange(correct.shape[1]), (BUDGET_ORDERS, 1)), axis=1)
    paid = np.cumsum(tokens[:, orders], axis=2) <= budget_tokens
    return np.asarray((correct[:, orders].astype(bool) & paid).any(axis=2).mean(axis=1))


class Majority(NamedTuple):
    """maj@k a problem, [problems], and the completion tokens that its k votes cost, [problems]."""

    accuracy: Float[np.ndarray, " problems"]
    tokens: Float[np.ndarray, " problems"]


def majority_at_k(answers: Votes, correct: Samples, tokens: Samples, k: int, seed: int = 0) -> Majority:
    """Return the accuracy of the most frequent of ``k`` answers, and its cost of ``k`` times the mean tokens.

    Mean over ``MAJORITY_DRAWS`` random subsets of k samples (one when k takes them all); ties are broken by a seeded coin.
    A missing answer has no vote, and a subset without votes is wrong. Answers that are right count as one class, however
    they are written; wrong ones are classes by their text, white space aside.

    Args:
        answers: extracted answers, [problems][samples].
        correct: 1 right, 0 wrong, [problems, samples].
        tokens: completion tokens, [problems, samples].
        k: votes.
        seed: of subsets and coins.

    Raises:
        ValueError: unless ``1 <= k <= n``.

    >>> votes = majority_at_k([["4", "4.0", "5", "5"]], np.array([[1.0, 1, 0, 1]]), np.array([[10.0, 20, 30, 40]]), 4)
    >>> votes.accuracy.tolist(), votes.tokens.tolist()
    ([1.0], [100.0])

    Source: Self-Consistency (arXiv 2203.11171), unweighted; ties by coin are our choice.
    """
    samples = correct.shape[1]
    if not 1 <= k <= samples:
        raise ValueError(f"maj@{k} cannot be had from {samples} samples")
    generator = np.random.default_rng(seed)
    draws = 1 if k == samples else MAJORITY_DRAWS
    shares = np.zeros(len(correct))
    for i, (row, right) in enumerate(zip(answers, correct, strict=True)):
        classes = _classes(row, right)
        subsets = generator.permuted(np.tile(np.arange(samples), (draws, 1)), axis=1)[:, :k]
        votes = (classes[subsets][:, :, None] == np.arange(classes.max() + 1)).sum(axis=1)
        # A tie of m classes is won with probability 1 / m: the mean over the coin, not one throw of it.
        best = votes.max(axis=1, keepdims=True, initial=0)
        winners = (votes == best) & (best > 0)
        if winners.shape[1]:
            shares[i] = (winners[:, 0] / np.maximum(winners.sum(axis=1), 1)).mean()
    return Majority(shares, k * tokens.mean(axis=1))


def _classes(row: Sequence[str | None], right: Float[np.ndarray, " samples"]) -> np.ndarray:
    """Number the answers: 0 right, 1 and up wrong ones by text, -1 no answer."""
    known: dict[str, int] = {}
    classes = []
    for answer, ok in zip(row, right, strict=True):
        if ok:
            classes.append(0)
        elif answer is None:
            classes.append(-1)
        else:
            classes.append(known.setdefault(" ".join(answer.split()), len(known) + 1))
    return np.array(classes)
