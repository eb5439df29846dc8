"""Verifiers: exact string equality, or mathematical equality behind a deadline that always holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Protocol, Self

from reason_rl.answer import worker
from reason_rl.answer.compare import Verdict, compare_texts, for_algebra, unverifiable
from reason_rl.answer.pool import DIED, LATE, WorkerPool

MAX_WORKERS = 4
REPLIES = {
    worker.RIGHT: Verdict(True, "equal"),
    worker.WRONG: Verdict(False, "not equal"),
    worker.UNREAD: Verdict(None, "gold answer cannot be read"),
    LATE: Verdict(None, "unverifiable: past the deadline"),
    DIED: Verdict(None, "unverifiable: out of memory"),
}


class Verifier(Protocol):
    """Says of each extracted answer whether it equals the gold one; a context manager, for it may own processes."""

    def verify(self, extracted: Sequence[str | None], gold: Sequence[str]) -> list[bool]:
        """Return one verdict a pair; None is wrong."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def normalised(text: str) -> str:
    """Return the text with runs of white space made one space.

    >>> normalised("  25   17 ")
    '25 17'
    """
    return " ".join(text.split())


class ExactVerifier:
    """String equality, white space aside."""

    def verify(self, extracted: Sequence[str | None], gold: Sequence[str]) -> list[bool]:
        """Return one verdict a pair."""
        pairs = zip(extracted, gold, strict=True)
        return [answer is not None and normalised(answer) == normalised(truth) for answer, truth in pairs]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Own nothing, release nothing."""


class MathVerifier:
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
        self._known: dict[tuple[str, str], Verdict] = {}

    @property
    def timeouts(self) -> int:
        """Pairs that passed the deadline."""
        return self._pool.timeouts

    @property
    def crashes(self) -> int:
        """Pairs that ended their process, for want of memory for instance."""
        return self._pool.crashes

    def verify(self, extracted: Sequence[str | None], gold: Sequence[str]) -> list[bool]:
        """Return one verdict a pair; what cannot be told counts as wrong.

        Raises:
            RunError: when math-verify does not start.
        """
        return [verdict.correct is True for verdict in self.judge(extracted, gold)]

    def judge(self, extracted: Sequence[str | None], gold: Sequence[str]) -> list[Verdict]:
        """Return one verdict a pair with its reason, remembered for as long as this object lives.

        Raises:
            RunError: when math-verify does not start.
        """
        pairs = [(answer or "", truth) for answer, truth in zip(extracted, gold, strict=True)]
        algebra: dict[tuple[str, str], tuple[str, str]] = {}
        for pair in dict.fromkeys(pairs):
            if pair not in self._known:
                verdict = before_algebra(*pair)
                if isinstance(verdict, Verdict):
                    self._known[pair] = verdict
                else:
                    algebra[pair] = verdict
        replies = self._pool.judge(list(algebra.values()))
        self._known |= {pair: REPLIES[replies[sides]] for pair, sides in algebra.items()}
        return [self._known[pair] for pair in pairs]

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def before_algebra(answer: str, gold: str) -> Verdict | tuple[str, str]:
    """Return the verdict where text, numbers or a guard give one, else both sides (answer, gold) for the algebra."""
    verdict = compare_texts(gold, answer)
    if verdict is not None:
        return verdict
    wanted, got = for_algebra(gold, answer)
    if wanted == got:
        return Verdict(True, "same text")
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
