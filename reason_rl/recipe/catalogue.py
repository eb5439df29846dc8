"""The shipped recipes: listed with method, paper, one line and state, and copied so that a copy works anywhere."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from reason_rl.content import content_roots, shipped_recipes
from reason_rl.errors import RecipeError
from reason_rl.recipe.about import AboutSection
from reason_rl.recipe.document import Document, read

SCHEMA_LINE = "yaml-language-server"
FILE_NAME = re.compile(r"[^\s\[\],\"']+\.ya?ml")
SCHEMA_NAME = re.compile(r"(?<=\$schema=)\S+")
OUTPUT_NAME = re.compile(r"(?<=^output: )\S+")


@dataclass(frozen=True)
class Entry:
    """One recipe of the list; ``None`` where its ``about:`` section says nothing."""

    name: str
    line: str
    method: str | None = None
    paper: str | None = None
    arxiv: str | None = None
    state: str | None = None
    published: str | None = None


def catalogue() -> list[Entry]:
    """Return the shipped recipes by name; parts, which others extend and which have no ``output``, are left out.

    Raises:
        RecipeError: for a recipe that cannot be read, or a bad ``about:`` section.
    """
    parsed: dict[Path, Document] = {}
    documents = {name: (path, read(path, parsed=parsed)) for name, path in shipped_recipes().items()}
    return [_entry(name, path, document) for name, (path, document) in documents.items() if "output" in document.values]


def _entry(name: str, path: Path, document: Document) -> Entry:
    if "about" not in document.values:
        return Entry(name, first_comment(path))
    given = dict(document.values["about"])
    if given.get("state") == "measured" and not document.origin(("about", "state")).startswith(f"{path}:"):
        # Results belong to the recipe that was measured, not to those that extend it.
        del given["state"]
    try:
        about = AboutSection.model_validate(given)
    except ValidationError as error:
        raise RecipeError(f"{document.origin(('about',))}: about: {error.errors()[0]['msg']}") from error
    return Entry(name, first_comment(path), **about.model_dump())


def first_comment(path: Path) -> str:
    """Return the first comment of a recipe that is not the line for editors: what it is, in one line."""
    comments = (line[2:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# "))
    return next((comment for comment in comments if not comment.startswith(SCHEMA_LINE)), "")


def text(entries: list[Entry]) -> str:
    """Return the list as text, two lines a recipe: name, method, state and paper; then what it is."""
    width = max(len(entry.name) for entry in entries)
    lines = []
    for entry in entries:
        source = ": ".join(part for part in (entry.arxiv and f"arXiv {entry.arxiv}", entry.paper) if part)
        head = " | ".join(part for part in (entry.method, entry.state, source) if part)
        lines += [f"{entry.name:<{width}}  {head}".rstrip(), f"{'':<{width}}  {entry.line}"]
    return "\n".join(lines)


def portable(source: Path, goal: Path) -> str:
    """Return the text of a recipe for a copy at ``goal``, which works wherever that is.

    Files that it extends are named from the root of what is shipped, the schema by its full address, and ``output`` is
    outputs/<name of the copy>, so that its runs do not meet those of the recipe that was copied.
    """
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(_moved(line, source.parent, f"outputs/{goal.stem}") for line in lines)


def _moved(line: str, folder: Path, output: str) -> str:
    if line.startswith("extends:"):
        return FILE_NAME.sub(lambda match: _from_root(match[0], folder), line)
    if line.startswith(f"# {SCHEMA_LINE}"):
        return SCHEMA_NAME.sub(lambda match: _address(match[0], folder), line)
    return OUTPUT_NAME.sub(lambda match: output, line)


def _address(name: str, folder: Path) -> str:
    schema = (folder / name).resolve()
    return schema.as_uri() if schema.is_file() else name


def _from_root(name: str, folder: Path) -> str:
    parent = (folder / name).resolve()
    if parent.is_file():
        for root in content_roots():
            if parent.is_relative_to(root.resolve()):
                return str(parent.relative_to(root.resolve()))
    return name
