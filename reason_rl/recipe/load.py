"""Loads a recipe: read, override, validate, check; every complaint names file, line, key and a way out."""

from __future__ import annotations

import difflib
import io
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from reason_rl.content import find_content
from reason_rl.errors import RecipeError
from reason_rl.recipe.checks import check
from reason_rl.recipe.document import Document, override, read
from reason_rl.recipe.schema import Recipe


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe that passed all checks, with the document it came from."""

    path: Path
    recipe: Recipe
    document: Document

    def resolved(self) -> str:
        """Return the recipe as YAML, defaults filled in, ``extends`` and overrides applied."""
        stream = io.StringIO()
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = False
        yaml.dump(self.recipe.model_dump(mode="json"), stream)
        return stream.getvalue()


def load_recipe(name: str | Path, assignments: Sequence[str] = ()) -> LoadedRecipe:
    """Load and check a recipe by path, or by the name of a shipped one.

    Raises:
        RecipeError: with one line for each thing that is wrong.
    """
    path = _find(str(name))
    document = override(read(path), assignments)
    try:
        recipe = Recipe.model_validate(document.values)
    except ValidationError as error:
        raise RecipeError("\n".join(explain(error, document))) from error
    complaints = [f"{document.origin(key)}: {'.'.join(key)}: {message}" for key, message in check(recipe, path.parent)]
    if complaints:
        raise RecipeError("\n".join(complaints))
    recipe._folder = path.parent
    if recipe.algorithm is not None:
        recipe._reward_path = find_content(recipe.algorithm.reward.file, path.parent)
    return LoadedRecipe(path, recipe, document)


def _find(name: str) -> Path:
    candidates = [name] if name.endswith((".yaml", ".yml")) else [f"recipes/{name}.yaml", f"{name}.yaml"]
    for candidate in candidates:
        try:
            return find_content(candidate)
        except RecipeError as error:
            complaint = error
    raise complaint


def explain(error: ValidationError, document: Document) -> Iterator[str]:
    """Yield one line for each thing that pydantic complains about: place, key, what is wrong, what may be meant."""
    for item in error.errors():
        path = _key_path(item["loc"], document.values)
        place = f"{document.origin(path)}: {'.'.join(path)}"
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(path[-1], known_keys(item["loc"][:-1]), n=1)
            yield f"{place}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
        elif item["type"] == "missing":
            yield f"{document.origin(path[:-1])}: {'.'.join(path)}: is missing"
        else:
            given = "" if isinstance(item["input"], Mapping) else f", is {item['input']!r}"
            message = item["msg"].removeprefix("Value error, ")
            yield f"{place}: {message[0].lower()}{message[1:]}{given}"


def _key_path(location: tuple[int | str, ...], values: Any) -> tuple[str, ...]:
    """Return the keys of a pydantic location, without the variant tags that pydantic puts between them."""
    keys: list[str] = []
    for i, part in enumerate(location):
        if isinstance(values, Mapping) and part in values:
            keys.append(str(part))
            values = values[part]
        elif isinstance(part, int) or i == len(location) - 1:
            keys.append(str(part))
    return tuple(keys)


def known_keys(location: tuple[int | str, ...], model: type[BaseModel] = Recipe) -> list[str]:
    """Return the keys that the section at a pydantic location may have."""
    options: list[type[BaseModel]] = [model]
    for part in location:
        if isinstance(part, int):
            continue
        tagged = [option for option in options if part in _tags(option)]
        if tagged:
            options = tagged
            continue
        fields = [option.model_fields[str(part)] for option in options if str(part) in option.model_fields]
        options = [found for field in fields for found in _models(field.annotation)]
    return sorted({name for option in options for name in option.model_fields})


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("use")
    return typing.get_args(field.annotation) if field else ()


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in _models(part)]
