"""The page of `compare`: one HTML file that needs nothing else, with published points of the same base model in grey."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from reason_rl.errors import RunError
from reason_rl.evaluate.comparison import on_common_problems
from reason_rl.evaluate.records import EvalRow, EvalRows, read_rows
from reason_rl.report import examples
from reason_rl.report.comparison import NONE, lines
from reason_rl.report.figure import AFTER, BEFORE, INK, LINE, SOFT, make_figure, render, themed
from reason_rl.report.published import BENCHMARKS, Published, marked, published
from reason_rl.report.tables import caption
from reason_rl.run_folder import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

END_THINK = "</think>"
REGRESSIONS = 5
# What the suites call their files.
SUITE_OF = {"gsm8k_test": "gsm8k", **{name: name for name in BENCHMARKS}}
Points = Sequence[tuple[Published, str]]


def write_comparison(result: Mapping[str, Any], base: EvalRows, runs: Mapping[str, EvalRows], out: Path) -> None:
    """Write the page of a comparison.

    Args:
        result: of ``reason_rl.evaluate.comparison.comparison``.
        base: rows of the start model.
        runs: rows of the others, by name.
        out: the file.

    Raises:
        RunError: when it cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from reason_rl.report.plots import length_histogram

    environment = Environment(
        loader=PackageLoader("reason_rl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = lambda text: str(text).replace("-", "\N{MINUS SIGN}")
    found = published(str(base.header["model"]), suite_of(base.header))
    points = marked(found, base.header["max_tokens"], base.header["samples"])
    sides = {
        entry["name"]: {
            "histogram": own_ids(
                length_histogram(base.rows, runs[entry["name"]].rows, base.header["max_tokens"]), number
            ),
            "difficulty": difficulty_cells(entry),
            "pairs": [
                [(row, examples.parts(row.completion, END_THINK)) for row in pair]
                for pair in regressions(base.rows, runs[entry["name"]].rows)
            ],
            "differences": entry["differences"],
        }
        for number, entry in enumerate(result["runs"])
    }
    page = environment.get_template("comparison.html.j2").render(
        names=list(sides),
        lines=lines(result),
        caption=caption(result["runs"][0]),
        picture=pareto_picture(result, points),
        points=points,
        sides=sides,
        settings={"start": settings(base), **{name: settings(rows) for name, rows in runs.items()}},
        dash=NONE,
    )
    try:
        write_text(out, page)
    except OSError as error:
        raise RunError(f"--html {out}: cannot be written ({error.strerror})") from error


def write_files(
    result: Mapping[str, Any], base: Path, runs: Sequence[Path], page: Path | None, figures: Path | None
) -> list[Path]:
    """Write the page of a comparison of files, its drawings as files of their own, or both; return what was written.

    Args:
        result: of ``reason_rl.evaluate.comparison.compare_files``.
        base: rows of the start model.
        runs: rows of the others, in the order of the result.
        page: the page, None = none is kept.
        figures: folder of the drawings, None = none are written.

    Raises:
        RecipeError: when PNG cannot be made here.
        RunError: when something cannot be written.
    """
    from reason_rl.report.figure_files import write_figures

    names = [entry["name"] for entry in result["runs"]]
    start, sides = on_common_problems(read_rows(base), dict(zip(names, map(read_rows, runs), strict=True)))
    with TemporaryDirectory() as folder:
        file = page or Path(folder) / "page.html"
        write_comparison(result, start, sides, file)
        drawn = [] if figures is None else write_figures(file, figures)
    return [*([page] if page else []), *drawn]


def own_ids(picture: str, number: int) -> str:
    """Return a drawing whose ids no other drawing on the page has.

    >>> own_ids('<g id="a"/><use href="#a"/>', 2)
    '<g id="run2-a"/><use href="#run2-a"/>'
    """
    return re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>run{number}-", picture)


def suite_of(header: Mapping[str, Any]) -> str:
    """Return the suite that an evaluation's data belong to, "" for data of no suite with published figures.

    >>> suite_of({"data": {"use": "hub", "name": "openai/gsm8k", "local": "gsm8k_test"}})
    'gsm8k'
    """
    data = header.get("data") or {}
    name = data.get("local") or Path(str(data.get("path") or data.get("name") or "")).stem
    return SUITE_OF.get(name.lower(), "")


def settings(rows: EvalRows) -> dict[str, str]:
    """Return how an evaluation was made, as text by name."""
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in rows.header.items()
        if value is not None
    }


def regressions(before: Sequence[EvalRow], after: Sequence[EvalRow]) -> list[tuple[EvalRow, EvalRow]]:
    """Return pairs of a sample that went from right to wrong, the problems that lost most accuracy first.

    One pair a problem, the longest start completion of it.
    """
    later = {(row.problem_id, row.sample): row for row in after}
    pairs = [(row, later[row.problem_id, row.sample]) for row in before if (row.problem_id, row.sample) in later]
    change: dict[str, int] = {}
    for first, second in pairs:
        change[first.problem_id] = change.get(first.problem_id, 0) + second.correct - first.correct
    lost = [pair for pair in pairs if pair[0].correct and not pair[1].correct and change[pair[0].problem_id] < 0]
    lost.sort(key=lambda pair: (change[pair[0].problem_id], pair[0].problem_id, -pair[0].completion_tokens))
    first_of = {pair[0].problem_id: pair for pair in reversed(lost)}
    order = dict.fromkeys(pair[0].problem_id for pair in lost)
    return [first_of[name] for name in order][:REGRESSIONS]


def difficulty_cells(entry: Mapping[str, Any]) -> list[list[str]]:
    """Return accuracy and tokens of both sides in quarters of the start model's accuracy, the easiest first."""
    sides = entry["trade"]["by_difficulty"]
    return [
        [
            str(number),
            str(first["problems"]),
            *(f"{100 * part['accuracy']:.1f} % / {part['tokens']:,.0f}" for part in (first, second)),
        ]
        for number, (first, second) in enumerate(zip(sides["start"], sides["run"], strict=True), start=1)
    ]


@themed
def pareto_picture(result: Mapping[str, Any], points: Points) -> str:
    """Draw accuracy over mean completion tokens with 95 % error bars, the frontier, and published points in grey."""
    from matplotlib.ticker import PercentFormatter

    from reason_rl.report.plots import bar

    plot, axes = make_figure(1, 1, 5.0)
    axis = axes[0]
    for number, (point, note) in enumerate(points):
        face = "none" if note else LINE
        axis.plot(
            point.tokens, point.accuracy, "o", color=SOFT, markerfacecolor=face, markersize=5, gid=f"published{number}"
        )
    first = result["runs"][0]
    for name, metrics, side in [
        ("start", first["metrics"], "before"),
        *((entry["name"], entry["metrics"], "after") for entry in result["runs"]),
    ]:
        x, y = (metrics[metric][side]["mean"] for metric in ("completion_tokens", "accuracy"))
        arms = [bar(metrics[metric][side]) for metric in ("completion_tokens", "accuracy")]
        colour = BEFORE if side == "before" else AFTER
        axis.errorbar(x, y, xerr=arms[0], yerr=arms[1], fmt="o", color=colour, markersize=7, elinewidth=0.9, zorder=3)
        axis.annotate(name, (x, y), xytext=(8, 6), textcoords="offset points", color=INK, zorder=4)
    _frontier(axis, result["pareto"])
    axis.set_xlim(left=0)
    axis.set_xlabel("completion tokens, mean")
    axis.set_ylabel("accuracy")
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    picture = render(plot, "pareto", "Accuracy against mean completion tokens, with 95 % intervals and the frontier")
    for number, (point, note) in enumerate(points):
        start = f'<g id="pareto-published{number}">'
        text = f"{point.method}: {point.source}" + (f" ({note})" if note else "")
        picture = picture.replace(start, f"{start}<title>{html.escape(text)}</title>")
    return picture


def _frontier(axis: Axes, pareto: Mapping[str, Any]) -> None:
    where = sorted((p["tokens"], p["accuracy"]) for p in pareto["points"] if p["name"] in pareto["frontier"])
    axis.plot(*zip(*where, strict=True), color=SOFT, linewidth=0.8, zorder=1)
