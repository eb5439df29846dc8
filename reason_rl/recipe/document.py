"""Strict YAML with a memory of where each value came from; extends, overrides and environment variables."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from reason_rl.content import find_content
from reason_rl.errors import RecipeError

KeyPath = tuple[str, ...]
ENVIRONMENT = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Document:
    """Plain values, and for each key path the place (file:line) that set it."""

    values: dict[str, Any]
    origins: dict[KeyPath, str]

    def origin(self, path: Sequence[str]) -> str:
        """Return where a key was set, or its nearest parent."""
        for end in range(len(path), 0, -1):
            if tuple(path[:end]) in self.origins:
                return self.origins[tuple(path[:end])]
        return next(iter(self.origins.values()), "recipe")


def read(path: Path, chain: tuple[Path, ...] = (), parsed: dict[Path, Document] | None = None) -> Document:
    """Read a file and everything it extends: maps are merged, lists and values replaced.

    ``parsed`` keeps the files read so far, for a caller that reads many recipes over the same bases.

    Raises:
        RecipeError: with file and line, for bad YAML, duplicate keys, unset variables and circular ``extends``.
    """
    if path in chain:
        raise RecipeError(f"{path}: extends itself by way of {' -> '.join(p.name for p in (*chain, path))}")
    parsed = {} if parsed is None else parsed
    if path not in parsed:
        parsed[path] = _parse(path)
    own = parsed[path]
    extends = own.values.get("extends", [])
    names = [extends] if isinstance(extends, str) else extends
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise RecipeError(f"{own.origin(('extends',))}: extends: should be a file or a list of files, is {extends!r}")
    document = Document({}, {})
    for name in names:
        try:
            parent = find_content(name, path.parent)
        except RecipeError as error:
            raise RecipeError(f"{own.origin(('extends',))}: extends: {error}") from error
        document = merge(document, read(parent, (*chain, path), parsed))
    return merge(document, Document({key: value for key, value in own.values.items() if key != "extends"}, own.origins))


def _parse(path: Path) -> Document:
    try:
        loaded = YAML(typ="rt", pure=True).load(path.read_text(encoding="utf-8"))
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1
        raise RecipeError(f"{path}:{line}: {str(error.problem).split(' with value')[0]}") from error
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise RecipeError(f"{path}:{line}: not YAML: {error.problem}") from error
    except (YAMLError, OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error})") from error
    if not isinstance(loaded, CommentedMap):
        raise RecipeError(f"{path}:1: a recipe is a map of sections")
    origins: dict[KeyPath, str] = {}
    return Document(_plain(loaded, (), lambda line: f"{path}:{line}", origins, 1), origins)


def _plain(node: Any, at: KeyPath, place: Callable[[int], str], origins: dict[KeyPath, str], line: int) -> Any:
    if isinstance(node, CommentedMap):
        values = {}
        for key, child in node.items():
            # What a merge key (<<) brings in has no line of its own here.
            here = node.lc.key(key)[0] + 1 if key in (node.lc.data or {}) else line
            origins[(*at, str(key))] = place(here)
            values[str(key)] = _plain(child, (*at, str(key)), place, origins, here)
        return values
    if isinstance(node, CommentedSeq):
        return [_plain(child, (*at, str(i)), place, origins, line) for i, child in enumerate(node)]
    if isinstance(node, str):
        return _with_environment(str(node), place(line))
    if isinstance(node, bool) or node is None:
        return node
    return float(node) if isinstance(node, float) else int(node) if isinstance(node, int) else str(node)


def _with_environment(text: str, place: str) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise RecipeError(f"{place}: environment variable {match[1]} is not set")
        return os.environ[match[1]]

    return ENVIRONMENT.sub(value, text)


def merge(base: Document, top: Document) -> Document:
    """Lay one document over another."""
    return _document(_merged(base.values, top.values), {**base.origins, **top.origins})


def _document(values: dict[str, Any], origins: Mapping[KeyPath, str]) -> Document:
    """Return the document without the origins of keys that it no longer has."""
    return Document(values, {path: place for path, place in origins.items() if _holds(values, path)})


def _holds(values: Any, path: KeyPath) -> bool:
    for key in path:
        if isinstance(values, list) and key.isdigit() and int(key) < len(values):
            values = values[int(key)]
        elif isinstance(values, dict) and key in values:
            values = values[key]
        else:
            return False
    return True


def _merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    result = {key: value for key, value in base.items() if key != "revision" or not _renamed(base, top)}
    for key, value in top.items():
        below = result.get(key)
        switched = isinstance(value, Mapping) and isinstance(below, Mapping) and _other_kind(below, value)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and not switched:
            result[key] = _merged(below, value)
        else:
            result[key] = value
    return result


def _other_kind(below: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    """Tell whether a section names another variant: then nothing of the old one is kept."""
    return any(key in value and key in below and value[key] != below[key] for key in ("use", "file"))


def _renamed(below: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    """Tell whether a section names another model or data set: a revision of the old one is none of it."""
    return any(key in value and below.get(key) not in (None, value[key]) for key in ("path", "name"))


def override(document: Document, assignments: Sequence[str]) -> Document:
    """Apply ``key.path=value`` (a YAML scalar, list or map) and ``~key.path`` (delete) from the command line.

    What drops other keys goes first: deletions, then names of variants and files; revisions, which go with the model or data
    set named, go last. Else the order given counts.
    """
    for text in sorted(assignments, key=_rank):
        if text.startswith("~"):
            document = _deleted(document, tuple(text[1:].split(".")))
            continue
        name, equals, raw = text.partition("=")
        if not equals or not name:
            raise RecipeError(f"{COMMAND_LINE}: {text}: write key.path=value, or ~key.path to delete")
        document = merge(document, _assigned(tuple(name.split(".")), raw, document.origins))
    return document


def _rank(text: str) -> int:
    if text.startswith("~"):
        return 0
    last = text.partition("=")[0].rpartition(".")[2]
    return {"use": 1, "file": 1, "revision": 3}.get(last, 2)


def _assigned(path: KeyPath, raw: str, known: Mapping[KeyPath, str]) -> Document:
    try:
        loaded = YAML(typ="rt", pure=True).load(raw) if raw else None
    except YAMLError as error:
        raise RecipeError(f"{COMMAND_LINE}: {'.'.join(path)}: {raw} is not YAML") from error
    above = (path[:end] for end in range(1, len(path)))
    origins = dict.fromkeys((*(key for key in above if key not in known), path), COMMAND_LINE)
    value = _plain(loaded, path, lambda _: COMMAND_LINE, origins, 0)
    for key in reversed(path):
        value = {key: value}
    return Document(value, origins)


def _deleted(document: Document, path: KeyPath) -> Document:
    values = _merged({}, document.values)
    parent = values
    for key in path[:-1]:
        parent = parent.get(key, {}) if isinstance(parent, dict) else {}
    if not isinstance(parent, dict) or path[-1] not in parent:
        raise RecipeError(f"{COMMAND_LINE}: ~{'.'.join(path)}: the recipe has no such key")
    return _document(_without(document.values, path), document.origins)


def _without(values: Mapping[str, Any], path: KeyPath) -> dict[str, Any]:
    if len(path) == 1:
        return {key: value for key, value in values.items() if key != path[0]}
    return {key: _without(value, path[1:]) if key == path[0] else value for key, value in values.items()}
