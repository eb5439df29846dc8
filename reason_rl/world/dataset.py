"""Splits of the tiny world: a problem's text alone decides its split, so no two splits can share a problem."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from reason_rl.world.families import FAMILIES, LEVELS, WorldProblem, make_problem

SPLIT_BUCKETS = {"calibration": range(0, 10), "test": range(10, 20), "train": range(20, 100)}


def split_of(question: str) -> str:
    """Return the split of a question, from a hash of its text: 80 % train, 10 % calibration, 10 % test."""
    bucket = int.from_bytes(hashlib.sha256(question.encode()).digest()[:4], "big") % 100
    return next(split for split, buckets in SPLIT_BUCKETS.items() if bucket in buckets)


def in_split(question: str, split: str) -> bool:
    """Tell whether a question belongs to a split."""
    return split_of(question) == split


def draw_problems(split: str, count: int, seed: int, families: tuple[str, ...] = FAMILIES) -> Iterator[WorldProblem]:
    """Yield ``count`` distinct problems of a split, levels and families alike often."""
    rng = random.Random(f"{split}/{seed}")
    seen: set[str] = set()
    while len(seen) < count:
        cell = len(seen)
        problem = make_problem(rng, families[cell % len(families)], LEVELS[cell // len(families) % len(LEVELS)])
        if problem.question not in seen and in_split(problem.question, split):
            seen.add(problem.question)
            yield problem
