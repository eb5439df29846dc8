"""Verifiers: exact string equality, or mathematical equality behind a deadline that always holds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Literal, Protocol, Self

from reason_rl.answer.worker import serve

START_SECONDS = 60.0


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
    """math-verify in a process of its own; an answer that takes longer than the deadline is wrong and counted.

    math-verify's own alarm cannot interrupt a long big-integer operation, so the process is killed and started anew.
    """

    def __init__(self, timeout_seconds: float = 5.0) -> None:
        self.timeout_seconds = timeout_seconds
        self.timeouts = 0
        self._worker: tuple[SpawnProcess, Connection] | None = None
        self._verdicts: dict[tuple[str, str], bool] = {}

    def verify(self, extracted: Sequence[str | None], gold: Sequence[str]) -> list[bool]:
        """Return one verdict a pair; equal strings are right without asking math-verify."""
        return [self._one(answer, truth) for answer, truth in zip(extracted, gold, strict=True)]

    def _one(self, answer: str | None, truth: str) -> bool:
        if answer is None:
            return False
        if normalised(answer) == normalised(truth):
            return True
        pair = (answer, truth)
        if pair not in self._verdicts:
            self._verdicts[pair] = self._ask(answer, truth)
        return self._verdicts[pair]

    def _ask(self, answer: str, truth: str) -> bool:
        connection = self._connection()
        try:
            connection.send((answer, truth))
            if connection.poll(self.timeout_seconds):
                return bool(connection.recv())
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass
        self.timeouts += 1
        self._stop()
        return False

    def _connection(self) -> Connection:
        """Return the pipe to a live, warmed-up worker; importing sympy does not count against the deadline."""
        if self._worker is not None and self._worker[0].is_alive():
            return self._worker[1]
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self._worker = (process, ours)
        ours.send(("1", "1"))
        ours.poll(START_SECONDS)
        ours.recv()
        return ours

    def _stop(self) -> None:
        if self._worker is not None:
            process, connection = self._worker
            process.kill()
            process.join()
            connection.close()
            self._worker = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()


def make_verifier(kind: Literal["exact", "math"], timeout_seconds: float = 5.0) -> Verifier:
    """Return the verifier that the recipe's ``answer.verify`` names."""
    return ExactVerifier() if kind == "exact" else MathVerifier(timeout_seconds)
