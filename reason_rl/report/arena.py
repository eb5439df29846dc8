"""The arena's table for the terminal, its page, and its Pareto picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from reason_rl.report.comparison import estimate_text
from reason_rl.report.figure import AFTER, BEFORE, INK, SOFT, make_figure, render, themed
from reason_rl.report.figure_files import standalone
from reason_rl.report.plots import bar
from reason_rl.report.tables import cut_parts, figure
from reason_rl.run_folder import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADINGS = (
    "method",
    "seeds",
    "accuracy",
    "change, points",
    "held",
    "completion tokens",
    "saved",
    "saved, by seed",
    "AES",
    "area",
    "rollout tokens",
    "seconds",
)
LABEL_POINTS = 8.5
LIFTS = (5, -12, 16, -23, 27, -34, 38, -45, 49)  # points above the point
NO_THINK_SHOWN = 0.005  # share
Arena = Mapping[str, Any]


def write_arena(table: Arena, out: Path, command: str) -> None:
    """Write ``table.json``, ``table.md``, ``arena.html`` and ``pareto.svg``."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("reason_rl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = lambda text: str(text).replace("-", "\N{MINUS SIGN}")
    picture = pareto_picture(table)
    levels = list(table["start"]["levels"])
    page = environment.get_template("arena.html.j2").render(
        table=table,
        headings=HEADINGS,
        cells=arena_cells(table),
        levels=levels,
        level_cells=level_cells(table),
        kept_cells=kept_cells(table),
        uniform={
            name: figure("accuracy", entry["difference"], signed=True)
            for name, entry in table["beside_uniform"].items()
        },
        picture=picture,
        command=command,
    )
    write_text(out / "arena.html", page)
    write_text(out / "pareto.svg", standalone(picture))
    write_text(out / "table.md", arena_markdown(table))
    write_text(out / "table.json", json.dumps(table, indent=1) + "\n")


def arena_cells(table: Arena) -> list[list[str]]:
    """Return one row a method, most tokens saved first, after that of the start."""
    start = table["start"]
    rows = [
        [
            "start",
            "",
            figure("accuracy", start["accuracy"]),
            "",
            "",
            figure("completion_tokens", start["completion_tokens"]),
            *["", "", ""],
            f"{start['area']:.3f}",
            "",
            "",
        ]
    ]
    for name, entry in ordered(table):
        saved = entry["token_cut"]
        rows.append(
            [
                name + (" *" if name in table["frontier"] else ""),
                str(entry["seeds"]),
                figure("accuracy", entry["accuracy"]),
                figure("accuracy", entry["accuracy_difference"], signed=True),
                "yes" if entry["accuracy_held"] else "no",
                figure("completion_tokens", entry["completion_tokens"]),
                str(cut_parts(saved)),
                f"{100 * saved['low_seed']:.1f} to {100 * saved['high_seed']:.1f} %",
                estimate_text(entry["aes"], 2),
                f"{entry['area']:.3f}",
                f"{entry['rollout_tokens']:,.0f}",
                f"{entry['seconds']:,.0f}",
            ]
        )
    return rows


def level_cells(table: Arena) -> list[list[str]]:
    """Return accuracy and completion tokens by level, one row a method, and one more for each variant that was asked for."""
    sides = [("start", table["start"])]
    for name, entry in ordered(table):
        sides += [(name, entry), *((f"{name}, asked {variant}", asked) for variant, asked in entry["asked"].items())]
    return [
        [name]
        + [
            f"{100 * part['accuracy']:.0f} % / {part['completion_tokens']:.0f}"
            + (f" ({100 * part['no_think']:.0f} %)" if part["no_think"] >= NO_THINK_SHOWN else "")
            for part in (entry["levels"][level] for level in table["start"]["levels"])
        ]
        for name, entry in sides
    ]


def kept_cells(table: Arena) -> dict[str, list[str]]:
    """Return accuracy and completion tokens of the models kept on the way, by method, in the order they were kept."""
    return {
        name: [f"{k}: {100 * p['accuracy']:.1f} % / {p['completion_tokens']:.0f}" for k, p in entry["kept"].items()]
        for name, entry in ordered(table)
        if entry["kept"]
    }


def ordered(table: Arena) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the methods, most tokens saved first."""
    return sorted(table["methods"].items(), key=lambda item: -item[1]["token_cut"]["mean"])


def arena_markdown(table: Arena) -> str:
    """Return the table in short as Markdown, most tokens saved first; the last column is that of the two hardest levels."""
    hardest = list(table["start"]["levels"])[-2:]
    heads = (
        "method",
        "seeds",
        "accuracy",
        "change, points",
        "completion tokens",
        "saved",
        f"levels {' / '.join(hardest)}",
    )
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for name, entry in (("start", table["start"]), *ordered(table)):
        alone = name == "start"
        cells = (
            name + (" *" if name in table["frontier"] and not alone else ""),
            "" if alone else str(entry["seeds"]),
            f"{100 * entry['accuracy']['mean']:.1f} %",
            "" if alone else figure("accuracy", entry["accuracy_difference"], signed=True),
            f"{entry['completion_tokens']['mean']:.1f}",
            "" if alone else str(cut_parts(entry["token_cut"])),
            " / ".join(f"{100 * entry['levels'][level]['accuracy']:.0f}" for level in hardest) + " %",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def arena_text(table: Arena) -> Table:
    """Return the table for the terminal."""
    text = Table(caption="95 % intervals over problems, paired with the start; * on the Pareto frontier")
    for index, heading in enumerate(HEADINGS):
        text.add_column(heading, justify="left" if index == 0 else "right", overflow="fold")
    for row in arena_cells(table):
        text.add_row(*row)
    return text


@themed
def pareto_picture(table: Arena) -> str:
    """Draw accuracy over mean completion tokens of each method, with 95 % error bars and the frontier."""
    from matplotlib.ticker import PercentFormatter

    plot, axes = make_figure(1, 1, 5.2)
    axis = axes[0]
    sides = {"start": table["start"], **table["methods"]}
    for name, entry in sides.items():
        _point(axis, entry, BEFORE if name == "start" else AFTER if name in table["frontier"] else SOFT)
    _label(axis, plot.dpi, {name: _where(entry) for name, entry in sides.items()})
    where = sorted(_where(sides[name]) for name in table["frontier"])
    axis.plot(*zip(*where, strict=True), color=AFTER, linewidth=0.8, zorder=1)
    axis.set_xlabel("completion tokens, mean")
    axis.set_ylabel("accuracy")
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    return render(plot, "pareto", "Accuracy against mean completion tokens of each method, with 95 % intervals")


def _where(entry: Mapping[str, Any]) -> tuple[float, float]:
    return entry["completion_tokens"]["mean"], entry["accuracy"]["mean"]


def _point(axis: Axes, entry: Mapping[str, Any], colour: str) -> None:
    x, y = _where(entry)
    bars = [bar(entry[metric]) for metric in ("completion_tokens", "accuracy")]
    axis.errorbar(x, y, xerr=bars[0], yerr=bars[1], fmt="o", color=colour, markersize=5, elinewidth=0.5, zorder=2)


def _label(axis: Axes, dpi: float, where: Mapping[str, tuple[float, float]]) -> None:
    """Write names beside points, each at the first of a few heights where it covers no other name."""
    axis.autoscale_view()
    boxes: list[tuple[float, float, float]] = []
    for name, place in sorted(where.items(), key=lambda item: item[1]):
        x, y = axis.transData.transform(place) * 72 / dpi
        width = LABEL_POINTS * 0.55 * len(name)
        free = [
            lift
            for lift in LIFTS
            if all(x > right or x + width < left or abs(y + lift - at) > LABEL_POINTS for left, right, at in boxes)
        ]
        lift = free[0] if free else LIFTS[0]
        boxes.append((x, x + width, y + lift))
        far = lift not in LIFTS[:2]
        axis.annotate(
            name,
            place,
            xytext=(6, lift),
            textcoords="offset points",
            fontsize=LABEL_POINTS,
            color=INK,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": SOFT} if far else None,
            zorder=3,
        )
