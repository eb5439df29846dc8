"""The three problem families of the tiny world and the steps that solve them.

A family turns a level into a question, an answer and a walk over *attempts*. Levels are our choice; they make the
shortest correct trace grow by more than eight times from the easiest to the hardest level.

- ``chain 57 + 5 * 3``      evaluate left to right modulo 100 (sequential)
- ``pair 7 12 30 to 42``    find the two numbers that add up to the last one (search over pairs)
- ``walk 12 + 7 to 33``     count the steps of +7 (modulo 100) from 12 to 33 (sequential, unknown length)
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import combinations

MODULUS = 100
LEVELS = (1, 2, 3, 4, 5, 6)
FAMILIES = ("chain", "pair", "walk")

CHAIN_OPERATIONS = {1: (1, 1), 2: (2, 3), 3: (4, 5), 4: (6, 8), 5: (9, 12), 6: (26, 32)}
PAIR_NUMBERS = {1: (3, 3), 2: (4, 4), 3: (5, 5), 4: (6, 6), 5: (8, 8), 6: (13, 13)}
WALK_STEPS = {1: (1, 2), 2: (3, 4), 3: (5, 6), 4: (7, 9), 5: (10, 13), 6: (24, 32)}
WALK_STRIDES = (3, 7, 9, 11, 13, 17, 19, 21, 23, 27, 29)
WALK_LIMIT = 36


@dataclass(frozen=True)
class WorldProblem:
    """One question with its only answer; ``numbers`` holds the family's parameters, ``operators`` those of a chain."""

    family: str
    level: int
    question: str
    answer: str
    numbers: tuple[int, ...]
    operators: tuple[str, ...] = ()


def apply(value: int, operator: str, operand: int) -> int:
    """Return ``value operator operand`` modulo 100.

    >>> apply(57, "*", 3)
    71
    """
    result = {"+": value + operand, "-": value - operand, "*": value * operand}[operator]
    return result % MODULUS


def make_chain(rng: random.Random, level: int) -> WorldProblem:
    """Draw a start value and one-digit operations."""
    count = rng.randint(*CHAIN_OPERATIONS[level])
    start = value = rng.randrange(MODULUS)
    operators = tuple(rng.choice("+-*") for _ in range(count))
    operands = tuple(rng.randint(2, 9) for _ in range(count))
    words = [str(start)]
    for operator, operand in zip(operators, operands, strict=True):
        value = apply(value, operator, operand)
        words += [operator, str(operand)]
    question = "chain " + " ".join(words)
    return WorldProblem("chain", level, question, str(value), (start, *operands), operators)


def make_pair(rng: random.Random, level: int) -> WorldProblem:
    """Draw distinct numbers and a target that exactly one pair adds up to."""
    while True:
        numbers = tuple(rng.sample(range(1, 50), rng.randint(*PAIR_NUMBERS[level])))
        first, second = rng.choice(list(combinations(numbers, 2)))
        target = first + second
        if sum(a + b == target for a, b in combinations(numbers, 2)) == 1:
            question = f"pair {' '.join(map(str, numbers))} to {target}"
            return WorldProblem("pair", level, question, f"{first} {second}", (target, *numbers))


def make_walk(rng: random.Random, level: int) -> WorldProblem:
    """Draw a start, a stride coprime to 100 and a number of steps."""
    start, stride = rng.randrange(MODULUS), rng.choice(WALK_STRIDES)
    count = rng.randint(*WALK_STEPS[level])
    target = (start + count * stride) % MODULUS
    return WorldProblem("walk", level, f"walk {start} + {stride} to {target}", str(count), (start, stride, target))


MAKERS = {"chain": make_chain, "pair": make_pair, "walk": make_walk}


def make_problem(rng: random.Random, family: str, level: int) -> WorldProblem:
    """Draw one problem of a family and level."""
    return MAKERS[family](rng, level)
