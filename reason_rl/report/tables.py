"""The result tables, for the terminal and, as plain cells, for the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

NAMES = {
    "accuracy": "accuracy",
    "completion_tokens": "completion tokens",
    "think_tokens": "think tokens",
    "share_cut": "share cut",
}
SHARES = frozenset({"accuracy", "share_cut"})


def figure(metric: str, value: Mapping[str, float], signed: bool = False) -> str:
    """Write an estimate with its interval; shares in percent (differences in points), lengths in tokens."""
    scale, digits = (100.0, 1) if metric in SHARES else (1.0, 1)
    sign = "+" if signed else ""
    mean, low, high = (f"{value[key] * scale:{sign}.{digits}f}" for key in ("mean", "low", "high"))
    unit = ("" if signed else " %") if metric in SHARES else ""
    return f"{mean}{unit} [{low}, {high}]"


def summary_cells(summary: Mapping[str, Any]) -> list[list[str]]:
    """Return one row a metric: name, before, after, paired difference."""
    rows = []
    for metric, name in NAMES.items():
        value = summary["metrics"][metric]
        difference = figure(metric, value["difference"], signed=True) + (" points" if metric in SHARES else "")
        rows.append([name, figure(metric, value["before"]), figure(metric, value["after"]), difference])
    cut = summary["token_cut"]
    rows.append(["tokens saved", "", "", f"{cut['mean']:.1%} [{cut['low']:.1%}, {cut['high']:.1%}]"])
    return rows


def caption(summary: Mapping[str, Any]) -> str:
    """Say how the figures were made."""
    sampling = summary["sampling"]
    return (
        f"{summary['problems']} held-out problems x {summary['samples']} samples, cap {sampling['max_tokens']} tokens, "
        f"temperature {sampling['temperature']}, top-p {sampling['top_p']}; cut answers count as wrong; 95 % intervals, "
        "bootstrap over problems, differences paired"
    )


def summary_table(summary: Mapping[str, Any]) -> Table:
    """Return the table that a run ends with."""
    table = Table(caption=caption(summary))
    for heading in ("", "before", "after", "paired difference"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in summary_cells(summary):
        table.add_row(*row)
    return table


def level_cells(summary: Mapping[str, Any]) -> list[list[str]]:
    """Return one row a level: accuracy and completion tokens before and after."""
    rows = []
    for level, before in summary["before"]["levels"].items():
        after = summary["after"]["levels"][level]
        rows.append(
            [
                level,
                *(f"{side['accuracy']:.1%}" for side in (before, after)),
                *(f"{side['completion_tokens']:.1f}" for side in (before, after)),
            ]
        )
    return rows


def level_table(summary: Mapping[str, Any]) -> Table:
    """Return accuracy and tokens by difficulty."""
    table = Table()
    for heading in ("level", "accuracy before", "after", "tokens before", "after"):
        table.add_column(heading, justify="right")
    for row in level_cells(summary):
        table.add_row(*row)
    return table
