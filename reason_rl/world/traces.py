"""Worked traces: passes over a problem with slips, ``wait`` re-checks, verbose or terse steps, and repeated passes.

The traces are the pretraining data of the tiny reasoner. They overthink on purpose: easy problems are gone over
several times, steps are written out in full, and right steps are checked again. Every rate here is our choice.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations

from reason_rl.world.families import MODULUS, WALK_LIMIT, WorldProblem, apply

SLIP_RATE = {1: 0.02, 2: 0.03, 3: 0.04, 4: 0.04, 5: 0.04, 6: 0.04}
EXTRA_PASSES = {1: (2, 3), 2: (1, 2), 3: (0, 1), 4: (0, 1), 5: (0, 0), 6: (0, 0)}
RECHECK_AFTER_SLIP = 0.95
RECHECK_AFTER_RIGHT = 0.25
INTERRUPTED_SHARE = 0.12
TERSE_SHARE = 0.25
MAX_PASSES = 6


@dataclass(frozen=True)
class Style:
    """How one trace is written: terse or full steps, and how often a step slips or a right one is checked again."""

    terse: bool = False
    slip_rate: float = 0.0
    recheck_right: float = 0.0


SHORTEST = Style(terse=True)


def slipped(rng: random.Random, value: int) -> int:
    """Return a near miss of ``value`` modulo 100."""
    return (value + rng.choice((-10, -2, -1, 1, 2, 10))) % MODULUS


def chain_step(style: Style, value: int, operator: str, operand: int, result: int) -> list[str]:
    """Write one operation."""
    if style.terse:
        return [operator, str(operand), str(result)]
    return [str(value), operator, str(operand), "=", str(result), ";"]


def pair_step(style: Style, first: int, second: int, total: int, target: int) -> list[str]:
    """Write one tried pair and its verdict."""
    verdict = "yes" if total == target else "no"
    if style.terse:
        return [str(first), str(second), verdict]
    return [str(first), "+", str(second), "=", str(total), verdict]


def walk_step(style: Style, count: int, value: int, stride: int, result: int, target: int) -> list[str]:
    """Write one step of a walk; only the one that meets the target carries a verdict."""
    verdict = ["yes"] if result == target else []
    if style.terse:
        return [str(count), str(result), *verdict]
    return [str(count), ":", str(value), "+", str(stride), "=", str(result), *verdict]


def attempt(rng: random.Random, style: Style, exact: int, write: Callable[[int], list[str]], words: list[str]) -> int:
    """Write one computed step, maybe slipped, maybe re-checked with ``wait``; return the value that stands."""
    result = slipped(rng, exact) if rng.random() < style.slip_rate else exact
    words += write(result)
    recheck = RECHECK_AFTER_SLIP if result != exact else style.recheck_right
    if rng.random() < recheck:
        words += ["wait", *write(exact)]
        result = exact
    return result


def chain_pass(rng: random.Random, problem: WorldProblem, style: Style, words: list[str]) -> str:
    """Evaluate the chain once."""
    value = problem.numbers[0]
    for operator, operand in zip(problem.operators, problem.numbers[1:], strict=True):
        exact, before = apply(value, operator, operand), value
        write = partial(chain_step, style, before, operator, operand)
        value = attempt(rng, style, exact, write, words)
    return str(value)


def pair_pass(rng: random.Random, problem: WorldProblem, style: Style, words: list[str]) -> str | None:
    """Try the pairs in order until one fits; None when a slip made the search miss it."""
    target, *numbers = problem.numbers
    for first, second in combinations(numbers, 2):
        write = partial(pair_step, style, first, second, target=target)
        if attempt(rng, style, first + second, write, words) == target:
            return f"{first} {second}"
    return None


def walk_pass(rng: random.Random, problem: WorldProblem, style: Style, words: list[str]) -> str | None:
    """Step until the target is met; None when a slip led past it and the limit was reached."""
    value, stride, target = problem.numbers
    for count in range(1, WALK_LIMIT + 1):
        exact, before = (value + stride) % MODULUS, value
        write = partial(walk_step, style, count, before, stride, target=target)
        value = attempt(rng, style, exact, write, words)
        if value == target:
            return str(count)
    return None


PASSES = {"chain": chain_pass, "pair": pair_pass, "walk": walk_pass}


def think_words(rng: random.Random, problem: WorldProblem) -> tuple[list[str], str | None]:
    """Write the thinking of one trace and return it with the answer it arrives at.

    Passes are repeated for the level's overthinking, and further until two passes agree.
    """
    style = Style(rng.random() < TERSE_SHARE, SLIP_RATE[problem.level], RECHECK_AFTER_RIGHT)
    wanted = 1 + rng.randint(*EXTRA_PASSES[problem.level])
    words: list[str] = []
    answers: list[str | None] = []
    while len(answers) < MAX_PASSES:
        if answers:
            words += ["wait", "again"]
        answers.append(PASSES[problem.family](rng, problem, style, words))
        settled = answers[-1] is not None and (len(set(answers)) == 1 or answers.count(answers[-1]) >= 2)
        if len(answers) >= wanted and settled:
            break
    return words, answers[-1]


@dataclass(frozen=True)
class Completion:
    """A whole completion; ``interrupted`` when its thinking was cut and the right answer follows all the same."""

    words: tuple[str, ...]
    interrupted: bool


def draw_completion(rng: random.Random, problem: WorldProblem, max_tokens: int) -> Completion:
    """Draw thinking and boxed answer; drawn again while longer than ``max_tokens``.

    Some thinking is cut at a random word, so that the reasoner can answer as well as possible when it is made to.
    """
    while True:
        words, answer = think_words(rng, problem)
        interrupted = rng.random() < INTERRUPTED_SHARE
        if interrupted:
            words, answer = words[: rng.randint(0, len(words))], problem.answer
        completion = (*words, "</think>", "\\boxed{", *str(answer).split(), "}")
        if answer is not None and len(completion) < max_tokens:
            return Completion(completion, interrupted)


def shortest_think_words(problem: WorldProblem) -> list[str]:
    """Return the shortest correct trace we know: one terse pass without slips or re-checks."""
    words: list[str] = []
    PASSES[problem.family](random.Random(0), problem, SHORTEST, words)
    return words
