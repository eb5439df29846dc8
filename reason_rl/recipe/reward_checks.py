"""Checks of the reward file as far as its text tells: nothing of it is run, and what cannot be told is left to the run."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from pathlib import Path

from reason_rl.content import find_content
from reason_rl.errors import RecipeError
from reason_rl.recipe.schema import Recipe, RewardSpec

Complaint = tuple[tuple[str, ...], str]
Factory = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

FILE = ("algorithm", "reward", "file")
PENALTY = "TRUNCATION_PENALTY"
WAY_OUT = (
    "reward(*, parameters) gets the recipe's parameters and returns a function of a RolloutBatch, see rewards/README.md"
)


def read_reward(recipe: Recipe, folder: Path) -> tuple[Path, ast.Module]:
    """Return the reward file of a recipe and its syntax tree.

    Raises:
        RecipeError: when there is no such file, or it is not Python.
    """
    assert recipe.algorithm is not None
    path = find_content(recipe.algorithm.reward.file, folder)
    try:
        return path, ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise RecipeError(f"{path}:{error.lineno}: {error.msg}") from error
    except ValueError as error:  # not UTF-8, or a null byte
        raise RecipeError(f"{path}: is no Python ({error})") from error


def check_factory(spec: RewardSpec, path: Path, tree: ast.Module) -> Iterator[Complaint]:
    """Yield what is wrong with the file's ``reward`` and with the parameters that the recipe gives it."""
    if not any(map(_binds_reward, _own_parts(tree))):
        yield FILE, f"{path}: defines no function reward(**parameters)"
        return
    factory = _factory(tree)
    if factory is None:
        return
    place = f"{path}:{factory.lineno}"
    if isinstance(factory, ast.AsyncFunctionDef):
        yield FILE, f"{place}: async def reward cannot be used; {WAY_OUT}"
        return
    yield from _parameters(spec, path, factory.args, place)


def check_overlong(overlong: str, path: Path, tree: ast.Module) -> Iterator[Complaint]:
    """Yield what is wrong with ``algorithm.overlong`` for a file that does, or does not, penalise cut rollouts by itself."""
    line = declared_at(tree, PENALTY)
    key = ("algorithm", "overlong")
    if line is None and overlong == "penalise":
        yield (
            key,
            f"penalise leaves cut rollouts to the reward, but {path} does not say {PENALTY} = True: if it penalises them, "
            "add that line; if not, use keep or mask",
        )
    elif line is not None and overlong != "penalise":
        does = {
            "mask": "takes cut rollouts out of the loss, so that it could never act",
            "keep": "says that cut rollouts are not penalised",
        }
        yield key, f"{path}:{line} says {PENALTY} = True, and {overlong} {does[overlong]}; use penalise"


def declares(tree: ast.Module, name: str) -> bool:
    """Tell whether a file says ``NAME = True``, with or without a type."""
    return declared_at(tree, name) is not None


def declared_at(tree: ast.Module, name: str) -> int | None:
    """Return the line in which a file says ``NAME = True``, None where it does not."""
    found = None
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                found = node.lineno if isinstance(node.value, ast.Constant) and node.value.value is True else None
    return found


def _binds_reward(node: ast.AST) -> bool:
    """Tell whether a node may give a module the name ``reward``; in doubt it may."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name == "reward"
    if isinstance(node, ast.Import | ast.ImportFrom):
        return any((alias.asname or alias.name) in ("reward", "*") for alias in node.names)
    return isinstance(node, ast.Name) and node.id == "reward" and isinstance(node.ctx, ast.Store)


def _factory(tree: ast.Module) -> Factory | None:
    """Return the function that ``reward`` is in the end, None where only running the file would tell."""
    node = [node for node in tree.body if any(map(_binds_reward, _own_parts(node)))][-1]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None if node.decorator_list else node
    value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    return value if isinstance(value, ast.Lambda) else None


def _own_parts(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and what it holds, but not what functions and classes hold: those names are theirs."""
    yield node
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        for part in ast.iter_child_nodes(node):
            yield from _own_parts(part)


def _parameters(spec: RewardSpec, path: Path, arguments: ast.arguments, place: str) -> Iterator[Complaint]:
    given = spec.params()
    known = [a.arg for a in (*arguments.args, *arguments.kwonlyargs)]
    for name in given:
        if name not in known and arguments.kwarg is None:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; {path.name} takes {', '.join(known) or 'none'}"
            yield ("algorithm", "reward", name), f"unknown parameter{hint}"
    positional = [*arguments.posonlyargs, *arguments.args]
    required = positional[: len(positional) - len(arguments.defaults)]
    nameless = {a.arg for a in arguments.posonlyargs}
    unmet = [a.arg for a in required if a.arg in nameless or a.arg not in given]
    if unmet:
        shown = f"reward({ast.unparse(arguments)})"
        yield FILE, f"{place}: {shown} would be called without {', '.join(unmet)}; {WAY_OUT}"
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is None and argument.arg not in given:
            yield ("algorithm", "reward", argument.arg), f"is missing; {path.name} needs it"
