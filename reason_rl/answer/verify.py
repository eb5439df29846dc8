"""Verifiers: exact string equality, or mathematical equality behind a deadline that always holds."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, Self

from reason_rl.answer import worker
from reason_rl.answer.compare import NO_ANSWER, Verdict, compare_texts, for_algebra, spelled
from reason_rl.answer.guard import unverifiable
from reason_rl.answer.parts import all_match, pairings, parts_of, rewritten
from reason_rl.answer.pool import DIED, LATE, WorkerPool

MAX_WORKERS = 4
MAX_AGAIN = 600  # characters of both sides together
LOOKS = 3  # how often what is unequal as a whole is taken apart or rewritten
SAME_TEXT = Verdict(True, "same text")
NOT_EQUAL = Verdict(False, "not equal")
SAME_PARTS = Verdict(True, "equal part by part")
REPLIES = {
    worker.RIGHT: Verdict(True, "equal"),
    worker.WRONG: NOT_EQUAL,
    worker.UNREAD: Verdict(None, "gold answer cannot be read"),
    LATE: Verdict(None, "unverifiable: past the deadline"),
    DIED: Verdict(None, "unverifiable: out of memory"),
}


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
        timeout_seconds: wall-clock limit of one pair.
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
        """Return one verdict a pair with its reason, remembered for as long as this object lives.

        Raises:
            RunError: when math-verify does not start.
        """
        return self._judge([(answer or "", truth) for answer, truth in zip(extracted, gold, strict=True)], LOOKS)

    def _judge(self, pairs: Sequence[tuple[str, str]], looks: int) -> list[Verdict]:
        known = self._known[looks]
        algebra: dict[tuple[str, str], tuple[str, str]] = {}
        for pair in dict.fromkeys(pairs):
            if pair not in known:
                verdict = before_algebra(*pair)
                if isinstance(verdict, Verdict):
                    known[pair] = verdict
                else:
                    algebra[pair] = verdict
        replies = self._pool.judge(list(algebra.values()))
        known |= {pair: REPLIES[replies[sides]] for pair, sides in algebra.items()}
        if looks > 0:
            unequal = [pair for pair in algebra if known[pair] == NOT_EQUAL and sum(map(len, pair)) <= MAX_AGAIN]
            known |= self._respelled(unequal, looks - 1)
            known |= self._part_by_part([pair for pair in unequal if known[pair] == NOT_EQUAL], looks - 1)
        return [known[pair] for pair in pairs]

    def _respelled(self, pairs: Sequence[tuple[str, str]], looks: int) -> dict[tuple[str, str], Verdict]:
        """Return the pairs that are equal when relations are ranges and plus-or-minus is two answers."""
        again = {}
        for answer, gold in pairs:
            sides = spelled(gold, answer)
            wanted, got = rewritten(*sides)
            if (wanted, got) != sides:
                again[answer, gold] = (got, wanted)
        verdicts = zip(again, self._judge(list(again.values()), looks), strict=True) if again else ()
        return {pair: verdict for pair, verdict in verdicts if verdict.correct is True}

    def _part_by_part(self, pairs: Sequence[tuple[str, str]], looks: int) -> dict[tuple[str, str], Verdict]:
        """Return the pairs whose lists, tuples, sets or matrices are equal part by part."""
        tables = {}
        for answer, gold in pairs:
            wanted, got = (parts_of(side) for side in spelled(gold, answer))
            table = pairings(wanted, got) if wanted and got else None
            if table is not None:
                tables[answer, gold] = table
        cells = [cell for _, rows in tables.values() for row in rows for cell in row]
        right = iter([verdict.correct is True for verdict in self._judge(cells, looks)] if cells else [])
        matched = {
            pair: all_match(ordered, [[next(right) for _ in row] for row in rows])
            for pair, (ordered, rows) in tables.items()
        }
        return {pair: SAME_PARTS for pair, equal in matched.items() if equal}

    def close(self) -> None:
        """End the processes."""
        self._pool.close()


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
