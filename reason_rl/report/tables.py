"""The result tables: text of each figure, rich tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.table import Table

NAMES = {
    "accuracy": "accuracy",
    "completion_tokens": "completion tokens",
    "think_tokens": "think tokens",
    "share_cut": "share cut",
}
SHARES = frozenset({"accuracy", "share_cut"})
SIDES = ("before", "after", "difference")
Estimate = Mapping[str, float | None]
Summary = Mapping[str, Any]


class Figure(NamedTuple):
    """A printed estimate: the value, its unit, and its 95 % interval ("" when there is none)."""

    value: str
    unit: str
    interval: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.value + self.unit, self.interval) if part)


def parts(metric: str, estimate: Estimate, signed: bool = False) -> Figure:
    """Print an estimate: shares in percent (differences in points), lengths in tokens.

    >>> str(parts("accuracy", {"mean": 0.8125, "low": 0.75, "high": 0.875}))
    '81.2 % [75.0, 87.5]'
    >>> str(parts("think_tokens", {"mean": -42.0, "low": -50.5, "high": -33.5}, signed=True))
    '-42.0 [-50.5, -33.5]'
    """
    scale = 100.0 if metric in SHARES else 1.0
    unit = " %" if metric in SHARES and not signed else ""
    return _figure(estimate, scale, unit, "+" if signed else "")


def cut_parts(estimate: Estimate) -> Figure:
    """Print a relative cut of tokens in percent.

    >>> str(cut_parts({"mean": 0.5, "low": 0.45, "high": 0.55}))
    '50.0 % [45.0, 55.0]'
    """
    return _figure(estimate, 100.0, " %", "")


def _figure(estimate: Estimate, scale: float, unit: str, sign: str) -> Figure:
    mean, low, high = (estimate[key] for key in ("mean", "low", "high"))
    if mean is None:
        return Figure("\N{EN DASH}", "", "")
    interval = "" if low is None or high is None else f"[{_number(low * scale, sign)}, {_number(high * scale, sign)}]"
    return Figure(_number(mean * scale, sign), unit, interval)


def _number(value: float, sign: str) -> str:
    """Return one decimal; what rounds to zero has no sign."""
    text = f"{value:{sign}.1f}"
    return "0.0" if float(text) == 0 else text


def figure(metric: str, value: Estimate, signed: bool = False) -> str:
    """Return an estimate with its interval as one string."""
    return str(parts(metric, value, signed))


def points(metric: str) -> str:
    """Return the unit of a difference."""
    return " points" if metric in SHARES else ""


def summary_cells(summary: Summary) -> list[list[str]]:
    """Return one row a metric: name, before, after, paired difference; and the share of tokens saved."""
    rows = []
    for metric, name in NAMES.items():
        estimates = summary["metrics"][metric]
        cells = [figure(metric, estimates[side], signed=side == "difference") for side in SIDES]
        rows.append([name, cells[0], cells[1], cells[2] + points(metric)])
    rows.append(["tokens saved", "", "", str(cut_parts(summary["token_cut"]))])
    return rows


def caption(summary: Summary) -> str:
    """Say how the figures were made: no figure on token savings means anything without cap, samples and temperature."""
    sampling, samples = summary["sampling"], summary["samples"]
    top_k = f", top-k {sampling['top_k']}" if sampling["top_k"] else ""
    return (
        f"{summary['problems']:,} problems \N{MULTIPLICATION SIGN} {samples} {'sample' if samples == 1 else 'samples'}, "
        f"cap {sampling['max_tokens']:,} tokens, temperature {sampling['temperature']:g}, "
        f"top-p {sampling['top_p']:g}{top_k}; cut answers count as wrong; "
        f"brackets: {100 * summary['confidence']:g} % intervals, bootstrap over problems, differences paired"
    )


def summary_table(summary: Summary) -> Table:
    """Return the table that a run ends with; intervals have a line of their own, so that 80 columns are enough."""
    rows = [[_two_lines(cell) for cell in row] for row in summary_cells(summary)]
    return _table(("", "before", "after", "paired difference"), rows, caption(summary))


def _two_lines(cell: str) -> str:
    """Put the interval under the value.

    >>> _two_lines("+4.0 [+2.0, +6.0] points")
    '+4.0 points\\n[+2.0, +6.0]'
    """
    value, bracket, rest = cell.partition(" [")
    interval, _, unit = rest.partition("]")
    return f"{value}{unit}\n[{interval}]" if bracket else cell


def level_cells(summary: Summary) -> list[list[str]]:
    """Return one row a level: problems, accuracy before, after and difference, tokens before, after and saved."""
    rows = []
    for level, part in summary["levels"].items():
        accuracy, tokens = (part["metrics"][metric] for metric in ("accuracy", "completion_tokens"))
        rows.append(
            [
                level,
                str(part["problems"]),
                *(_bare("accuracy", accuracy[side]) for side in ("before", "after")),
                figure("accuracy", accuracy["difference"], signed=True),
                *(_bare("completion_tokens", tokens[side]) for side in ("before", "after")),
                str(cut_parts(part["token_cut"])),
            ]
        )
    return rows


def _bare(metric: str, estimate: Estimate) -> str:
    """Return an estimate without its interval."""
    return str(parts(metric, estimate)._replace(interval=""))


def level_table(summary: Summary) -> Table:
    """Return accuracy and completion tokens by difficulty."""
    headings = (
        "level",
        "problems",
        "accuracy before",
        "after",
        "difference, points",
        "tokens before",
        "after",
        "saved",
    )
    return _table(headings, level_cells(summary), "")


def _table(headings: tuple[str, ...], rows: list[list[str]], text: str) -> Table:
    table = Table(caption=text or None)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    return table
