"""Plots as inline SVG that takes the colours of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reason_rl.evaluate.records import EvalRow
from reason_rl.evaluate.statistics import CONFIDENCE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#010203"  # replaced by the page's text colour
BEFORE, AFTER, WRONG = "#8a8f98", "#2a78c2", "#c2542a"
CURVES = {
    "reward": "reward",
    "accuracy": "accuracy (training problems)",
    "completion_tokens": "completion tokens",
    "share_cut": "share cut",
    "entropy": "entropy (nats)",
    "importance_ratio_mean": "mean importance ratio",
}


def _figure(columns: int, rows: int, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_facecolor("none")
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(INK)
        axis.tick_params(colors=INK, labelsize=9)
        for label in (axis.title, axis.xaxis.label, axis.yaxis.label):
            label.set_color(INK)
            label.set_fontsize(10)
    return figure, axes


def _svg(figure: Figure, description: str) -> str:
    import matplotlib as mpl

    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "reason_rl"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)


def learning_curves(history: Sequence[Mapping[str, Any]]) -> str:
    """Draw one small panel a metric over optimizer steps."""
    shown = [name for name in CURVES if any(name in row for row in history)]
    rows = -(-len(shown) // 3)
    figure, axes = _figure(3, rows, 2.4 * rows)
    for axis, name in zip(axes.flat, shown, strict=False):
        points = [(row["step"], row[name]) for row in history if row.get(name) is not None]
        axis.plot(*zip(*points, strict=True), color=AFTER, linewidth=1.5)
        axis.set_title(CURVES[name], color=INK, fontsize=10, loc="left")
        axis.set_xlabel("step", color=INK)
        if name == "importance_ratio_mean":
            values = [value for _, value in points]
            axis.set_ylim(min(0.9, *values), max(1.1, *values))
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    return _svg(figure, "learning curves")


def length_histogram(before: Sequence[EvalRow], after: Sequence[EvalRow]) -> str:
    """Draw completion tokens before and after, right and wrong answers stacked."""
    figure, axes = _figure(2, 1, 2.9)
    longest = max(row.completion_tokens for row in (*before, *after))
    bins = np.linspace(0, longest, 33)
    for axis, rows, title in zip(axes.flat, (before, after), ("before", "after"), strict=True):
        parts = [[row.completion_tokens for row in rows if row.correct is flag] for flag in (True, False)]
        axis.hist(parts, bins=bins, stacked=True, color=[AFTER, WRONG], label=["right", "wrong"])
        axis.set_title(title, color=INK, fontsize=10, loc="left")
        axis.set_xlabel("completion tokens", color=INK)
    axes.flat[0].set_ylabel("completions", color=INK)
    axes.flat[1].sharey(axes.flat[0])
    axes.flat[1].legend(frameon=False, labelcolor=INK, fontsize=9)
    return _svg(figure, "length histogram by correctness")


def accuracy_against_tokens(summary: Mapping[str, Any], before: Sequence[EvalRow], after: Sequence[EvalRow]) -> str:
    """Draw accuracy over mean completion tokens with 95 % error bars both ways, overall and by level."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure, axes = _figure(2, 1, 3.4)
    overall, by_level = axes.flat
    for side, colour in (("before", BEFORE), ("after", AFTER)):
        accuracy, tokens = (summary["metrics"][name][side] for name in ("accuracy", "completion_tokens"))
        overall.errorbar(
            tokens["mean"],
            accuracy["mean"],
            xerr=[[tokens["mean"] - tokens["low"]], [tokens["high"] - tokens["mean"]]],
            yerr=[[accuracy["mean"] - accuracy["low"]], [accuracy["high"] - accuracy["mean"]]],
            fmt="o",
            color=colour,
            capsize=3,
            label=side,
        )
    overall.set_xlim(left=0)
    overall.legend(frameon=False, labelcolor=INK, fontsize=9)
    overall.set_title("overall", color=INK, fontsize=10, loc="left")
    for rows, colour, side in ((before, BEFORE, "before"), (after, AFTER, "after")):
        _levels(by_level, rows, colour, side)
    by_level.set_xscale("log")
    by_level.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    by_level.xaxis.set_major_formatter(ScalarFormatter())
    by_level.xaxis.set_minor_formatter(NullFormatter())
    by_level.set_title("by level", color=INK, fontsize=10, loc="left")
    for axis in (overall, by_level):
        axis.set_xlabel("completion tokens", color=INK)
        axis.set_ylabel("accuracy", color=INK)
    return _svg(figure, "accuracy against tokens with error bars")


def _levels(axis: Any, rows: Sequence[EvalRow], colour: str, side: str) -> None:
    points = []
    for level in sorted({row.level for row in rows if row.level is not None}):
        chosen = [row for row in rows if row.level == level]
        accuracy = _spread([float(row.correct) for row in chosen], [row.problem_id for row in chosen])
        tokens = _spread([float(row.completion_tokens) for row in chosen], [row.problem_id for row in chosen])
        axis.errorbar(tokens[0], accuracy[0], xerr=tokens[1], yerr=accuracy[1], fmt="o", color=colour, capsize=2)
        axis.annotate(str(level), (tokens[0], accuracy[0]), xytext=(4, 4), textcoords="offset points", color=INK)
        points.append((tokens[0], accuracy[0]))
    if points:
        axis.plot(*zip(*points, strict=True), color=colour, linewidth=1, alpha=0.6, label=side)


def _spread(values: list[float], problems: list[str]) -> tuple[float, float]:
    """Return mean and half a t interval over problem means."""
    from scipy import stats

    names = sorted(set(problems))
    means = np.array([np.mean([v for v, p in zip(values, problems, strict=True) if p == name]) for name in names])
    if len(means) < 2:
        return float(means.mean()), 0.0
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
    return float(means.mean()), float(half)
