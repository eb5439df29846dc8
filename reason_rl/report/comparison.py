"""The table of `compare`: one column a model, one line a metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from reason_rl.report.tables import caption, cut_parts, figure

Entry = Mapping[str, Any]
NONE = "\N{EN DASH}"


def comparison_table(result: Mapping[str, Any]) -> Table:
    """Return the table of a comparison: the start model and each run, differences where they are paired."""
    entries = result["runs"]
    first = entries[0]
    table = Table(caption=_caption(first, result["pareto"], entries))
    table.add_column("")
    for name in ("start", *(entry["name"] for entry in entries)):
        table.add_column(name, justify="right", overflow="fold")
    for label, start, cells in lines(result):
        table.add_row(label, start, *cells)
    return table


def lines(result: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Return the lines of the table: name and unit of a metric, the start model's cell, a cell a run."""
    entries: Sequence[Entry] = result["runs"]
    rows = []

    def both(label: str, cell: Any) -> None:
        rows.append((label, cell(entries[0], "start"), [cell(entry, "run") for entry in entries]))

    def paired(label: str, cell: Any) -> None:
        rows.append((label, "", [cell(entry) for entry in entries]))

    k = entries[0]["start"]["k"]
    both(f"accuracy, avg@{k}", lambda entry, side: figure("accuracy", entry[side]["average_at_k"]))
    paired("  change, points", lambda e: figure("accuracy", e["metrics"]["accuracy"]["difference"], signed=True))
    paired("  p of no change (Holm)", lambda entry: _number(entry["trade"]["p_value_holm"], 4))
    paired(f"  held within {_margin(entries[0])}", lambda e: "yes" if e["trade"]["noninferiority"]["held"] else "no")
    both(f"pass@{k}", lambda entry, side: figure("accuracy", entry[side]["pass_at_k"]))
    both(f"maj@{k}", lambda entry, side: figure("accuracy", entry[side]["majority_at_k"]))
    both("  tokens of the votes", lambda entry, side: _number(entry[side]["majority_at_k"]["tokens"], 1))
    for metric in ("completion_tokens", "think_tokens", "answer_tokens", "share_cut"):
        name = metric.replace("_", " ")
        both(name, lambda e, side, m=metric: figure(m, e["metrics"][m]["before" if side == "start" else "after"]))
        if metric == "completion_tokens":
            paired("  saved", lambda entry: str(cut_parts(entry["token_cut"])))
            both("  median", lambda entry, side: _summary(entry, side, "median_completion_tokens"))
            both("  of right answers", lambda entry, side: _part(entry, side, "right"))
            both("  of wrong answers", lambda entry, side: _part(entry, side, "wrong"))
    for share in entries[0]["trade"]["matched_saving"]:
        label = f"saved at {100 * float(share):g} % of start's accuracy"
        paired(label, lambda entry, s=share: _open(entry["trade"]["matched_saving"][s]))
    paired("AES (1, 3, 5)", lambda entry: estimate_text(entry["trade"]["aes"], 3))
    both("E3, percent\N{SUPERSCRIPT TWO} a token", lambda entry, side: _number(entry[side]["e3"], 3))
    both("tokens a right answer", lambda entry, side: _number(entry[side]["tokens_per_pass"], 1))
    if any(entry[side]["dollars_per_pass"] is not None for entry in entries for side in ("start", "run")):
        both("dollars a right answer", lambda entry, side: _number(entry[side]["dollars_per_pass"], 6))
    both("area under accuracy, log cap", lambda entry, side: _area(entry[side]["anytime"]))
    both("wrong / right tokens, within", lambda entry, side: _number(entry[side]["length_gap"]["ratio"], 2))
    both(
        f"right within {entries[0]['start']['thinking']['pass_at_tokens']['budget_tokens']:,.0f} tokens",
        lambda entry, side: figure("accuracy", entry[side]["thinking"]["pass_at_tokens"]),
    )
    both("overthinking area", lambda entry, side: _number(entry[side]["thinking"]["overthinking_area"], 3))
    both("with reflection words, %", lambda entry, side: _number(100 * entry[side]["reflection"]["share"], 1))
    if "ideal_cost" in entries[0]:
        rows += _ideal_lines(entries)
    on = set(result["pareto"]["frontier"])
    both("on the Pareto frontier", lambda e, side: "yes" if ("start" if side == "start" else e["name"]) in on else "no")
    return rows


def _ideal_lines(entries: Sequence[Entry]) -> list[tuple[str, str, list[str]]]:
    rows = []
    for key, name in (
        ("flops", "ideal FLOPs a sequence"),
        ("seconds_batch_1", "ideal seconds, batch 1"),
        ("seconds_batch_64", "ideal seconds, batch 64"),
    ):
        costs = [entry["ideal_cost"][key] for entry in entries]
        rows.append(
            (name, f"{costs[0]['start']:.3g}", [f"{cost['run']:.3g} ({cost['saved']:.1%} saved)" for cost in costs])
        )
    return rows


def _caption(entry: Entry, pareto: Mapping[str, Any], entries: Sequence[Entry]) -> str:
    volume = estimate_text(pareto["hypervolume"], 1)
    text = (
        f"{caption(entry)}; matched accuracy: caps lowered in one evaluation; hypervolume {volume} tokens x accuracy to "
        f"{pareto['reference']['tokens']:,.0f} tokens"
    )
    odd = [f"{e['name']}: {difference}" for e in entries for difference in e["differences"]]
    return text + "".join(f"\nNOT THE SAME CONDITIONS: {line}" for line in odd)


def _margin(entry: Entry) -> str:
    margin = 100 * entry["trade"]["noninferiority"]["margin"]
    return f"{margin:g} point" + ("" if margin == 1 else "s")


def _summary(entry: Entry, side: str, name: str) -> str:
    return _number(entry["before" if side == "start" else "after"][name], 1)


def _part(entry: Entry, side: str, part: str) -> str:
    return _number(entry["before" if side == "start" else "after"][part].get("completion_tokens"), 1)


def _area(area: Mapping[str, float] | None) -> str:
    return _number(None if area is None else area["log"], 3)


def _number(value: float | None, digits: int) -> str:
    """Print a number with thousands separators, or a dash for what does not exist.

    >>> _number(1234.567, 1), _number(None, 1)
    ('1,234.6', '–')
    """
    return NONE if value is None else f"{value:,.{digits}f}"


def _open(value: Mapping[str, float | None]) -> str:
    """Print a cut whose interval may be open below: some resamples never reach the accuracy.

    >>> _open({"mean": 0.5, "low": None, "high": 0.75})
    '50.0 % [–, 75.0]'
    """
    if value["low"] is None and value["high"] is not None:
        return f"{cut_parts({**value, 'high': None})} [{NONE}, {100 * value['high']:.1f}]"
    return str(cut_parts(value))


def estimate_text(value: Mapping[str, float | None], digits: int) -> str:
    """Print an estimate with its interval.

    >>> estimate_text({"mean": 0.5, "low": 0.25, "high": 0.75}, 2)
    '0.50 [0.25, 0.75]'
    """
    text = _number(value["mean"], digits)
    if value["low"] is None:
        return text
    return f"{text} [{_number(value['low'], digits)}, {_number(value['high'], digits)}]"
