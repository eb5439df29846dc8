"""Problems in files: where a file is, whether it is the one that is meant, and its rows."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reason_rl.content import content_roots
from reason_rl.errors import RecipeError

DATA_FOLDER_VARIABLE = "REASON_RL_DATA"
CHUNK_BYTES = 1 << 20

Place = str
Rows = Iterable[tuple[Place, Mapping[str, Any]]]


def data_folder() -> Path | None:
    """Return the folder named by REASON_RL_DATA, None when it is not set."""
    name = os.environ.get(DATA_FOLDER_VARIABLE)
    return Path(name) if name else None


def find_data(name: str) -> Path:
    """Return a data file: as given, else in the folder named by REASON_RL_DATA, else one that ships.

    Raises:
        RecipeError: when there is none, naming a near one and where it was looked for.
    """
    folder = data_folder()
    roots = [Path(), *([folder] if folder else []), *content_roots()]
    for root in roots:
        if (root / name).is_file():
            return root / name
    given = Path(name)
    hint = near(given.name, (path.name for root in roots for path in (root / given).parent.glob("*.jsonl")))
    if not given.is_absolute() and not hint:
        hint = f", nor in {DATA_FOLDER_VARIABLE}={folder}" if folder else f"; is {DATA_FOLDER_VARIABLE} to be set?"
    raise RecipeError(f"data.path: no file {name}{hint}")


def local_parts(folder: Path, name: str) -> list[Path]:
    """Return the files of a data set in a folder: ``name.jsonl``, or all of ``name.part-00.jsonl`` and following.

    Raises:
        RecipeError: when there are none, or one is missing in between.
    """
    whole = folder / f"{name}.jsonl"
    if whole.is_file():
        return [whole]
    stems = {path.name.removesuffix(".jsonl") for path in folder.glob("*.jsonl")}
    parts = sorted(stem for stem in stems if stem.startswith(f"{name}.part-"))
    if not parts:
        hint = near(name, {stem.split(".part-")[0] for stem in stems})
        raise RecipeError(f"data.name: {DATA_FOLDER_VARIABLE}={folder} has no {name}.jsonl{hint}")
    for number, part in enumerate(parts):
        if part != f"{name}.part-{number:02d}":
            raise RecipeError(f"data.name: {folder}/{name}.part-{number:02d}.jsonl is missing; {part}.jsonl is there")
    return [folder / f"{part}.jsonl" for part in parts]


def check_sha256(files: Sequence[Path], expected: str | None) -> None:
    """Check the SHA-256 of files, one after another; None = nothing is expected.

    Raises:
        RecipeError: when they are not what is expected.
    """
    if expected is None:
        return
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    if digest.hexdigest() != expected:
        names = " + ".join(str(path) for path in files)
        raise RecipeError(
            f"data.sha256: {names} has {digest.hexdigest()}, expected {expected}: not the data that is meant"
        )


def read_lines(path: Path) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Yield (file:line, row) of a file with one JSON object a line; blank lines are skipped.

    Raises:
        RecipeError: naming file and line of what is no object.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            place = f"{path}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                row = json.loads(text) if text.strip() else None
            except UnicodeDecodeError as error:
                raise RecipeError(f"{place}: not UTF-8 (byte {error.start + 1} of the line)") from error
            except json.JSONDecodeError as error:
                raise RecipeError(f"{place}: not JSON ({error.msg})") from error
            except RecursionError as error:
                raise RecipeError(f"{place}: JSON that is nested too deep") from error
            except ValueError as error:  # Python reads no longer integers
                raise RecipeError(f"{place}: an integer of more than {sys.get_int_max_str_digits()} digits") from error
            if not text.strip():
                continue
            if not isinstance(row, dict):
                raise RecipeError(f"{place}: a JSON {type(row).__name__}; each line must be an object")
            yield place, row


def near(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" when something like ``name`` is known, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
