"""The prior as a term of the loss in RL, from cells of the arena: DLER with it against DLER without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from reason_rl.bench.jobs import Row, read_results
from reason_rl.bench.paired import seed_difference
from reason_rl.errors import RecipeError
from reason_rl.evaluate.estimate import t_estimate

BASE = "dler"
METHODS = ("dler_rpa", "dler_rpa_guardian")
METRICS = {"accuracy": "correct", "completion_tokens": "tokens"}


def compare_in_rl(cells: Path, seeds: int) -> dict[str, Any]:
    """Return accuracy and completion tokens of each method, differences to DLER over seeds and over problems, and stability.

    Differences over seeds are paired by seed (Student's t over seeds), those over problems paired by problem, each problem's
    mean over seeds and samples being one value. ``spread`` is the standard deviation over seeds; ``lowest_accuracy`` the
    lowest that a seed had at any point of its training.

    Raises:
        RecipeError: naming the cells that are missing.
    """
    found = {row["key"]: row for row in read_results(cells)}
    wanted = {method: [f"{method}-seed{seed}" for seed in range(seeds)] for method in (BASE, *METHODS)}
    missing = [key for keys in wanted.values() for key in keys if key not in found]
    if missing:
        raise RecipeError(
            f"{cells}: lacks {', '.join(missing)}; reason-rl arena --out {cells.parent} --methods "
            f"{','.join(wanted)} --seeds {seeds} makes them"
        )
    sides = {method: [found[key] for key in keys] for method, keys in wanted.items()}
    table = {method: summary(rows) for method, rows in sides.items()}
    for method in METHODS:
        for metric in METRICS:
            base, mine = ([row["points"][-1][metric] for row in sides[side]] for side in (BASE, method))
            table[method][f"{metric}_over_seeds"] = seed_difference(base, mine)
            table[method][f"{metric}_over_problems"] = over_problems(sides[BASE], sides[method], METRICS[metric])
    return table


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Return means and standard deviations over seeds at the end, and the lowest accuracy on the way.

    >>> point = {"accuracy": 0.8, "completion_tokens": 90.0}
    >>> summary([{"points": [point]}, {"points": [{**point, "accuracy": 0.7}, point]}])["lowest_accuracy"]
    0.7
    """
    ends = {metric: [row["points"][-1][metric] for row in rows] for metric in METRICS}
    return {
        "seeds": len(rows),
        **{metric: fmean(values) for metric, values in ends.items()},
        "spread": {metric: stdev(values) for metric, values in ends.items()} if len(rows) > 1 else None,
        "lowest_accuracy": min(point["accuracy"] for row in rows for point in row["points"]),
    }


def over_problems(base: Sequence[Row], mine: Sequence[Row], field: str) -> dict[str, float | None]:
    """Return the mean difference at the end of training over problems, with a 95 % interval of Student's t.

    >>> cell = lambda *right: [{"points": [{"problems": {str(i): {"correct": [r]} for i, r in enumerate(right)}}]}]
    >>> over_problems(cell(0, 1, 0, 1), cell(1, 1, 0, 1), "correct")["mean"]
    0.25
    """
    values = []
    for rows in (base, mine):
        parts = [row["points"][-1]["problems"] for row in rows]
        values.append({problem: fmean(v for part in parts for v in part[problem][field]) for problem in parts[0]})
    return dict(t_estimate(np.array([values[1][problem] - before for problem, before in values[0].items()])))
