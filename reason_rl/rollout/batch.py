"""RolloutBatch: the one record that every policy of the algorithm layer is a function of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

FINISH_REASONS = frozenset({"stop", "length", "exit"})


@dataclass(frozen=True)
class RolloutBatch:
    """Graded rollouts of one rank: whole groups of ``group_size`` consecutive rows, B rows in all.

    Args:
        group_size: rows a problem (G).
        group_sizes: rows of each group, where a curriculum gives problems different numbers; None = ``group_size`` each.
        problem_id: [B].
        prompt_ids, completion_ids: token ids a row, without padding.
        text: decoded completions [B], without the end token of those that finished.
        length: completion tokens, the end token included, int64 [B].
        think_length: think tokens up to and including the end-of-think token, or all of them when it never came, [B].
        finish_reason: from the sampler, in {stop, length, exit}, [B].
        budget: completion tokens allowed, [B].
        correct: 1 right, 0 wrong, nan unscored, float32 [B]. In training a rollout that was cut is wrong, whatever it says.
        written: the verdict on what was written, cut or not, as ``correct``, [B]; None = ``correct``.
        sampling_logps: log-probability of each token under what chose it (the sampler, or the choice of an opening), or None.
        forced: leading completion tokens that were put there and not sampled, [B], or None when there are none.
        columns: data set columns, each [B].
        known: what the store knew of each row's problem before this round, by name, float [B], nan = unknown.
        step: optimizer step at sampling; progress: share of the run done, in [0, 1]; policy_version: of the weights.

    Raises:
        ValueError: when lengths disagree, groups are not whole, or a finish reason is unknown.
    """

    group_size: int
    problem_id: tuple[str, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    completion_ids: tuple[tuple[int, ...], ...]
    text: tuple[str, ...]
    length: Tensor
    think_length: Tensor
    finish_reason: tuple[str, ...]
    budget: Tensor
    correct: Tensor
    sampling_logps: tuple[tuple[float, ...], ...] | None = None
    forced: tuple[int, ...] | None = None
    columns: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    known: Mapping[str, Tensor] = field(default_factory=dict)
    step: int = 0
    progress: float = 0.0
    policy_version: int = 0
    group_sizes: tuple[int, ...] | None = None
    written: Tensor | None = None

    def __post_init__(self) -> None:
        rows = len(self.problem_id)
        if self.group_size < 1 or rows % self.group_size:
            raise ValueError(f"{rows} rows are not whole groups of {self.group_size}")
        if self.group_sizes is not None and sum(self.group_sizes) != rows:
            raise ValueError(f"groups of {self.group_sizes} rows are not {rows} rows")
        per_row = {name: getattr(self, name) for name in PER_ROW} | dict(self.columns) | dict(self.known)
        optional = {"sampling_logps": self.sampling_logps, "forced": self.forced, "written": self.written}
        per_row |= {name: value for name, value in optional.items() if value is not None}
        wrong = {name: len(value) for name, value in per_row.items() if len(value) != rows}
        if wrong:
            raise ValueError(f"expected {rows} rows, got {wrong}")
        unknown = set(self.finish_reason) - FINISH_REASONS
        if unknown:
            raise ValueError(f"unknown finish reason {sorted(unknown)}; known: {sorted(FINISH_REASONS)}")

    @property
    def truncated(self) -> Tensor:
        """Which rows were cut by their budget, bool [B]."""
        return torch.tensor([reason == "length" for reason in self.finish_reason], dtype=torch.bool)

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return len(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of each group [groups]."""
        if self.group_sizes is not None:
            return self.group_sizes
        return (self.group_size,) * (len(self.problem_id) // self.group_size)


def example_batch(
    correct: Sequence[float],
    length: Sequence[int],
    *,
    cut: Sequence[bool] | None = None,
    budget: int = 4096,
    group_size: int | None = None,
    columns: Mapping[str, tuple[Any, ...]] | None = None,
    known: Mapping[str, Sequence[float]] | None = None,
) -> RolloutBatch:
    """Return a batch with these verdicts and completion tokens and nothing else, to try a reward on.

    Args:
        correct: 1 right, 0 wrong, nan unscored, [B]; taken as they are, also where ``cut``.
        length: completion tokens, [B].
        cut: which rollouts were cut by their budget, [B]; none when left out.
        budget: completion tokens allowed, the same for all rows.
        group_size: rows a problem; all rows are one group when left out.
        columns: data set columns, each [B].
        known: facts of the store, each [B].

    >>> example_batch([1, 0], [20, 64], cut=[False, True], budget=64).truncated.tolist()
    [False, True]
    """
    rows, group_size = len(correct), group_size or len(correct)
    reasons = ["length" if was_cut else "stop" for was_cut in (cut or [False] * rows)]
    return RolloutBatch(
        group_size=group_size,
        problem_id=tuple(f"p{row // group_size}" for row in range(rows)),
        prompt_ids=((),) * rows,
        completion_ids=((),) * rows,
        text=("",) * rows,
        length=torch.tensor(length),
        think_length=torch.tensor(length),
        finish_reason=tuple(reasons),
        budget=torch.full((rows,), budget),
        correct=torch.tensor(correct, dtype=torch.float32),
        columns=columns or {},
        known={name: torch.tensor(values) for name, values in (known or {}).items()},
    )


PER_ROW = ("prompt_ids", "completion_ids", "text", "length", "think_length", "finish_reason", "budget", "correct")
