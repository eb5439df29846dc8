"""Where problems come from: the tiny world, JSONL files, hub data sets, reasoning-gym."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reason_rl.errors import RecipeError
from reason_rl.problem.record import Problem

DATA_FOLDER_VARIABLE = "REASON_RL_DATA"


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
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.jsonl")], n=1)
        raise RecipeError(f"data.path: no file {path}" + (f"; did you mean {near[0]}?" if near else ""))
    return _records(_read_lines(path), spec, path.stem)


def _read_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield f"{path}:{number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise RecipeError(f"{path}:{number}: not JSON ({error.msg})") from error


def _hub(spec: Any) -> Iterator[Problem]:
    """Read from the folder named by REASON_RL_DATA when set, else from the hub."""
    short = spec.name.split("/")[-1]
    folder = os.environ.get(DATA_FOLDER_VARIABLE)
    if folder:
        parts = sorted(Path(folder).glob(f"{short}.jsonl")) or sorted(Path(folder).glob(f"{short}.part-*.jsonl"))
        if not parts:
            raise RecipeError(f"data.name: {DATA_FOLDER_VARIABLE}={folder} has no {short}.jsonl")
        return _records((line for part in parts for line in _read_lines(part)), spec, short)
    import datasets

    try:
        rows = datasets.load_dataset(spec.name, split=spec.split, revision=spec.revision)
    except (OSError, ValueError) as error:
        raise RecipeError(f"data.name: cannot load {spec.name} ({str(error).splitlines()[0]})") from error
    return _records(((f"{spec.name} row {i}", row) for i, row in enumerate(rows)), spec, short)


def _reasoning_gym(spec: Any) -> Iterator[Problem]:
    try:
        import reasoning_gym
    except ImportError as error:
        raise RecipeError("data.use reasoning_gym: not installed; pip install 'reason_rl[gym]'") from error
    try:
        rows = reasoning_gym.create_dataset(spec.task, size=spec.count, seed=spec.seed, **spec.config)
    except (ValueError, TypeError, AssertionError) as error:
        raise RecipeError(f"data.task: reasoning-gym refuses {spec.task} with {spec.config}: {error}") from error
    seen: set[str] = set()
    for row in rows:
        name = stable_id(row["question"])
        if name not in seen:
            seen.add(name)
            yield Problem(name, row["question"], str(row["answer"]), None, f"reasoning_gym/{spec.task}")


def _records(rows: Iterable[tuple[str, Mapping[str, Any]]], spec: Any, source: str) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for place, row in rows:
        prompt, answer = _text(row, spec.prompt, place), _text(row, spec.answer, place)
        name = str(row[spec.id]) if spec.id and spec.id in row else stable_id(prompt)
        if name in seen:
            raise RecipeError(f"{place}: problem {name} was already given at {seen[name]}")
        seen[name] = place
        level = row.get(spec.level) if spec.level else None
        meta = {key: value for key, value in row.items() if key not in (spec.prompt, spec.answer, spec.id, spec.level)}
        yield Problem(name, prompt, answer, None if level is None else int(level), source, meta)


def _text(row: Mapping[str, Any], key: str, place: str) -> str:
    if key not in row:
        near = difflib.get_close_matches(key, list(row), n=1)
        raise RecipeError(f"{place}: no field {key}" + (f"; did you mean {near[0]}?" if near else f" in {sorted(row)}"))
    value = row[key]
    if value is None or str(value).strip() == "":
        raise RecipeError(f"{place}: {key} is empty; drop the row or name another field")
    return str(value)


def stable_id(text: str) -> str:
    """Return a short id that depends on the text alone.

    >>> stable_id("What is 2 + 2?")
    'p-58bf025caf'
    """
    return "p-" + hashlib.sha1(text.encode()).hexdigest()[:10]
