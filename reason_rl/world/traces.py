"""Worked traces: passes over a problem with slips, ``wait`` re-checks, verbose or terse steps, and repeated passes.

The traces are the pretraining data of the tiny reasoner. They overthink on purpose: easy problems are gone over
several times, steps are written out in full, and right steps are checked again. Every rate here is our choice.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, zip_longest

from reason_rl.world.families import MODULUS, WALK_LIMIT, WorldProblem, apply

SLIP_RATE = {1: 0.02, 2: 0.03, 3: 0.04, 4: 0.04, 5: 0.04, 6: 0.04}
EXTRA_PASSES = {1: (2, 3), 2: (1, 2), 3: (0, 1), 4: (0, 1), 5: (0, 0), 6: (0, 0)}
RECHECK_AFTER_SLIP = 0.95
INTERRUPTED_SHARE = 0.12
TERSE_SHARE = 0.25
MAX_PASSES = 6


@dataclass(frozen=True)
class Rates:
    """How often a right step is checked again, how often a step slips beyond the slips that are learned, and up to which
    level every problem is gone over once more than ``EXTRA_PASSES`` says."""

    recheck_right: float = 0.25
    planted_slip: float = 0.0
    another_pass_level: int = 0


RATES = Rates()


@dataclass(frozen=True)
class Style:
    """How one trace is written: terse or full steps, and how often a step slips or a right one is checked again.

    Planted slips come on top of the others; they are there to be noticed and repaired, not to be imitated.
    """

    terse: bool = False
    slip_rate: float = 0.0
    planted_slip_rate: float = 0.0
    recheck_right: float = 0.0


SHORTEST = Style(terse=True)


@dataclass
class Draft:
    """The words written so far, and the positions of those that a planted slip got wrong."""

    words: list[str] = field(default_factory=list)
    planted: list[int] = field(default_factory=list)


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


def attempt(rng: random.Random, style: Style, exact: int, write: Callable[[int], list[str]], draft: Draft) -> int:
    """Write one computed step, maybe slipped, maybe re-checked with ``wait``; return the value that stands."""
    slips = rng.random() < style.slip_rate
    planted = not slips and style.planted_slip_rate > 0 and rng.random() < style.planted_slip_rate
    result = slipped(rng, exact) if slips or planted else exact
    written = write(result)
    if planted:
        pairs = enumerate(zip_longest(written, write(exact)), len(draft.words))
        draft.planted += [i for i, (word, right) in pairs if word is not None and word != right]
    draft.words += written
    recheck = RECHECK_AFTER_SLIP if result != exact else style.recheck_right
    if rng.random() < recheck:
        draft.words += ["wait", *write(exact)]
        result = exact
    return result


def chain_pass(rng: random.Random, problem: WorldProblem, style: Style, draft: Draft) -> str:
    """Evaluate the chain once."""
    value = problem.numbers[0]
    for operator, operand in zip(problem.operators, problem.numbers[1:], strict=True):
        exact, before = apply(value, operator, operand), value
        write = partial(chain_step, style, before, operator, operand)
        value = attempt(rng, style, exact, write, draft)
    return str(value)


def pair_pass(rng: random.Random, problem: WorldProblem, style: Style, draft: Draft) -> str | None:
    """Try the pairs in order until one fits; None when a slip made the search miss it."""
    target, *numbers = problem.numbers
    for first, second in combinations(numbers, 2):
        write = partial(pair_step, style, first, second, target=target)
        if attempt(rng, style, first + second, write, draft) == target:
            return f"{first} {second}"
    return None


def walk_pass(rng: random.Random, problem: WorldProblem, style: Style, draft: Draft) -> str | None:
    """Step until the target is met; None when a slip led past it and the limit was reached."""
    value, stride, target = problem.numbers
    for count in range(1, WALK_LIMIT + 1):
        exact, before = (value + stride) % MODULUS, value
        write = partial(walk_step, style, count, before, stride, target=target)
        value = attempt(rng, style, exact, write, draft)
        if value == target:
            return str(count)
    return None


PASSES = {"chain": chain_pass, "pair": pair_pass, "walk": walk_pass}


def think(rng: random.Random, problem: WorldProblem, rates: Rates = RATES) -> tuple[Draft, str | None]:
    """Write the thinking of one trace and return it with the answer it arrives at.

    Passes are repeated for the level's overthinking, and further until two passes agree.
    """
    terse = rng.random() < TERSE_SHARE
    style = Style(terse, SLIP_RATE[problem.level], rates.planted_slip, rates.recheck_right)
    wanted = 1 + rng.randint(*EXTRA_PASSES[problem.level]) + (problem.level <= rates.another_pass_level)
    draft = Draft()
    answers: list[str | None] = []
    while len(answers) < MAX_PASSES:
        if answers:
            draft.words += ["wait", "again"]
        answers.append(PASSES[problem.family](rng, problem, style, draft))
        settled = answers[-1] is not None and (len(set(answers)) == 1 or answers.count(answers[-1]) >= 2)
        if len(answers) >= wanted and settled:
            break
    return draft, answers[-1]


@dataclass(frozen=True)
class Completion:
    """A whole completion, and the positions of the words that are not to be imitated.

    Those are what a planted slip got wrong, and the ``</think>`` of thinking that was interrupted or never began, after which
    the right answer follows all the same.
    """

    words: tuple[str, ...]
    unlearned: tuple[int, ...]


def answered(answer: str) -> tuple[str, ...]:
    """Return the words that end thinking and box an answer."""
    return ("</think>", "\\boxed{", *answer.split(), "}")


def answer_at_once(problem: WorldProblem) -> Completion:
    """Return the answer without thinking; that thinking ends at once is not to be imitated."""
    return Completion(answered(problem.answer), (0,))


def draw_completion(rng: random.Random, problem: WorldProblem, max_tokens: int, rates: Rates = RATES) -> Completion:
    """Draw thinking and boxed answer; drawn again while longer than ``max_tokens``.

    Some thinking is cut at a random word, so that the reasoner can answer as well as possible when it is made to.
    """
    while True:
        draft, answer = think(rng, problem, rates)
        words, interrupted = draft.words, rng.random() < INTERRUPTED_SHARE
        if interrupted:
            words, answer = words[: rng.randint(0, len(words))], problem.answer
        completion = (*words, *answered(str(answer)))
        if answer is not None and len(completion) < max_tokens:
            unlearned = [i for i in draft.planted if i < len(words)]
            return Completion(completion, (*unlearned, *([len(words)] if interrupted else [])))


def shortest_think_words(problem: WorldProblem) -> list[str]:
    """Return the shortest correct trace we know: one terse pass without slips or re-checks."""
    draft = Draft()
    PASSES[problem.family](random.Random(0), problem, SHORTEST, draft)
    return draft.words
