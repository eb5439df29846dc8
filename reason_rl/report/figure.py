"""Matplotlib figures as inline SVG that takes colours and font from the page it stands in."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that matplotlib can draw with, replaced in the SVG by what the page's style sheet says.
INK, SOFT, LINE, PAPER = "#010203", "#010204", "#010205", "#010206"
BEFORE, AFTER, WRONG = "#010207", "#010208", "#010209"
THEME = {
    INK: "currentColor",
    SOFT: "var(--soft)",
    LINE: "var(--line)",
    PAPER: "var(--paper)",
    BEFORE: "var(--before)",
    AFTER: "var(--after)",
    WRONG: "var(--wrong)",
}
WIDTH_INCHES = 10.0
LEFT, RIGHT, TOP, BOTTOM = 0.62, 0.12, 0.36, 0.55  # margins around the panels, inches
P = ParamSpec("P")
R = TypeVar("R")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "reason_rl",
    "font.size": 10.0,
    "axes.facecolor": "none",
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 9.5,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.titley": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.labelcolor": INK,
    "text.color": INK,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


def themed(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw with the page's style; matplotlib reads most of it when an element is made, not when it is saved."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def make_figure(
    rows: int, columns: int, height: float, gap: tuple[float, float] = (0.62, 0.66), **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure of the page's width and its axes, row by row.

    Margins are fixed (a layout engine takes longer than all drawing), so that all figures begin at one line of the page.

    Args:
        rows: of panels.
        columns: of panels.
        height: inches.
        gap: between columns and between rows, inches.
        options: for ``Figure.subplots``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height))
    wide = (WIDTH_INCHES - LEFT - RIGHT - (columns - 1) * gap[0]) / columns
    high = (height - TOP - BOTTOM - (rows - 1) * gap[1]) / rows
    grid = {
        "left": LEFT / WIDTH_INCHES,
        "right": 1 - RIGHT / WIDTH_INCHES,
        "top": 1 - TOP / height,
        "bottom": BOTTOM / height,
        "wspace": gap[0] / wide,
        "hspace": gap[1] / high,
    }
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw=grid, **options)
    return figure, list(axes.flat)


def render(figure: Figure, name: str, description: str) -> str:
    """Return a figure as an ``<svg>`` element.

    Args:
        figure: what to draw; coloured with the stand-ins of this module.
        name: prefix of all ids, for several drawings share one page.
        description: read to those who do not see it.
    """
    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for stand_in, meaning in THEME.items():
        text = text.replace(stand_in, meaning)
    text = text.replace(">*{stroke", ">svg *{stroke")
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#|url\(#', lambda match: f"{match[0]}{name}-", text)
    text = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)
