"""Where problems come from: the tiny world, JSONL files, hub data sets, reasoning-gym."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reason_rl.errors import RecipeError
from reason_rl.problem.record import Problem

DATA_FOLDER_VARIABLE = "REASON_RL_DATA"
GYM_DRAWS_PER_PROBLEM = 20  # our choice: how often a task may repeat itself before it counts as exhausted

Place = str
Rows = Iterable[tuple[Place, Mapping[str, Any]]]


def load_problems(spec: Any) -> list[Problem]:
    """Load the problems that a recipe's ``data:`` section names.

    Raises:
        RecipeError: naming file and line (or row) of the first problem that cannot be used.
    """
    loaders = {"world": _world, "jsonl": _jsonl, "hub": _hub, "reasoning_gym": _reasoning_gym}
    problems = list(loaders[spec.use](spec))
    if not problems:
        raise RecipeError(f"data ({spec.use}): no problems")
    return problems


def _world(spec: Any) -> Iterator[Problem]:
    from reason_rl.world.dataset import draw_problems
    from reason_rl.world.traces import shortest_think_words

    for problem in draw_problems(spec.split, spec.count, spec.seed, tuple(spec.families)):
        meta = {"family": problem.family, "shortest_think_tokens": len(shortest_think_words(problem)) + 1}
        yield Problem(stable_id(problem.question), problem.question, problem.answer, problem.level, "world", meta)


def _jsonl(spec: Any) -> Iterator[Problem]:
    path = Path(spec.path)
    if not path.is_file():
        near = _near(path.name, (p.name for p in path.parent.glob("*.jsonl")))
        raise RecipeError(f"data.path: no file {path}{near}")
    return _records(_read_lines(path), spec, path.stem)


def _read_lines(path: Path) -> Iterator[tuple[Place, Mapping[str, Any]]]:
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
            if not text.strip():
                continue
            if not isinstance(row, dict):
                raise RecipeError(f"{place}: a JSON {type(row).__name__}; each line must be an object")
            yield place, row


def _hub(spec: Any) -> Iterator[Problem]:
    """Read from the folder named by REASON_RL_DATA when set, else from the hub."""
    short = spec.name.split("/")[-1]
    folder = os.environ.get(DATA_FOLDER_VARIABLE)
    if folder:
        parts = local_parts(Path(folder), short)
        return _records((line for part in parts for line in _read_lines(part)), spec, short)
    import datasets

    try:
        rows = datasets.load_dataset(spec.name, split=spec.split, revision=spec.revision)
    except (OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RecipeError(f"data.name: cannot load {spec.name} ({reason})") from error
    return _records(((f"{spec.name} row {i}", row) for i, row in enumerate(rows)), spec, short)


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
        near = _near(name, {stem.split(".part-")[0] for stem in stems})
        raise RecipeError(f"data.name: {DATA_FOLDER_VARIABLE}={folder} has no {name}.jsonl{near}")
    for number, part in enumerate(parts):
        if part != f"{name}.part-{number:02d}":
            raise RecipeError(f"data.name: {folder}/{name}.part-{number:02d}.jsonl is missing; {part}.jsonl is there")
    return [folder / f"{part}.jsonl" for part in parts]


def _reasoning_gym(spec: Any) -> Iterator[Problem]:
    """Draw ``count`` different questions; a question that comes again is drawn anew."""
    try:
        import reasoning_gym
    except ImportError as error:
        raise RecipeError("data.use reasoning_gym: not installed; pip install 'reason_rl[gym]'") from error
    draws = GYM_DRAWS_PER_PROBLEM * spec.count
    try:
        rows = reasoning_gym.create_dataset(spec.task, size=draws, seed=spec.seed, **spec.config)
    except (ValueError, TypeError, AssertionError) as error:
        near = _near(spec.task, reasoning_gym.factory.DATASETS)
        raise RecipeError(f"data.task: reasoning-gym refuses {spec.task} with {spec.config}: {error}{near}") from error
    seen: set[str] = set()
    for index in range(draws):
        row = rows[index]
        name = stable_id(row["question"])
        if name in seen:
            continue
        seen.add(name)
        place = f"reasoning_gym/{spec.task} item {index}"
        level = row.get("metadata", {}).get("difficulty")
        level = None if isinstance(level, dict) else _level(level, place)
        yield Problem(name, row["question"], _text(row, "answer", place), level, f"reasoning_gym/{spec.task}")
        if len(seen) == spec.count:
            return
    raise RecipeError(
        f"data.count: {spec.count} different problems are wanted, but {spec.task} gave only {len(seen)} in {draws} "
        f"draws; lower the count or widen data.config"
    )


def _records(rows: Rows, spec: Any, source: str) -> Iterator[Problem]:
    seen: dict[str, Place] = {}
    for place, row in rows:
        prompt, answer = _text(row, spec.prompt, place), _text(row, spec.answer, place)
        name = _text(row, spec.id, place) if spec.id else stable_id(prompt)
        if name in seen:
            hint = "" if spec.id else "; drop one, or name a field with ids in data.id"
            raise RecipeError(f"{place}: problem {name} was already given at {seen[name]}{hint}")
        seen[name] = place
        level = _level(_field(row, spec.level, place), place) if spec.level else None
        meta = {key: value for key, value in row.items() if key not in (spec.prompt, spec.answer, spec.id, spec.level)}
        yield Problem(name, prompt, answer, level, source, meta)


def _field(row: Mapping[str, Any], key: str, place: Place) -> Any:
    if key not in row:
        raise RecipeError(f"{place}: no field {key}{_near(key, row) or f' in {sorted(row)}'}")
    return row[key]


def _text(row: Mapping[str, Any], key: str, place: Place) -> str:
    """Return a field as text; numbers are taken as they are written, lists and objects are refused."""
    value = _field(row, key, place)
    if value is None or value != value or str(value).strip() == "":
        raise RecipeError(f"{place}: {key} is empty; drop the row or name another field")
    if not isinstance(value, str | int | float):
        raise RecipeError(f"{place}: {key} is a {type(value).__name__}; text or a number is wanted")
    return str(value)


def _level(value: Any, place: Place) -> int | None:
    """Return a level given as 5, 5.0, "5" or "Level 5"; None stays None."""
    if value is None:
        return None
    match = re.fullmatch(r"(?:level\s+)?(\d+)(?:\.0+)?", str(value).strip(), flags=re.IGNORECASE)
    if match is None:
        raise RecipeError(f"{place}: level {value!r} is not a whole number; drop the row or data.level")
    return int(match[1])


def _near(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" when something like ``name`` is known, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def stable_id(text: str) -> str:
    """Return a short id that depends on the text alone.

    >>> stable_id("What is 2 + 2?")
    'p-58bf025caf'
    """
    return "p-" + hashlib.sha1(text.encode()).hexdigest()[:10]
