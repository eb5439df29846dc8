"""Splits of the tiny world: a problem's text alone decides its split, so no two splits can share a problem."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from reason_rl.errors import RecipeError
from reason_rl.world.families import FAMILIES, LEVELS, WorldProblem, make_problem

MISSES_BEFORE_EXHAUSTED = 20_000
SPLIT_BUCKETS = {"calibration": range(0, 10), "test": range(10, 20), "train": range(20, 100)}


def split_of(question: str) -> str:
    """Return the split of a question, from a hash of its text: 80 % train, 10 % calibration, 10 % test."""
    bucket = int.from_bytes(hashlib.sha256(question.encode()).digest()[:4], "big") % 100
    return next(split for split, buckets in SPLIT_BUCKETS.items() if bucket in buckets)


def in_split(question: str, split: str) -> bool:
    """Tell whether a question belongs to a split."""
    return split_of(question) == split


def draw_problems(split: str, count: int, seed: int, families: tuple[str, ...] = FAMILIES) -> Iterator[WorldProblem]:
    """Yield ``count`` distinct problems of a split, levels and families alike often.

    Raises:
        RecipeError: when a family and level has too few distinct problems.
    """
    rng = random.Random(f"{split}/{seed}")
    seen: set[str] = set()
    misses = 0
    while len(seen) < count:
        cell = len(seen)
        problem = make_problem(rng, families[cell % len(families)], LEVELS[cell // len(families) % len(LEVELS)])
        if problem.question not in seen and in_split(problem.question, split):
            seen.add(problem.question)
            misses = 0
            yield problem
        misses += 1
        if misses > MISSES_BEFORE_EXHAUSTED:
            raise RecipeError(
                f"data.count: the {split} split of {problem.family} has no {count} distinct problems of level "
                f"{problem.level}; lower the count"
            )
