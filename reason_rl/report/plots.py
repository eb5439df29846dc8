"""The page's plots: learning curves, lengths by correctness, accuracy against tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from reason_rl.evaluate.records import EvalRow
from reason_rl.report.figure import AFTER, BEFORE, INK, PAPER, SOFT, WRONG, make_figure, render, themed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS_A_ROW = 3
BINS = 48
DASHED = (0, (3, 3))
ROOM = 0.2  # share of the axis kept free for the number at a curve's end
Summary = Mapping[str, Any]


class Curve(NamedTuple):
    """A panel of the learning curves: title, format of a value, whether the axis starts at zero, what it shows at least."""

    title: str
    form: str = "{:.2f}"
    from_zero: bool = False
    at_least: tuple[float, float] | None = None


CURVES = {
    "reward": Curve("Reward"),
    "accuracy": Curve("Accuracy of rollouts", "{:.0%}"),
    "completion_tokens": Curve("Completion tokens", "{:.0f}", True),
    "think_tokens": Curve("Think tokens", "{:.0f}", True),
    "share_cut": Curve("Share cut at the budget", "{:.0%}", True),
    "groups_kept": Curve("Groups kept of those drawn", "{:.0%}", True),
    "entropy": Curve("Entropy (nats a token)", "{:.3f}"),
    "kl": Curve("KL to the reference", "{:.3f}", True),
    "attention_kl": Curve("Divergence of attention from the prior"),
    "guardian_tau": Curve("Guardian's temperature", at_least=(0.9, 1.1)),
    "importance_ratio_mean": Curve("Importance ratio, mean", "{:.3f}", at_least=(0.9, 1.1)),
}


@themed
def learning_curves(history: Sequence[Mapping[str, Any]]) -> str | None:
    """Draw one small panel a metric over optimizer steps; None when no row has a metric that is drawn."""
    points = {name: _points(history, name) for name in CURVES}
    shown = [name for name in CURVES if points[name]]
    if not shown:
        return None
    rows = math.ceil(len(shown) / PANELS_A_ROW)
    figure, axes = make_figure(rows, PANELS_A_ROW, 2.05 * rows + 0.25)
    for axis, name in zip(axes, shown, strict=False):
        budget = _points(history, "budget_tokens") if name == "completion_tokens" else []
        if budget:
            axis.plot(*zip(*budget, strict=True), color=SOFT, linewidth=1, linestyle=DASHED)
        _curve(axis, CURVES[name], points[name])
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    for axis in axes[max(0, len(shown) - PANELS_A_ROW) : len(shown)]:
        axis.set_xlabel("optimizer step")
    return render(figure, "curves", "Learning curves: training metrics over optimizer steps")


def _points(history: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """Return (step, value) where the value is a finite number."""
    found = []
    for row in history:
        value = row.get(name)
        if name == "groups_kept" and value is not None:
            value = value / row["groups_drawn"] if row.get("groups_drawn") else None
        if value is not None and math.isfinite(value):
            found.append((float(row["step"]), float(value)))
    return found


def _curve(axis: Axes, curve: Curve, points: Sequence[tuple[float, float]]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    steps, values = zip(*points, strict=True)
    axis.plot(steps, values, color=AFTER)
    axis.plot(steps[-1:], values[-1:], "o", color=AFTER, markersize=4)
    axis.annotate(
        _text(curve, values[-1]), points[-1], xytext=(6, 0), textcoords="offset points", va="center", fontsize=9.5
    )
    axis.set_title(curve.title)
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(4))
    span = (steps[-1] - steps[0]) or 1.0
    axis.set_xlim(steps[0] - 0.03 * span, steps[-1] + ROOM * span)
    if curve.at_least:
        axis.set_ylim(min(curve.at_least[0], *values), max(curve.at_least[1], *values))
    if curve.from_zero:
        axis.set_ylim(0, 1.08 * max(axis.get_ylim()[1], 1e-6))
    if "%" in curve.form:
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _text(curve, value)))


def _text(curve: Curve, value: float) -> str:
    return curve.form.format(value).replace("%", "\xa0%")


@themed
def length_histogram(before: Sequence[EvalRow], after: Sequence[EvalRow], cap: int | None = None) -> str:
    """Draw completion tokens, right and wrong stacked, one panel a side that has rows, on common axes."""
    sides = [(name, rows) for name, rows in (("Before", before), ("After", after)) if rows]
    figure, axes = make_figure(len(sides), 1, 1.75 * len(sides) + 0.5, (0.0, 0.45), sharex=True, sharey=True)
    longest = max(row.completion_tokens for _, rows in sides for row in rows)
    bins = np.arange(0.5, longest + 1.5, max(1, round(longest / BINS)))
    bins = np.append(bins, bins[-1] + max(1, round(longest / BINS)))
    for axis, (name, rows) in zip(axes, sides, strict=True):
        parts = [[row.completion_tokens for row in rows if row.correct is flag] for flag in (True, False)]
        axis.hist(parts, bins=bins.tolist(), stacked=True, color=[AFTER, WRONG], label=["right", "wrong"], rwidth=0.9)
        axis.set_title(name)
        axis.set_ylabel("completions")
        median = float(np.median([row.completion_tokens for row in rows]))
        axis.axvline(median, color=INK, linewidth=1)
        _mark(axis, median, f"median {median:g}", 5, "left")
        if cap is not None and longest > 0.8 * cap:
            axis.axvline(cap, color=SOFT, linewidth=1, linestyle=DASHED)
            _mark(axis, cap, "cap", -5, "right")
    axes[0].legend(loc="upper right", bbox_to_anchor=(1, 1.22), ncols=2, handlelength=0.9, handleheight=0.9)
    axes[-1].set_xlabel("completion tokens")
    axes[-1].set_xlim(0, bins[-1])
    return render(figure, "lengths", "Histogram of completion tokens by correctness, before and after")


def _mark(axis: Axes, x: float, text: str, gap: float, side: str) -> None:
    """Write beside a vertical line, at the top of the panel."""
    line = axis.get_xaxis_transform()
    axis.annotate(
        text, (x, 0.97), xytext=(gap, 0), xycoords=line, textcoords="offset points", va="top", ha=side, fontsize=9.5
    )


@themed
def accuracy_against_tokens(summary: Summary) -> str:
    """Draw accuracy over mean completion tokens with 95 % error bars both ways, overall and by level."""
    from matplotlib.ticker import PercentFormatter

    levels = summary["levels"]
    figure, axes = make_figure(1, 2 if levels else 1, 3.8, sharey=True, width_ratios=[1, 1.7] if levels else [1])
    overall = axes[0]
    _move(overall, summary["metrics"], {"before": "before", "after": "after"})
    overall.set_title("All problems")
    overall.set_xlim(left=0)
    if levels:
        for level, part in levels.items():
            _move(axes[1], part["metrics"], {}, text=level)
        axes[1].set_title("By level")
        _log_ticks(axes[1])
    for axis in axes:
        axis.set_xlabel("completion tokens, mean" + (" (logarithmic)" if axis is not overall else ""))
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    overall.set_ylabel("accuracy")
    return render(figure, "tradeoff", "Accuracy against mean completion tokens, before and after, with 95 % intervals")


def _move(axis: Axes, metrics: Summary, labels: Mapping[str, str], text: str = "") -> None:
    """Draw one group of problems: where it was, where it is, and a line between."""
    where = {
        side: tuple(metrics[name][side]["mean"] for name in ("completion_tokens", "accuracy"))
        for side in ("before", "after")
    }
    axis.plot(*zip(*where.values(), strict=True), color=SOFT, linewidth=0.7, zorder=1)
    for side, colour in (("before", BEFORE), ("after", AFTER)):
        x, y = where[side]
        bars = [bar(metrics[name][side]) for name in ("completion_tokens", "accuracy")]
        axis.errorbar(x, y, xerr=bars[0], yerr=bars[1], fmt="none", ecolor=colour, elinewidth=1.1, zorder=2)
        fill = colour if side == "after" else PAPER
        size = 13 if text else 8
        axis.plot(
            x, y, "o", markersize=size, markerfacecolor=fill, markeredgecolor=colour, markeredgewidth=1.4, zorder=3
        )
        colour_of_text = PAPER if side == "after" else INK
        axis.annotate(text, (x, y), ha="center", va="center_baseline", fontsize=9, color=colour_of_text, zorder=4)
        if side in labels:
            axis.annotate(labels[side], (x, y), xytext=(7, 6), textcoords="offset points", zorder=4)


def bar(estimate: Mapping[str, float | None]) -> list[list[float]]:
    """Return the two arms of an error bar; none without an interval."""
    mean, low, high = estimate["mean"], estimate["low"], estimate["high"]
    if mean is None or low is None or high is None:
        return [[0.0], [0.0]]
    return [[max(0.0, mean - low)], [max(0.0, high - mean)]]


def _log_ticks(axis: Axes) -> None:
    """Make the token axis logarithmic with ticks at 1, 2, 5 times powers of ten, written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
