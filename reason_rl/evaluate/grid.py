"""The rows of an evaluation as arrays: problems down, samples across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from reason_rl.errors import RunError
from reason_rl.evaluate.records import EvalRow

Samples = Float[np.ndarray, "problems samples"]


@dataclass(frozen=True)
class Grid:
    """One evaluation; every array is [problems, samples], lengths are in tokens, ``correct`` is 1 right and 0 wrong."""

    problem_ids: tuple[str, ...]
    correct: Samples
    completion_tokens: Samples
    think_tokens: Samples
    answer_tokens: Samples
    cut: Bool[np.ndarray, "problems samples"]
    answers: tuple[tuple[str | None, ...], ...]

    @property
    def problems(self) -> int:
        """Number of problems."""
        return len(self.problem_ids)

    @property
    def samples(self) -> int:
        """Completions a problem."""
        return int(self.correct.shape[1])


def to_grid(rows: Sequence[EvalRow]) -> Grid:
    """Arrange rows by problem (sorted by id) and sample number.

    Raises:
        RunError: when there are no rows, or not the same number of samples of every problem.
    """
    if not rows:
        raise RunError("the evaluation has no rows")
    of_problem: dict[str, list[EvalRow]] = {}
    for row in sorted(rows, key=lambda row: (row.problem_id, row.sample)):
        of_problem.setdefault(row.problem_id, []).append(row)
    table = list(of_problem.values())
    for group in table:
        if len(group) != len(table[0]):
            first, odd = table[0], group
            raise RunError(
                f"{len(first)} samples of problem {first[0].problem_id} and {len(odd)} of {odd[0].problem_id}: the metrics "
                "need the same number of every problem"
            )

    def column(name: str) -> Samples:
        return np.array([[float(getattr(row, name)) for row in group] for group in table])

    return Grid(
        problem_ids=tuple(of_problem),
        correct=column("correct"),
        completion_tokens=column("completion_tokens"),
        think_tokens=column("think_tokens"),
        answer_tokens=column("answer_tokens"),
        cut=np.array([[row.finish_reason == "length" for row in group] for group in table]),
        answers=tuple(tuple(row.extracted for row in group) for group in table),
    )
