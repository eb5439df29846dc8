"""The table of the arena: each method's final models, seeds together, against the start; all from the cells alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from reason_rl.evaluate.anytime import area_under, cap_curve, cap_grid
from reason_rl.evaluate.efficiency import aes_estimate
from reason_rl.evaluate.estimate import estimate, resampled_means, share_estimate, t_estimate
from reason_rl.evaluate.grid import Samples
from reason_rl.evaluate.noninferiority import MARGIN
from reason_rl.evaluate.pareto import frontier
from reason_rl.evaluate.savings import paired_saving

Row = Mapping[str, Any]
RESAMPLES = 4000


@dataclass(frozen=True)
class Side:
    """Samples of one method, each [problems, samples of all seeds]: verdicts, completion tokens, and whether there are think
    tokens beside the one that ends thinking; and the problems' levels."""

    correct: Samples
    tokens: Samples
    thought: Samples
    levels: Int[np.ndarray, " problems"]


def side_of(cells: Sequence[Row]) -> Side:
    """Put the samples of several evaluations of the same problems together.

    Raises:
        ValueError: when the problems differ.
    """
    names = sorted(cells[0]["problems"])
    if any(sorted(cell["problems"]) != names for cell in cells):
        raise ValueError("evaluations of different problems cannot be put together")
    first = cells[0]["problems"]
    columns = [
        np.array([[value for cell in cells for value in cell["problems"][name][column]] for name in names], dtype=float)
        for column in ("correct", "tokens", "thought")
    ]
    return Side(columns[0], columns[1], columns[2], np.array([first[name]["level"] for name in names]))


def arena_table(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the arena's table from its cells: the row ``start``, and one row a method and seed.

    Accuracy, tokens, the paired saving, the accuracy difference and the AES carry 95 % intervals over problems, samples of
    all seeds together; ``low_seed`` and ``high_seed`` are the extremes of single seeds. The area is that under accuracy
    against the cap, over log tokens, on one grid for all. ``asked``: the same for each variant of the prompt. Two methods
    are indistinguishable when neither the accuracy nor the token interval of their paired difference excludes zero.

    Raises:
        ValueError: when the start is missing, or the methods were evaluated on different problems.
    """
    start = next((row for row in rows if row["key"] == "start"), None)
    if start is None:
        raise ValueError("the start is missing among the cells")
    base = side_of([start])
    names = list(dict.fromkeys(row["method"] for row in rows if "method" in row))
    cells = {name: [row for row in rows if row.get("method") == name] for name in names}
    sides = {name: side_of([cell["points"][-1] for cell in cells[name]]) for name in names}
    caps = cap_grid(base.tokens, *(side.tokens for side in sides.values()))
    methods = {name: _entry(base, sides[name], cells[name], caps) for name in names}
    points = [(side.tokens.mean(), side.correct.mean()) for side in (base, *sides.values())]
    return {
        "start": _alone(base, caps),
        "methods": methods,
        "frontier": [["start", *names][index] for index in frontier(points)],
        "indistinguishable": [pair for pair in combinations(names, 2) if alike(sides[pair[0]], sides[pair[1]])],
    }


def alike(first: Side, second: Side) -> bool:
    """Return whether neither accuracy nor tokens differ by a paired 95 % interval over problems."""
    parts = (first.correct, second.correct), (first.tokens, second.tokens)
    table = np.stack([right.mean(axis=1) - left.mean(axis=1) for left, right in parts], axis=1)
    draws = resampled_means(table, RESAMPLES)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return bool(((low <= 0) & (high >= 0)).all())


def _alone(side: Side, caps: Float[np.ndarray, " caps"]) -> dict[str, Any]:
    accuracy = cap_curve(side.correct, side.tokens, caps).accuracy.mean(axis=0)
    tokens = side.tokens.mean(axis=1)
    draws = resampled_means(tokens[:, None], RESAMPLES)[:, 0]
    return {
        "accuracy": share_estimate(side.correct.mean(axis=1)),
        "completion_tokens": estimate(float(tokens.mean()), draws, len(tokens)),
        "area": area_under(caps, accuracy).log,
        "levels": {
            str(level): {
                "accuracy": float(side.correct[side.levels == level].mean()),
                "completion_tokens": float(side.tokens[side.levels == level].mean()),
                "no_think": float(1 - side.thought[side.levels == level].mean()),
            }
            for level in sorted(set(side.levels.tolist()))
        },
    }


def _entry(base: Side, side: Side, cells: Sequence[Row], caps: Float[np.ndarray, " caps"]) -> dict[str, Any]:
    difference = side.correct.mean(axis=1) - base.correct.mean(axis=1)
    change = t_estimate(difference)
    saved = [1 - side_of([cell["points"][-1]]).tokens.mean() / base.tokens.mean() for cell in cells]
    return {
        "seeds": len(cells),
        **_alone(side, caps),
        "accuracy_difference": change,
        "accuracy_held": change["low"] is not None and change["low"] >= -MARGIN,
        "token_cut": {
            **paired_saving(base.tokens, side.tokens, RESAMPLES),
            "low_seed": float(min(saved)),
            "high_seed": float(max(saved)),
        },
        "aes": aes_estimate(base.correct, base.tokens, side.correct, side.tokens, RESAMPLES),
        "rollout_tokens": float(np.mean([cell["points"][-1]["rollout_tokens"] for cell in cells])),
        "seconds": float(np.mean([cell["points"][-1]["seconds"] for cell in cells])),
        "path": [_on_the_way([cell["points"][i] for cell in cells]) for i in range(_shortest(cells))],
        "asked": {name: _alone(side_of([cell["asked"][name] for cell in cells]), caps) for name in cells[0]["asked"]},
    }


def _shortest(cells: Sequence[Row]) -> int:
    return min(len(cell["points"]) for cell in cells)


def _on_the_way(points: Sequence[Row]) -> dict[str, float]:
    names = ("point", "accuracy", "completion_tokens")
    return {name: float(np.mean([point[name] for point in points])) for name in names}
