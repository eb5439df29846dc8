"""Preferences between long and short solutions of a problem: which style it deserves, and brevity within that style."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal


@dataclass(frozen=True)
class Solution:
    """One sampled solution; ``tokens`` are completion tokens."""

    text: str
    tokens: int
    correct: bool


@dataclass(frozen=True)
class Pair:
    """A solution that is preferred to another: between the styles (group) or within one (instance)."""

    problem_id: str
    kind: Literal["group", "instance"]
    chosen: Solution
    rejected: Solution


@dataclass(frozen=True)
class PairRule:
    """How pairs are made.

    Args:
        margin: long is preferred where its share right is higher by more than this; None = 1 / (2 K).
        group_pairs: pairs a problem between the styles, at most.
        instance_pairs: pairs a problem within the preferred style, at most.
        least_difference: share of the longer length by which the two of an instance pair must differ.
    """

    margin: float | None = None
    group_pairs: int = 4
    instance_pairs: int = 2
    least_difference: float = 0.1

    def margin_of(self, samples: int) -> float:
        """Return the margin for K samples a style."""
        return 1 / (2 * samples) if self.margin is None else self.margin


def share_right(solutions: Sequence[Solution]) -> float:
    """Return the share of right solutions."""
    return sum(solution.correct for solution in solutions) / len(solutions)


def prefers_long(long: Sequence[Solution], short: Sequence[Solution], margin: float) -> bool:
    """Return whether the long style is preferred: ``share right(long) - share right(short) > margin``.

    Equal shares prefer short, which is the point of it.

    Source: AdaR1 (arXiv 2504.21659) eq. 3; margin 1 / (2 K) in the released code.
    """
    return share_right(long) - share_right(short) > margin


def gain(long: Sequence[Solution], short: Sequence[Solution], margin: float) -> float:
    """Return what thinking long is worth on a problem; a figure to look at, no weight.

    ``g = a / l`` where ``a > 0``, else ``a l / 10``, with ``a = share right(long) - share right(short) - margin`` and ``l``
    how much longer the long solutions are, as a share of the short ones' mean tokens.

    Source: released code of AdaR1 (arXiv 2504.21659), which computes it and passes weight 1.
    """
    worth = share_right(long) - share_right(short) - margin
    means = [sum(solution.tokens for solution in some) / len(some) for some in (long, short)]
    longer = means[0] / means[1] - 1
    if worth <= 0:
        return worth * longer / 10
    return worth / longer if longer > 0 else float("inf")


def group_pairs(
    problem_id: str, preferred: Sequence[Solution], other: Sequence[Solution], count: int, rng: random.Random
) -> list[Pair]:
    """Return ``count`` pairs, drawn from all (preferred, other): chosen among the right ones, rejected among the wrong.

    Where the other style is never wrong, all of its solutions may be rejected; pairs of one text are left out.

    Source: AdaR1 (arXiv 2504.21659) eq. 4; the narrowing is the released code's.
    """
    chosen = [solution for solution in preferred if solution.correct]
    rejected = [solution for solution in other if not solution.correct] or list(other)
    pairs = [(c, r) for c, r in product(chosen, rejected) if c.text != r.text]
    rng.shuffle(pairs)
    return [Pair(problem_id, "group", c, r) for c, r in pairs[:count]]


def instance_pairs(problem_id: str, preferred: Sequence[Solution], count: int, least_difference: float) -> list[Pair]:
    """Return pairs of the shortest right solution with each of the ``count`` longest right ones.

    Pairs whose lengths differ by less than ``least_difference`` of the longer one are left out (our choice).

    >>> texts = [Solution("aa", 20, True), Solution("b", 10, True), Solution("ccc", 30, False), Solution("d", 11, True)]
    >>> [(pair.chosen.tokens, pair.rejected.tokens) for pair in instance_pairs("p", texts, 2, 0.1)]
    [(10, 20)]

    Source: AdaR1 (arXiv 2504.21659) section 4; right ones only, as in the released code.
    """
    ranked = sorted((solution for solution in preferred if solution.correct), key=lambda solution: solution.tokens)
    longest = list(reversed(ranked[1:]))[:count]
    return [
        Pair(problem_id, "instance", ranked[0], solution)
        for solution in longest
        if solution.tokens - ranked[0].tokens > least_difference * solution.tokens
    ]


def pairs_of(
    problem_id: str, long: Sequence[Solution], short: Sequence[Solution], rule: PairRule, seed: int
) -> list[Pair]:
    """Return the pairs of one problem; none where the preferred style has no right solution.

    What is drawn depends on the seed and the problem alone.

    Args:
        problem_id: the problem.
        long, short: the same number K of solutions by each model.
        rule: how pairs are made.
        seed: of the draw.

    Source: AdaR1 (arXiv 2504.21659) section 4.
    """
    styles = [long, short]
    if not prefers_long(long, short, rule.margin_of(len(long))):
        styles.reverse()
    preferred, other = styles
    if not any(solution.correct for solution in preferred):
        return []
    rng = random.Random(f"{seed}/{problem_id}")
    between = group_pairs(problem_id, preferred, other, rule.group_pairs, rng)
    return between + instance_pairs(problem_id, preferred, rule.instance_pairs, rule.least_difference)
