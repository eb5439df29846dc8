"""Verifiers: exact string equality, or mathematical equality behind a deadline that always holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Protocol, Self

from reason_rl.answer.pool import WorkerPool

MAX_WORKERS = 4


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

    math-verify's own alarm cannot interrupt a long big-integer operation, so the process is killed and replaced.
    Equal strings are right without asking; the gold answer goes first, for math-verify is not symmetric.

    Args:
        timeout_seconds: wall-clock limit of one pair.
        workers: processes at most, started when first needed; default: one a processor, at most four.
    """

    def __init__(self, timeout_seconds: float = 5.0, workers: int | None = None) -> None:
        size = workers or min(MAX_WORKERS, os.cpu_count() or 1)
        self._pool = WorkerPool(size, timeout_seconds)

    @property
    def timeouts(self) -> int:
        """Pairs that passed the deadline."""
        return self._pool.timeouts

    @property
    def crashes(self) -> int:
        """Pairs that ended their process, for want of memory for instance."""
        return self._pool.crashes

    def verify(self, extracted: Sequence[str | None], gold: Sequence[str]) -> list[bool]:
        """Return one verdict a pair.

        Raises:
            RunError: when math-verify does not start.
        """
        pairs = [(None if a is None else normalised(a), normalised(g)) for a, g in zip(extracted, gold, strict=True)]
        verdicts = self._pool.judge(
            [(answer, truth) for answer, truth in pairs if answer is not None and answer != truth]
        )
        return [answer is not None and (answer == truth or verdicts[answer, truth]) for answer, truth in pairs]

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_verifier(kind: Literal["exact", "math"], timeout_seconds: float = 5.0) -> Verifier:
    """Return the verifier that the recipe's ``answer.verify`` names."""
    return ExactVerifier() if kind == "exact" else MathVerifier(timeout_seconds)
