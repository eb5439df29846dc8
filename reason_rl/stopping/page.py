"""Report pages of the stopping commands: one offline HTML file each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reason_rl.report.figure import AFTER, BEFORE, SOFT, make_figure, render, themed

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Part:
    """A section: a drawing with its caption, a table, or both."""

    title: str
    figure: str | None = None
    caption: str | None = None
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Page:
    """A page: what came out, what holds of it, and the sections that show it."""

    title: str
    lead: str
    notes: tuple[str, ...]
    parts: tuple[Part, ...]


def write_page(path: Path, page: Page) -> None:
    """Write a page as one file without references."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader

    packages = ("reason_rl.stopping", "reason_rl.report")
    loader = ChoiceLoader([PackageLoader(package, "templates") for package in packages])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(environment.get_template("stopping.html.j2").render(page=page), encoding="utf-8")


def strength_page(result: Mapping[str, Any]) -> Page:
    """Return the page of a sweep of strengths."""
    chosen, sampling = result["chosen"], result["sampling"]
    change = chosen["accuracy_change"]
    lead = f"{chosen['tokens']:.1f} completion tokens at {chosen['accuracy']:.1%} accuracy"
    if change["low"] is not None:
        lead += f"; against strength 1 {_points(change['mean'])} points [{_points(change['low'])}, {_points(change['high'])}]"
    notes = (
        f"{result['problems']} problems x {sampling['samples']} samples, cap {sampling['max_tokens']} completion tokens, "
        f"temperature {sampling['temperature']:g}, top-p {sampling['top_p']:g}; cut answers count as wrong; 95 % intervals, "
        "bootstrap over problems, paired.",
        "Strengths are tried upwards until one loses more than 1 point, or more than 2 by its interval.",
    )
    columns = ("setting", "accuracy", "completion tokens", "right", "wrong", "cut", "accuracy change (points)")
    rows = [_row(f"strength {p['setting']:g}", p) for p in result["strengths"]]
    rows += [_row(f"budget {p['setting']:g} think tokens", p) for p in result["budgets"]]
    parts = [
        Part("Accuracy against tokens", _curve(result), _advantages(result)),
        Part("Figures", columns=columns, rows=tuple(rows)),
    ]
    return Page(f"Stopping strength {chosen['setting']:g}", lead + ".", notes, tuple(parts))


def comparison_page(result: Mapping[str, Any]) -> Page:
    """Return the page of all rules side by side."""
    setting, runs = result["setting"], result["runs"]
    notes = (
        f"{setting['problems']} problems x {setting['samples']} samples, cap {setting['max_tokens']} completion tokens, "
        f"temperature {setting['temperature']:g}, top-p {setting['top_p']:g}; cut answers count as wrong; 95 % intervals "
        "over problems, paired with full traces.",
        "Net tokens are completion tokens and all that a rule feeds and decodes on the side.",
    )
    matched = tuple((rule, _estimate(value, "%")) for rule, value in result["saved_at_one_point_less"].items())
    rows = tuple(
        (
            f"{run['rule']} {run['setting']}".strip(),
            percent(run["accuracy"]),
            _estimate(run["accuracy_change"], ""),
            f"{run['completion_tokens']:.1f}",
            f"{run['net_tokens']:.1f}",
            _estimate(run["net_saved"], "%"),
        )
        for run in runs
    )
    columns = ("rule", "accuracy", "change (points)", "completion tokens", "net tokens", "net tokens saved")
    best = next((rule for rule in matched if not rule[0].startswith("no rule")), ("no rule", "nothing"))
    parts = (
        Part("Accuracy against net tokens", _clouds(runs)),
        Part("Saved where a rule is one point less accurate", columns=("rule", "net tokens saved"), rows=matched),
        Part("All settings", columns=columns, rows=rows),
    )
    return Page("Stopping rules side by side", f"Most at matched accuracy: {best[0]}, {best[1]}.", notes, parts)


def _estimate(value: Mapping[str, float | None], unit: str) -> str:
    mean, low, high = (
        None if value[name] is None else 100 * float(value[name] or 0) for name in ("mean", "low", "high")
    )
    if mean is None:
        return "not reached"
    ends = "" if low is None or high is None else f" [{low:+.1f}, {high:+.1f}]"
    return f"{mean:+.1f}{' ' + unit if unit else ''}{ends}"


@themed
def _clouds(runs: Rows) -> str:
    figure, (axis,) = make_figure(1, 1, 4.2)
    rules = list(dict.fromkeys(run["rule"] for run in runs))
    for rule in rules:
        points = sorted((run["net_tokens"], run["accuracy"]) for run in runs if run["rule"] == rule)
        ours = rule.startswith("probe")
        colour = AFTER if ours else BEFORE if rule == "full traces" else SOFT
        axis.plot(*zip(*points, strict=True), "o-", color=colour, linewidth=1.6 if ours else 0.8, markersize=3.5)
        # At the cheapest setting, where the rules lie furthest apart.
        name = rule.split(" (")[0].split(":")[0]
        axis.annotate(name, points[0], (5, -9), textcoords="offset points", color=SOFT, fontsize=7)
    axis.set_xlabel("net tokens, mean")
    axis.yaxis.set_major_formatter("{x:.0%}")
    return render(figure, "rules", "Accuracy of each rule against its net tokens")


def percent(value: float) -> str:
    """Return a share in percent."""
    return f"{value * 100:.1f} %"


def _points(value: float) -> str:
    return f"{value * 100:+.1f}"


def _row(name: str, p: Mapping[str, Any]) -> tuple[str, ...]:
    change = p["accuracy_change"]
    interval = "" if change["low"] is None else f" [{_points(change['low'])}, {_points(change['high'])}]"
    lengths = ["" if p[key] is None else f"{p[key]:.1f}" for key in ("tokens", "tokens_right", "tokens_wrong")]
    return (name, percent(p["accuracy"]), *lengths, percent(p["cut"]), f"{_points(change['mean'])}{interval}")


def _advantages(result: Mapping[str, Any]) -> str | None:
    found = {s: a for s, a in result["advantage_at_equal_tokens"].items() if a is not None and a["low"] is not None}
    if not found:
        return None
    texts = [
        f"strength {s}: {_points(a['mean'])} [{_points(a['low'])}, {_points(a['high'])}]" for s, a in found.items()
    ]
    return f"Accuracy above budget forcing at equal completion tokens, in points: {'; '.join(texts)}."


@themed
def _curve(result: Mapping[str, Any]) -> str:
    figure, (axis,) = make_figure(1, 1, 3.4)
    for points, colour, label in (
        (result["strengths"], AFTER, "scaled stop"),
        (result["budgets"], BEFORE, "budget forcing"),
    ):
        if points:
            axis.plot([p["tokens"] for p in points], [p["accuracy"] for p in points], "o-", color=colour, label=label)
            for p in points:
                axis.annotate(
                    f"{p['setting']:g}", (p["tokens"], p["accuracy"]), (0, 7), textcoords="offset points", color=SOFT
                )
    axis.set_xlabel("completion tokens, mean")
    axis.yaxis.set_major_formatter("{x:.0%}")
    axis.legend()
    return render(figure, "curve", "Accuracy against completion tokens for each strength")
