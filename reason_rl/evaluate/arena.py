"""The table of the arena: each method's final models, seeds together, against the start; all from the cells alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
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
UNIFORM = ("dler", "dler_cap112", "dler_cap160")  # one cap for all problems
HARDEST_LEVELS = 2


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
    against the cap, over log tokens, on one grid for all. ``asked``: the same for each variant of the prompt.
    ``beside_uniform``: the difference to a uniform cut at equal tokens, of methods between two such cuts. Two methods are
    indistinguishable when neither the accuracy nor the token interval of their paired difference excludes zero.

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
        "beside_uniform": _beside_uniform(sides),
        "versions": _versions(rows),
        "indistinguishable": [pair for pair in combinations(names, 2) if alike(sides[pair[0]], sides[pair[1]])],
    }


def beside_mixture(side: Side, low: Side, high: Side) -> dict[str, Any]:
    """Return the accuracy at the hardest levels beside that of a mixture of two others which spends as many tokens.

    The mixture asks ``high`` for a share ``w = (T - T_low) / (T_high - T_low)`` of the problems and ``low`` for the others,
    ``T`` the mean completion tokens over all levels, so that its accuracy is ``(1 - w) a_low + w a_high``. ``w`` is found
    anew in each resample of the problems.

    Raises:
        ValueError: when ``side`` does not spend more than ``low`` and less than ``high``.

    >>> def made(right, tokens):
    ...     return Side(np.full((4, 1), right), np.full((4, 1), tokens), np.ones((4, 1)), np.array([1, 1, 2, 2]))
    >>> found = beside_mixture(made(1.0, 90.0), made(0.5, 80.0), made(1.0, 120.0))
    >>> found["share"], found["difference"]["mean"]
    (0.25, 0.375)
    """
    tokens = [part.tokens.mean(axis=1) for part in (side, low, high)]
    hard = np.isin(side.levels, np.unique(side.levels)[-HARDEST_LEVELS:])
    right = [np.where(hard, part.correct.mean(axis=1), 0.0) for part in (side, low, high)]
    table = np.stack([*tokens, *right, hard.astype(float)], axis=1)

    def shares(means: Float[np.ndarray, "*draws 7"]) -> Float[np.ndarray, "*draws"]:
        return np.asarray((means[..., 0] - means[..., 1]) / (means[..., 2] - means[..., 1]))

    def differences(means: Float[np.ndarray, "*draws 7"]) -> Float[np.ndarray, "*draws"]:
        share = shares(means)
        mixture = (1 - share) * means[..., 4] + share * means[..., 5]
        return np.asarray((means[..., 3] - mixture) / means[..., 6])

    whole = table.mean(axis=0)
    if not whole[1] < whole[0] < whole[2]:
        raise ValueError(f"{whole[0]:.1f} tokens do not lie between {whole[1]:.1f} and {whole[2]:.1f}")
    draws = differences(resampled_means(table, RESAMPLES))
    return {"share": float(shares(whole)), "difference": estimate(float(differences(whole)), draws, len(table))}


def _beside_uniform(sides: Mapping[str, Side]) -> dict[str, Any]:
    uniform = sorted((sides[name] for name in UNIFORM if name in sides), key=lambda side: side.tokens.mean())
    return {
        name: beside_mixture(side, low, high)
        for name, side in sides.items()
        for low, high in pairwise(uniform)
        if low.tokens.mean() < side.tokens.mean() < high.tokens.mean()
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
        "kept": _kept(cells),
        "asked": {name: _alone(side_of([cell["asked"][name] for cell in cells]), caps) for name in cells[0]["asked"]},
    }


def _versions(rows: Sequence[Row]) -> dict[str, str]:
    """Return the versions of the packages that made the cells, several where they differ."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for package, version in row.get("versions", {}).items():
            found.setdefault(package, {})[version] = None
    return {package: " and ".join(versions) for package, versions in found.items()}


def _kept(cells: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return the means over seeds of the models kept on the way, those that every seed has."""
    parts = [cell.get("kept", {}) for cell in cells]
    return {
        name: {figure: float(np.mean([part[name][figure] for part in parts])) for figure in values}
        for name, values in parts[0].items()
        if all(name in part for part in parts)
    }


def _shortest(cells: Sequence[Row]) -> int:
    return min(len(cell["points"]) for cell in cells)


def _on_the_way(points: Sequence[Row]) -> dict[str, float]:
    names = ("point", "accuracy", "completion_tokens")
    return {name: float(np.mean([point[name] for point in points])) for name in names}
