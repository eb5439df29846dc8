"""Verifiers: exact string equality, or mathematical equality behind a deadline that always holds."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, Self, TypeVar

from reason_rl.answer import worker
from reason_rl.answer.compare import MAX_ANSWER, NO_ANSWER, Verdict, compare_texts, for_algebra, spelled
from reason_rl.answer.guard import unverifiable
from reason_rl.answer.parts import all_match, pairings, parts_of, rewritten
from reason_rl.answer.pool import DIED, LATE, Budget, Job, Pair, WorkerPool
from reason_rl.answer.response import Failed

MAX_WORKERS = 4
MAX_AGAIN = 600  # characters of both sides together
MAX_KNOWN = 20_000  # verdicts that are remembered
LOOKS = 3  # how often what is unequal as a whole is taken apart or rewritten
SAME_TEXT = Verdict(True, "same text")
NOT_EQUAL = Verdict(False, "not equal")
SAME_PARTS = Verdict(True, "equal part by part")
PAST = Verdict(None, "unverifiable: past the deadline")
REPLIES = {
    worker.RIGHT: Verdict(True, "equal"),
    worker.WRONG: NOT_EQUAL,
    worker.UNREAD: Verdict(None, "gold answer cannot be read"),
    LATE: PAST,
    DIED: Verdict(None, "unverifiable: the process died"),
    worker.RAISED + b"MemoryError": Verdict(None, "unverifiable: out of memory"),
}


T = TypeVar("T")
Table = tuple[bool, list[list[Pair]]]  # whether order counts, and the pairs of parts, a row a gold part


class Verifier(ABC):
    """Says of each extracted answer whether it equals the gold one; a context manager, for it may own processes."""

    @abstractmethod
    def judge(self, extracted: Sequence[str | None], gold: Sequence[str]) -> list[Verdict]:
        """Return one verdict a pair with its reason."""

    def verify(self, extracted: Sequence[str | None], gold: Sequence[str]) -> list[bool]:
        """Return one verdict a pair; no answer, and what cannot be told, counts as wrong."""
        return [verdict.correct is True for verdict in self.judge(extracted, gold)]

    def close(self) -> None:  # noqa: B027 - most own nothing
        """Release what is owned."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def normalised(text: str) -> str:
    """Return the text with runs of white space made one space.

    >>> normalised("  25   17 ")
    '25 17'
    """
    return " ".join(text.split())


class ExactVerifier(Verifier):
    """String equality, white space aside."""

    def judge(self, extracted: Sequence[str | None], gold: Sequence[str]) -> list[Verdict]:
        """Return one verdict a pair."""
        return [_exact(answer, truth) for answer, truth in zip(extracted, gold, strict=True)]


def _exact(answer: str | None, truth: str) -> Verdict:
    if answer is None:
        return NO_ANSWER
    return SAME_TEXT if normalised(answer) == normalised(truth) else NOT_EQUAL


class MathVerifier(Verifier):
    """math-verify in processes of their own; an answer that takes longer than the deadline is wrong and counted.

    math-verify's own alarm cannot interrupt a long big-integer operation, so the process is killed and replaced. Equal
    texts and numbers are told without it; the gold answer goes first, for math-verify is not symmetric.

    Args:
        timeout_seconds: wall-clock limit of one pair, its other spellings and its parts included.
        workers: processes at most, started when first needed; default: one a processor, at most four.
    """

    def __init__(self, timeout_seconds: float = 5.0, workers: int | None = None) -> None:
        size = workers or min(MAX_WORKERS, os.cpu_count() or 1)
        self._pool = WorkerPool(size, timeout_seconds)
        self._known: list[dict[tuple[str, str], Verdict]] = [{} for _ in range(LOOKS + 1)]  # by looks that are left

    @property
    def timeouts(self) -> int:
        """Pairs that passed the deadline."""
        return self._pool.timeouts

    @property
    def crashes(self) -> int:
        """Pairs that ended their process, for want of memory for instance."""
        return self._pool.crashes

    def judge(self, extracted: Sequence[str | None], gold: Sequence[str]) -> list[Verdict]:
        """Return one verdict a pair with its reason; the last ones are remembered.

        Raises:
            RunError: when math-verify does not start.
        """
        pairs = [(answer or "", truth) for answer, truth in zip(extracted, gold, strict=True)]
        budgets = {pair: Budget(self._pool.timeout_seconds) for pair in dict.fromkeys(pairs)}
        verdicts = self._judge([(pair, budgets[pair]) for pair in pairs], LOOKS)
        return [
            raised(answer.error, "the answer was looked for") if isinstance(answer, Failed) else verdict
            for answer, verdict in zip(extracted, verdicts, strict=True)
        ]

    def _judge(self, jobs: Sequence[Job], looks: int) -> list[Verdict]:
        known = self._known[looks]
        found: dict[Job, Verdict] = {}
        algebra: dict[Job, Job] = {}
        for job in dict.fromkeys(jobs):
            pair, budget = job
            if pair in known:
                found[job] = known[pair]
                continue
            sides = _guarded(before_algebra, *pair)
            if isinstance(sides, Verdict):
                found[job] = sides
            else:
                algebra[job] = (sides, budget)
        replies = self._pool.judge(list(algebra.values()))
        found |= {job: _verdict(replies[sent]) for job, sent in algebra.items()}
        if looks > 0:
            unequal = [job for job in algebra if found[job] == NOT_EQUAL and sum(map(len, job[0])) <= MAX_AGAIN]
            found |= self._respelled(unequal, looks - 1)
            found |= self._part_by_part([job for job in unequal if found[job] == NOT_EQUAL], looks - 1)
        for (pair, budget), verdict in found.items():
            # A part is not late, nor unequal, for all times because its whole had no time left.
            if (budget.seconds > 0 or looks == LOOKS) and max(map(len, pair)) <= MAX_ANSWER:
                known[pair] = verdict
        while len(known) > MAX_KNOWN:
            del known[next(iter(known))]
        return [found[job] for job in jobs]

    def _respelled(self, jobs: Sequence[Job], looks: int) -> dict[Job, Verdict]:
        """Return the pairs that are equal when relations are ranges and plus-or-minus is two answers."""
        sides, failed = _taken(_sides_again, jobs)
        again = {job: (pair, job[1]) for job, pair in sides.items()}
        verdicts = zip(again, self._judge(list(again.values()), looks), strict=True) if again else ()
        return failed | {job: verdict for job, verdict in verdicts if verdict.correct is True or verdict == PAST}

    def _part_by_part(self, jobs: Sequence[Job], looks: int) -> dict[Job, Verdict]:
        """Return the pairs whose lists, tuples, sets or matrices are equal part by part, or had no time for it."""
        tables, failed = _taken(_table, jobs)
        cells = [(cell, job[1]) for job, (_, rows) in tables.items() for row in rows for cell in row]
        right = iter([verdict.correct is True for verdict in self._judge(cells, looks)] if cells else [])
        matched = {
            job: all_match(ordered, [[next(right) for _ in row] for row in rows])
            for job, (ordered, rows) in tables.items()
        }
        late = {job: PAST for job in tables if job[1].seconds <= 0}
        return failed | late | {job: SAME_PARTS for job, equal in matched.items() if equal}

    def close(self) -> None:
        """End the processes."""
        self._pool.close()


def _sides_again(answer: str, gold: str) -> Pair | None:
    sides = spelled(gold, answer)
    wanted, got = rewritten(*sides)
    return None if (wanted, got) == sides else (got, wanted)


def _table(answer: str, gold: str) -> Table | None:
    wanted, got = (parts_of(side) for side in spelled(gold, answer))
    return pairings(wanted, got) if wanted and got else None


def _taken(step: Callable[[str, str], T | None], jobs: Sequence[Job]) -> tuple[dict[Job, T], dict[Job, Verdict]]:
    """Return what a step gives of each pair that it has something for, and the verdicts of those that it fails on."""
    found: dict[Job, T] = {}
    failed: dict[Job, Verdict] = {}
    for job in jobs:
        made = _guarded(step, *job[0])
        if isinstance(made, Verdict):
            failed[job] = made
        elif made is not None:
            found[job] = made
    return found, failed


def _guarded(step: Callable[[str, str], T], answer: str, gold: str) -> T | Verdict:
    """Take a step of a comparison; what it raises is this pair's verdict, and no other's."""
    try:
        return step(answer, gold)
    except Exception as error:
        return raised(type(error).__name__, "the answers were compared")


def raised(name: str, when: str) -> Verdict:
    """Return the verdict on a pair for which our own code, or math-verify's, raised an exception."""
    return Verdict(None, f"unverifiable: {name} while {when}")


def _verdict(reply: bytes) -> Verdict:
    if reply in REPLIES:
        return REPLIES[reply]
    return raised(reply.removeprefix(worker.RAISED).decode(), "math-verify compared them")


def before_algebra(answer: str, gold: str) -> Verdict | tuple[str, str]:
    """Return the verdict where text, numbers or a guard give one, else both sides (answer, gold) for the algebra."""
    verdict = compare_texts(gold, answer)
    if verdict is not None:
        return verdict
    wanted, got = for_algebra(gold, answer)
    if wanted == got:
        return SAME_TEXT
    blocked = unverifiable(got) or unverifiable(wanted)
    return Verdict(None, f"unverifiable: {blocked}") if blocked else (got, wanted)


def make_verifier(kind: Literal["exact", "math", "puzzle", "gym"], timeout_seconds: float = 5.0) -> Verifier:
    """Return the verifier that the recipe's ``answer.verify`` names."""
    if kind == "puzzle":
        from reason_rl.puzzle.instances import PuzzleVerifier

        return PuzzleVerifier()
    if kind == "gym":
        from reason_rl.problem.gym_verifier import GymVerifier

        return GymVerifier()
    return ExactVerifier() if kind == "exact" else MathVerifier(timeout_seconds)
