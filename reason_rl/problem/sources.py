"""Where problems come from: the tiny world, JSONL files, hub data sets, reasoning-gym."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reason_rl.errors import RecipeError
from reason_rl.hub import first_line, hub_errors, quiet_hub
from reason_rl.problem.files import (
    DATA_FOLDER_VARIABLE,
    Place,
    Rows,
    check_sha256,
    data_folder,
    find_data,
    local_parts,
    near,
    read_lines,
)
from reason_rl.problem.gym import check_task, gold
from reason_rl.problem.record import Problem

GENERATED = frozenset({"reasoning_gym", "puzzle"})
GYM_DRAWS_PER_PROBLEM = 20  # our choice: how often a task may repeat itself before it counts as exhausted


def load_problems(spec: Any) -> list[Problem]:
    """Load the problems that a recipe's ``data:`` section names.

    Raises:
        RecipeError: naming file and line (or row) of the first problem that cannot be used.
    """
    loaders = {"world": _world, "jsonl": _jsonl, "hub": _hub, "reasoning_gym": _reasoning_gym, "puzzle": _puzzle}
    problems = list(loaders[spec.use](spec))
    if not problems:
        raise RecipeError(f"data ({spec.use}): no problems")
    if spec.use in GENERATED and spec.sha256 not in (None, digest(problems)):
        raise RecipeError(
            f"data.sha256: these problems have {digest(problems)}, expected {spec.sha256}: not the problems that are meant; "
            "does another version of the generator draw others?"
        )
    return problems


def digest(problems: Sequence[Problem]) -> str:
    """Return the SHA-256 of generated problems: id, prompt and gold answer, in order.

    >>> digest([Problem("a", "1 + 1", "2")])[:8]
    '39c6fb28'
    """
    text = "".join(json.dumps([problem.id, problem.prompt, problem.answer]) + "\n" for problem in problems)
    return hashlib.sha256(text.encode()).hexdigest()


def _world(spec: Any) -> Iterator[Problem]:
    from reason_rl.world.dataset import draw_problems
    from reason_rl.world.traces import shortest_think_words

    for problem in draw_problems(spec.split, spec.count, spec.seed, tuple(spec.families)):
        meta = {"family": problem.family, "shortest_think_tokens": len(shortest_think_words(problem)) + 1}
        yield Problem(stable_id(problem.question), problem.question, problem.answer, problem.level, "world", meta)


def _puzzle(spec: Any) -> Iterator[Problem]:
    from reason_rl.puzzle.instances import puzzle_problems

    problems = puzzle_problems(spec.name, spec.sizes, spec.per_size, spec.seed)
    return _counted(problems, spec, f"puzzle {spec.name}")


def _jsonl(spec: Any) -> Iterator[Problem]:
    path = find_data(spec.path)
    check_sha256([path], spec.sha256)
    return _counted(_records(read_lines(path), spec, path.stem), spec, str(path))


def _hub(spec: Any) -> Iterator[Problem]:
    """Read from the folder named by REASON_RL_DATA when set, else from the hub."""
    short = spec.name.split("/")[-1]
    folder = data_folder()
    if folder:
        parts = local_parts(folder, spec.local or short)
        check_sha256(parts, spec.sha256)
        rows = (line for part in parts for line in read_lines(part))
        return _counted(_records(rows, spec, short), spec, str(parts[0]))
    return _counted(_records(_hub_rows(spec), spec, short), spec, spec.name)


def _hub_rows(spec: Any) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    import datasets

    try:
        with quiet_hub():
            rows = datasets.load_dataset(spec.name, spec.config, split=spec.split, revision=spec.revision)
    except hub_errors() as error:
        raise RecipeError(
            f"data.name: cannot load {spec.name} from the hub ({first_line(error)}); try again, or set "
            f"{DATA_FOLDER_VARIABLE} to a folder with {spec.local or spec.name.split('/')[-1]}.jsonl"
        ) from error
    for number, row in enumerate(rows):
        place = f"{spec.name} row {number}"
        fields = from_columns(row, number, spec, place)
        if fields is not None:
            yield place, fields


def from_columns(row: Mapping[str, Any], number: int, spec: Any, place: Place) -> Mapping[str, Any] | None:
    """Return a hub row with the fields that ``data.columns`` makes of it; None when ``data.skip`` leaves it out.

    Raises:
        RecipeError: when a template or the pattern of the answer does not fit the row.
    """
    fields = dict(row)
    for name, template in spec.columns.items():
        try:
            fields[name] = template.format(**{"row": number, **row})
        except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
            raise RecipeError(f"{place}: data.columns.{name}: {template} does not fit ({error!r})") from error
    answer = str(fields.get(spec.answer, ""))
    if spec.skip and re.search(spec.skip, answer):
        return None
    if spec.answer_pattern:
        match = re.search(spec.answer_pattern, answer)
        if match is None or match[1] is None:
            raise RecipeError(f"{place}: data.answer_pattern finds no answer in {answer[-80:]!r}")
        fields[spec.answer] = match[1]
    return fields


def _counted(problems: Iterator[Problem], spec: Any, where: str) -> Iterator[Problem]:
    """Pass the problems on and check at the end that there were ``data.count`` of them."""
    count = 0
    for problem in problems:
        count += 1
        yield problem
    if spec.count is not None and count != spec.count:
        raise RecipeError(f"data.count: {where} has {count} problems, {spec.count} are expected")


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
        hint = near(spec.task, reasoning_gym.factory.DATASETS)
        raise RecipeError(f"data.task: reasoning-gym refuses {spec.task} with {spec.config}: {error}{hint}") from error
    check_task(spec.task)
    seen: set[str] = set()
    for index in range(draws):
        try:
            row = rows[index]
        except ValueError as error:
            raise RecipeError(f"data.config: {spec.task} cannot draw with {spec.config}: {error}") from error
        name = stable_id(row["question"])
        if name in seen:
            continue
        seen.add(name)
        place = f"reasoning_gym/{spec.task} item {index}"
        level = row.get("metadata", {}).get("difficulty")
        level = None if isinstance(level, dict) else _level(level, place)
        yield Problem(
            name,
            row["question"],
            _text({"answer": gold(spec.task, row)}, "answer", place),
            level,
            f"reasoning_gym/{spec.task}",
        )
        if len(seen) == spec.count:
            return
    raise RecipeError(
        f"data.count: {spec.count} different problems are wanted, but {spec.task} gave only {len(seen)} in {draws} "
        f"draws; lower the count or widen data.config"
    )


def _records(rows: Rows, spec: Any, source: str) -> Iterator[Problem]:
    seen: dict[str, Place] = {}
    dropped: Counter[str] = Counter()
    for place, row in rows:
        if "empty" in spec.drop and any(_is_empty(_field(row, key, place)) for key in (spec.prompt, spec.answer)):
            dropped["empty"] += 1
            continue
        prompt, answer = _text(row, spec.prompt, place), _text(row, spec.answer, place)
        name = _text(row, spec.id, place) if spec.id else stable_id(prompt)
        if name in seen:
            if "duplicates" in spec.drop:
                dropped["duplicates"] += 1
                continue
            hint = "" if spec.id else "; set data.drop: [duplicates], or name a field with ids in data.id"
            raise RecipeError(f"{place}: problem {name} was already given at {seen[name]}{hint}")
        seen[name] = place
        level = _level(_field(row, spec.level, place), place) if spec.level else None
        meta = {key: value for key, value in row.items() if key not in (spec.prompt, spec.answer, spec.id, spec.level)}
        yield Problem(name, prompt, answer, level, source, meta)
    for reason, count in dropped.items():
        print(f"reason-rl: data.drop: {count} rows of {source} left out ({reason})", file=sys.stderr)


def _is_empty(value: Any) -> bool:
    return value is None or value != value or str(value).strip() == ""


def _field(row: Mapping[str, Any], key: str, place: Place) -> Any:
    if key not in row:
        raise RecipeError(f"{place}: no field {key}{near(key, row) or f' in {sorted(row)}'}")
    return row[key]


def _text(row: Mapping[str, Any], key: str, place: Place) -> str:
    """Return a field as text; numbers are taken as they are written, lists and objects are refused."""
    value = _field(row, key, place)
    if _is_empty(value):
        raise RecipeError(f"{place}: {key} is empty; set data.drop: [empty], or name another field")
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


def stable_id(text: str) -> str:
    """Return a short id that depends on the text alone.

    >>> stable_id("What is 2 + 2?")
    'p-58bf025caf'
    """
    return "p-" + hashlib.sha1(text.encode()).hexdigest()[:10]
