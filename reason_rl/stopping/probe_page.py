"""Report pages of probes: how well one tells, what its threshold guarantees, and what it does to other problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reason_rl.report.figure import AFTER, BEFORE, SOFT, make_figure, render, themed
from reason_rl.stopping.artefact import Certificate
from reason_rl.stopping.page import Page, Part, Rows, percent

LEVEL_COLUMNS = ("level", "traces", "exits", "went bad", "put right", "tokens saved")
BAD = {"harm": "right answers lost", "disagreement": "answers changed"}


def probe_page(figures: Mapping[str, Any], target: str) -> Page:
    """Return the page of a fitted probe; all of it on held-out problems."""
    lead = (
        f"{figures['cues']} cues of {figures['problems']} problems; a fifth of the problems was held out. There "
        f"{figures['base_rate']:.1%} of exits are {target}."
    )
    rows = (
        ("area under the curve (AUC)", f"{figures['auc']:.3f}"),
        ("right at one half", percent(figures["accuracy"])),
        ("problems without a cue", str(figures["problems_without_cues"])),
        ("completion tokens of the traces", str(figures["completion_tokens"])),
        ("tokens that the labels took", str(figures["label_tokens"])),
    )
    parts = (
        Part("Reliability on held-out problems", _reliability(figures["reliability"], target)),
        Part("Figures", columns=("", "value"), rows=rows),
    )
    return Page(f"A probe with AUC {figures['auc']:.2f}", lead, (), parts)


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
    names = {"exits": "exits", "harm": BAD["harm"], "help": "wrong answers put right", "accuracy": "accuracy"}
    if guarantee.loss != "harm":
        names["bad"] = BAD[guarantee.loss]
    shares = [
        (label, percent(outcome[name]["share"]), f"{percent(outcome[name]['low'])} to {percent(outcome[name]['high'])}")
        for name, label in names.items()
    ]
    full = outcome["full_accuracy"]
    shares.append(
        ("accuracy of full traces", percent(full["share"]), f"{percent(full['low'])} to {percent(full['high'])}")
    )
    tokens = (
        ("tokens with exits", f"{outcome['tokens']:.1f}", ""),
        ("tokens of full traces", f"{outcome['full_tokens']:.1f}", ""),
    )
    bad = BAD[guarantee.loss]
    parts = (
        Part("Outcome", columns=("", "value", "95 % limits"), rows=(*shares, *tokens)),
        Part(
            "Risk and savings by threshold",
            _risk_curve(figures["risk_coverage"], guarantee.threshold, guarantee.risk, bad),
        ),
        Part("Risk against coverage", _coverage(figures["risk_coverage"], guarantee.risk, bad)),
        Part("Reliability of the probe", _reliability(figures["reliability"], figures["target"])),
        Part("By difficulty", columns=LEVEL_COLUMNS, rows=_levels(figures["exits_by_level"])),
    )
    return Page(f"{outcome['saved']:.0%} fewer completion tokens by early exits", guarantee.statement(), notes, parts)


def check_page(result: Mapping[str, Any]) -> Page:
    """Return the page of certified thresholds on other problems."""
    reasons = [f"another {name}" for name in result["other_conditions"]] + result["other_problems"]
    lead = f"{result['traces']} traces; " + (
        f"nothing is promised for them: {'; '.join(reasons)}."
        if reasons
        else "problems that come like the calibration's."
    )
    rows = tuple(
        (
            f"{row['risk']:g}",
            "no exits" if row["threshold"] is None else f"{row['threshold']:.4f}",
            *(
                f"{percent(row[n]['share'])} [{percent(row[n]['low'])}, {percent(row[n]['high'])}]"
                for n in ("bad", "help")
            ),
            percent(row["exits"]["share"]),
            percent(row["saved"]),
        )
        for row in result["risks"]
    )
    bad = BAD[result["loss"]]
    columns = ("risk", "threshold", f"{bad} [95 %]", "put right [95 %]", "exits", "tokens saved")
    parts = (
        Part("Certified levels", columns=columns, rows=rows),
        Part("Risk against coverage", _coverage(result["risk_coverage"], None, bad)),
        Part(
            f"By difficulty, risk {result['certified_risk']:g}", columns=LEVEL_COLUMNS, rows=_levels(result["by_level"])
        ),
    )
    return Page("Certified thresholds on other problems", lead, (), parts)


def _levels(by_level: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (level, str(row["traces"]), *(percent(row[name]) for name in ("exits", "bad", "help", "saved")))
        for level, row in by_level.items()
    )


@themed
def _risk_curve(rows: Rows, threshold: float, risk: float, bad: str) -> str | None:
    if not rows:
        return None
    figure, (axis,) = make_figure(1, 1, 3.2)
    for name, colour, label in (("saved", AFTER, "tokens saved"), ("bad", BEFORE, bad)):
        axis.plot([row["threshold"] for row in rows], [row[name] for row in rows], color=colour, label=label)
    axis.axvline(threshold, color=SOFT, linewidth=1)
    axis.axhline(risk, color=SOFT, linewidth=1, linestyle=(0, (3, 3)))
    axis.set_xlabel("threshold")
    axis.yaxis.set_major_formatter("{x:.0%}")
    axis.legend()
    return render(figure, "risk", f"Share of tokens saved and of {bad} over thresholds")


@themed
def _coverage(rows: Rows, risk: float | None, bad: str) -> str | None:
    if not rows:
        return None
    figure, (axis,) = make_figure(1, 1, 3.2)
    axis.plot([row["exits"] for row in rows], [row["bad"] for row in rows], "o-", color=BEFORE, markersize=3)
    if risk is not None:
        axis.axhline(risk, color=SOFT, linewidth=1, linestyle=(0, (3, 3)))
    axis.set_xlabel("share of traces that exit")
    axis.set_ylabel(bad)
    axis.xaxis.set_major_formatter("{x:.0%}")
    axis.yaxis.set_major_formatter("{x:.0%}")
    return render(figure, "coverage", f"Share of {bad} over the share of traces that exit")


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
