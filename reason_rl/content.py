"""Finds recipes, rewards and suites: beside the recipe, in the working folder, in the wheel, in the checkout."""

from __future__ import annotations

import difflib
from pathlib import Path

from reason_rl.errors import RecipeError

PACKAGE = Path(__file__).parent


def content_roots() -> list[Path]:
    """Return the folders that hold the shipped recipes/, rewards/ and eval/: the wheel's copy, or the checkout."""
    return [root for root in (PACKAGE / "_content", PACKAGE.parent) if (root / "recipes").is_dir()]


def find_content(name: str, start: Path | None = None) -> Path:
    """Return the first file called ``name``, looked for from ``start`` upwards, then here, then in what is shipped.

    Raises:
        RecipeError: when there is none, naming a near one.
    """
    given = Path(name).expanduser()
    if given.is_absolute():
        places = [given]
    else:
        above = [start, *start.parents] if start else []
        places = [folder / given for folder in [*above, Path.cwd(), *content_roots()]]
    for place in places:
        if place.is_file():
            return place.resolve()
    shipped = [str(path.relative_to(root)) for root in content_roots() for path in root.glob(f"*/**/*{given.suffix}")]
    near = difflib.get_close_matches(name, shipped, n=1)
    raise RecipeError(f"no file {name}" + (f"; did you mean {near[0]}?" if near else ""))


def shipped_recipes() -> dict[str, Path]:
    """Return the shipped recipes by name, for instance ``tiny/dler``; files of accelerate are no recipes."""
    root = content_roots()[0] / "recipes"
    paths = (path for path in sorted(root.rglob("*.yaml")) if path.relative_to(root).parts[0] != "accelerate")
    return {str(path.relative_to(root).with_suffix("")): path for path in paths}
