"""The drawings of a page as files of their own: SVG, and PNG by resvg."""

from __future__ import annotations

import re
from pathlib import Path

from reason_rl.errors import RecipeError, RunError
from reason_rl.run_folder import write_text

DRAWING = re.compile(r"<svg\b.*?</svg>", re.DOTALL)
NAME = re.compile(r'\bid="(?:run\d+-)?([a-z_]+?)-')
PNG_WIDTH = 1600  # pixels
# What the page's style sheet says in its light form.
COLOURS = {
    "currentColor": "#1c1c1c",
    "var(--soft)": "#6b6b6b",
    "var(--line)": "#d0d0d0",
    "var(--paper)": "#ffffff",
    "var(--before)": "#8a8a8a",
    "var(--after)": "#1f5fa8",
    "var(--wrong)": "#b3462f",
    "inherit": "sans-serif",
}


def write_figures(page: Path, folder: Path) -> list[Path]:
    """Write each drawing of a page to ``folder`` as SVG and PNG, and return the files.

    Raises:
        RecipeError: when resvg is not installed.
        RunError: when there is no page, it has no drawings, or the folder cannot be written.
    """
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        raise RecipeError("--figures: PNG needs resvg; pip install 'reason_rl[figures]'") from None
    if not page.is_file():
        raise RunError(f"{page}: no such page")
    drawings = DRAWING.findall(page.read_text())
    if not drawings:
        raise RunError(f"{page}: has no drawings")
    files: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, drawing in enumerate(drawings, start=1):
            named = NAME.search(drawing)
            stem = f"{number}-{named[1] if named else 'figure'}"
            picture = standalone(drawing)
            write_text(folder / f"{stem}.svg", picture)
            png = folder / f"{stem}.png"
            png.write_bytes(bytes(svg_to_bytes(svg_string=picture, width=PNG_WIDTH, background="white")))
            files += [folder / f"{stem}.svg", png]
    except OSError as error:
        raise RunError(f"--figures {folder}: cannot be written ({error.strerror})") from error
    return files


def standalone(picture: str) -> str:
    """Return an inline SVG as a file of its own, with colours written out on white.

    >>> standalone('<svg><path style="fill: currentColor"/></svg>')
    '<svg style="background: #ffffff"><path style="fill: #1c1c1c"/></svg>\\n'
    """
    for name, colour in COLOURS.items():
        picture = picture.replace(name, colour)
    return picture.strip().replace("<svg", '<svg style="background: #ffffff"', 1) + "\n"
