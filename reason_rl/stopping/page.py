"""Report pages of the stopping commands: one offline HTML file each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reason_rl.report.figure import AFTER, BEFORE, SOFT, make_figure, render, themed
from reason_rl.stopping.artefact import Certificate

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


def certificate_page(certificate: Certificate) -> Page:
    """Return the page of a certified threshold."""
    figures, guarantee = certificate.figures, certificate.guarantee
    outcome = figures["on_calibration_problems"]
    per_cue = figures["per_cue"]
    notes = (
        "The figures below are those of the calibration problems, which chose the threshold; other problems will differ.",
        f"For comparison, the per-cue rule at the same level: threshold {per_cue['threshold']:.4f}. {per_cue['statement']}"
        if "threshold" in per_cue
        else f"For comparison, the per-cue rule at the same level is refused: {per_cue['refused']}.",
    )
    names = {"exits": "exits", "harm": "right answers lost", "help": "wrong answers put right", "accuracy": "accuracy"}
    shares = [
        (label, _share(outcome[name]["share"]), f"{_share(outcome[name]['low'])} to {_share(outcome[name]['high'])}")
        for name, label in names.items()
    ]
    full = outcome["full_accuracy"]
    shares.append(
        ("accuracy of full traces", _share(full["share"]), f"{_share(full['low'])} to {_share(full['high'])}")
    )
    tokens = (
        ("tokens with exits", f"{outcome['tokens']:.1f}", ""),
        ("tokens of full traces", f"{outcome['full_tokens']:.1f}", ""),
    )
    levels = tuple(
        (level, str(row["traces"]), *(_share(row[name]) for name in ("exits", "harm", "help", "saved")))
        for level, row in figures["exits_by_level"].items()
    )
    parts = (
        Part("Outcome", columns=("", "value", "95 % limits"), rows=(*shares, *tokens)),
        Part(
            "Risk and savings by threshold", _risk_curve(figures["risk_coverage"], guarantee.threshold, guarantee.risk)
        ),
        Part("Reliability of the probe", _reliability(figures["reliability"], figures["target"])),
        Part("By difficulty", columns=("level", "traces", "exits", "lost", "put right", "tokens saved"), rows=levels),
    )
    return Page(f"{outcome['saved']:.0%} fewer completion tokens by early exits", guarantee.statement(), notes, parts)


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
            _share(run["accuracy"]),
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


def _share(value: float) -> str:
    return f"{value * 100:.1f} %"


def _points(value: float) -> str:
    return f"{value * 100:+.1f}"


def _row(name: str, p: Mapping[str, Any]) -> tuple[str, ...]:
    change = p["accuracy_change"]
    interval = "" if change["low"] is None else f" [{_points(change['low'])}, {_points(change['high'])}]"
    lengths = ["" if p[key] is None else f"{p[key]:.1f}" for key in ("tokens", "tokens_right", "tokens_wrong")]
    return (name, _share(p["accuracy"]), *lengths, _share(p["cut"]), f"{_points(change['mean'])}{interval}")


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


@themed
def _risk_curve(rows: Rows, threshold: float, risk: float) -> str | None:
    if not rows:
        return None
    figure, (axis,) = make_figure(1, 1, 3.2)
    for name, colour, label in (("saved", AFTER, "tokens saved"), ("harm", BEFORE, "right answers lost")):
        axis.plot([row["threshold"] for row in rows], [row[name] for row in rows], color=colour, label=label)
    axis.axvline(threshold, color=SOFT, linewidth=1)
    axis.axhline(risk, color=SOFT, linewidth=1, linestyle=(0, (3, 3)))
    axis.set_xlabel("threshold")
    axis.yaxis.set_major_formatter("{x:.0%}")
    axis.legend()
    return render(figure, "risk", "Share of tokens saved and of right answers lost over thresholds")


@themed
def _reliability(rows: Rows, target: str) -> str | None:
    if not rows:
        return None
    figure, (axis,) = make_figure(1, 1, 3.2)
    axis.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (3, 3)))
    axis.plot([row["score"] for row in rows], [row["right"] for row in rows], "o-", color=AFTER)
    axis.set_xlabel("score of the probe")
    axis.set_ylabel(f"share of exits that are {target}")
    axis.yaxis.set_major_formatter("{x:.0%}")
    return render(figure, "reliability", "Share of right exits over the probe's score")
