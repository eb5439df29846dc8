"""Which weights to merge with: a quadratic through a few evaluated merges, and the Pareto front that it predicts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from reason_rl.errors import RecipeError
from reason_rl.evaluate.pareto import frontier

MOST_WEIGHTS = 3  # a grid over more is too large
FIELDS = ("weights", "accuracy", "completion_tokens")


@dataclass(frozen=True)
class Quadratic:
    """``m(c) = e + b.c + c'Ac / 2`` with ``A`` symmetric, and the share of the values' variance that it explains."""

    constant: float
    linear: Float[np.ndarray, " weights"]
    curvature: Float[np.ndarray, "weights weights"]
    r_squared: float

    def at(self, weights: Float[np.ndarray, "points weights"]) -> Float[np.ndarray, " points"]:
        """Return the values at some weights."""
        bent = np.einsum("pi,ij,pj->p", weights, self.curvature, weights)
        return self.constant + weights @ self.linear + bent / 2


def fit(weights: Float[np.ndarray, "merges weights"], values: Float[np.ndarray, " merges"]) -> Quadratic:
    """Return the quadratic through a metric's values, by least squares.

    Args:
        weights: of each merge.
        values: the metric of each merge.

    Raises:
        RecipeError: with fewer merges than unknowns, ``1 + K + K (K + 1) / 2``, or weights that do not tell them apart.

    >>> found = fit(np.array([[0.0], [0.25], [0.5], [0.75], [1.0]]), np.array([0.52, 0.70, 0.80, 0.86, 0.87]))
    >>> round(found.constant, 3), found.linear.round(3).tolist(), found.curvature.round(3).tolist(), round(found.r_squared, 4)
    (0.524, [0.778], [[-0.869]], 0.9985)

    Source: MAP (arXiv 2406.07529), its second-order approximation.
    """
    merges, count = weights.shape
    pairs = list(combinations_with_replacement(range(count), 2))
    squares = [weights[:, i] * weights[:, j] / (2 if i == j else 1) for i, j in pairs]
    table = np.column_stack([np.ones(merges), weights, *squares])
    if np.linalg.matrix_rank(table) < table.shape[1]:
        raise RecipeError(
            f"merge-front: {merges} merges do not determine {table.shape[1]} unknowns; evaluate more, with other weights"
        )
    solution = np.linalg.lstsq(table, values, rcond=None)[0]
    curvature = np.zeros((count, count))
    for (i, j), value in zip(pairs, solution[1 + count :], strict=True):
        curvature[i, j] = curvature[j, i] = value
    spread = float(((values - values.mean()) ** 2).sum())
    left = float(((values - table @ solution) ** 2).sum())
    return Quadratic(float(solution[0]), solution[1 : 1 + count], curvature, 1 - left / spread if spread else 1.0)


def front(rows: Sequence[dict[str, Any]], steps: int) -> dict[str, Any]:
    """Return the weights that the fitted quadratics call worth trying, by rising tokens, on a grid in the sampled range.

    Args:
        rows: evaluated merges: weights, accuracy, completion_tokens.
        steps: grid points along each weight.

    Raises:
        RecipeError: for more than three weights, rows of different ones, or too few of them.

    Source: MAP (arXiv 2406.07529); a grid instead of its genetic search (our choice), exact enough for so few weights.
    """
    sizes = {len(row["weights"]) for row in rows}
    if len(sizes) != 1 or not 1 <= min(sizes) <= MOST_WEIGHTS:
        raise RecipeError(f"merge-front: rows of {sorted(sizes)} weights; give the same 1 to {MOST_WEIGHTS} in each")
    weights = np.array([row["weights"] for row in rows], dtype=float)
    fits = {name: fit(weights, np.array([row[name] for row in rows], dtype=float)) for name in FIELDS[1:]}
    axes = [np.linspace(low, high, steps) for low, high in zip(weights.min(0), weights.max(0), strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, weights.shape[1])
    accuracy, tokens = (fits[name].at(grid) for name in FIELDS[1:])
    best = frontier(np.column_stack([tokens, accuracy]))
    return {
        "r_squared": {name: found.r_squared for name, found in fits.items()},
        "front": [
            {"weights": grid[i].tolist(), "accuracy": float(accuracy[i]), "completion_tokens": float(tokens[i])}
            for i in best
        ],
    }


def read_merges(path: Path) -> list[dict[str, Any]]:
    """Read evaluated merges, one JSON object a line.

    Raises:
        RecipeError: for a file that is not there, or naming the line that lacks a field or holds what is no finite number.
    """
    if not path.is_file():
        raise RecipeError(f"merge-front: no file {path}")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = {name: json.loads(line)[name] for name in FIELDS}
            if not isinstance(row["weights"], list):
                raise ValueError("weights is no list")
            for value in (*row["weights"], row["accuracy"], row["completion_tokens"]):
                if not isinstance(value, int | float) or not math.isfinite(value):
                    raise ValueError(f"{value} is no finite number")
            rows.append(row)
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"{path}:{number}: needs {', '.join(FIELDS)} ({error})") from error
    return rows
