"""Choosing a stopping strength: a sweep over calibration problems and a paired bound on the accuracy lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reason_rl.errors import RecipeError
from reason_rl.evaluate.estimate import Estimate, estimate, resampled_means, t_estimate
from reason_rl.evaluate.grid import Grid, Samples, to_grid
from reason_rl.evaluate.records import EvalRow

STRENGTHS = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0)  # our choice


@dataclass(frozen=True)
class Point:
    """One setting on the accuracy-token curve; differences are paired with the unchanged model, 95 % intervals.

    Args:
        setting: strength, or think-token budget.
        accuracy, tokens: means; tokens are completion tokens.
        think_tokens: mean.
        tokens_right, tokens_wrong: mean completion tokens of right and of wrong completions; None without any.
        cut: share of completions cut at the cap.
        accuracy_change: paired, in [-1, 1].
        tokens_change: paired, in tokens.
    """

    setting: float
    accuracy: float
    tokens: float
    think_tokens: float
    tokens_right: float | None
    tokens_wrong: float | None
    cut: float
    accuracy_change: Estimate
    tokens_change: Estimate

    def figures(self) -> dict[str, Any]:
        """Return the point as plain JSON."""
        return asdict(self)


def point(setting: float, base: Sequence[EvalRow], rows: Sequence[EvalRow]) -> Point:
    """Return the point of one setting, paired with the unchanged model.

    Raises:
        ValueError: when the two did not see the same problems.
    """
    first, second = to_grid(base), to_grid(rows)
    _check_same(first, second)
    table = np.stack(
        [
            second.correct.mean(axis=1) - first.correct.mean(axis=1),
            second.completion_tokens.mean(axis=1) - first.completion_tokens.mean(axis=1),
        ],
        axis=1,
    )
    draws = resampled_means(table)
    right = second.correct == 1
    changes = [estimate(float(table[:, i].mean()), draws[:, i], len(table)) for i in range(2)]
    return Point(
        setting=setting,
        accuracy=float(second.correct.mean()),
        tokens=float(second.completion_tokens.mean()),
        think_tokens=float(second.think_tokens.mean()),
        tokens_right=float(second.completion_tokens[right].mean()) if right.any() else None,
        tokens_wrong=float(second.completion_tokens[~right].mean()) if not right.all() else None,
        cut=float(second.cut.mean()),
        accuracy_change=changes[0],
        tokens_change=changes[1],
    )


def choose(points: Sequence[Point], loss: float = 0.01, bound: float = 0.02) -> Point:
    """Return the cheapest point that keeps accuracy: mean loss at most ``loss``, and at most ``bound`` by the 95 % interval.

    Strengths are tried upwards from the unchanged model and the walk ends at the first that fails, so trying many of them
    does not make a lucky one pass; among those passed the one with the fewest tokens is taken.

    Args:
        points: the first is the unchanged model, then by rising strength.
        loss: accuracy one is ready to lose, a share; our choice.
        bound: loss that the interval must exclude; our choice.

    Raises:
        ValueError: when the strengths do not rise from 1.
    """
    settings = [p.setting for p in points]
    if not settings or settings[0] != 1.0 or settings != sorted(set(settings)):
        raise ValueError(f"strengths {settings} do not rise from 1")
    passed = [points[0]]
    for candidate in points[1:]:
        mean, low = candidate.accuracy_change["mean"], candidate.accuracy_change["low"]
        if mean is None or low is None or mean < -loss or low < -bound:
            break
        passed.append(candidate)
    return min(passed, key=lambda p: p.tokens)


def advantage(rows: Sequence[EvalRow], curve: Sequence[Sequence[EvalRow]]) -> Estimate | None:
    """Return the accuracy gained over a curve of another method at the same mean tokens, with a paired interval.

    The other method's accuracy is interpolated, problem by problem, between its two settings with the nearest mean tokens on
    either side. The weights are taken as given, so the interval leaves out that they are estimated.

    Args:
        rows: the setting to judge.
        curve: evaluations of the other method on the same problems.

    Returns:
        None when the curve does not reach that many or that few tokens.

    Raises:
        ValueError: when they did not see the same problems.
    """
    own = to_grid(rows)
    others = [to_grid(other) for other in curve]
    for other in others:
        _check_same(own, other)
    return gain_at_equal_tokens(
        (own.correct, own.completion_tokens), [(other.correct, other.completion_tokens) for other in others]
    )


def gain_at_equal_tokens(own: tuple[Samples, Samples], curve: Sequence[tuple[Samples, Samples]]) -> Estimate | None:
    """Return what :func:`advantage` does, from tables of right answers and of tokens, [problems, samples] each."""
    tokens = float(own[1].mean())
    others = sorted(curve, key=lambda other: float(other[1].mean()))
    means = [float(other[1].mean()) for other in others]
    for i in range(len(others) - 1):
        if means[i] <= tokens <= means[i + 1] and means[i] < means[i + 1]:
            share = (tokens - means[i]) / (means[i + 1] - means[i])
            between = (1 - share) * others[i][0].mean(axis=1) + share * others[i + 1][0].mean(axis=1)
            return t_estimate(own[0].mean(axis=1) - between)
    return None


def sweep(
    settings: Sequence[float],
    evaluate: Callable[[float], list[EvalRow]],
    say: Callable[[str], None],
    name: str = "strength",
) -> dict[float, list[EvalRow]]:
    """Return the evaluation of each setting, saying where it is."""
    rows = {}
    for number, setting in enumerate(settings, start=1):
        rows[setting] = evaluate(setting)
        grid = to_grid(rows[setting])
        accuracy, tokens = grid.correct.mean(), grid.completion_tokens.mean()
        say(
            f"{name} {setting:g} ({number} of {len(settings)}): accuracy {accuracy:.1%}, {tokens:.1f} completion tokens"
        )
    return rows


def check_strengths(strengths: Sequence[float]) -> tuple[float, ...]:
    """Return the strengths to sweep, rising, with 1 (the unchanged model) first.

    >>> check_strengths([3, 1.5])
    (1.0, 1.5, 3.0)

    Raises:
        RecipeError: for a strength below 1; those lengthen thinking and save nothing.
    """
    if any(not 1 <= strength < float("inf") for strength in strengths):
        raise RecipeError(f"strengths {list(strengths)}: calibration wants values of 1 and above")
    return tuple(sorted({1.0, *map(float, strengths)}))


def _check_same(one: Grid, other: Grid) -> None:
    if one.problem_ids != other.problem_ids:
        raise ValueError("the evaluations are of different problems")
