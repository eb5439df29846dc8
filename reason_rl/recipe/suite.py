"""Benchmark suites: eval/suites/*.yaml, what is asked, how it is sampled and how it is graded."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from reason_rl.content import content_roots, find_content
from reason_rl.errors import RecipeError
from reason_rl.recipe.document import override, read
from reason_rl.recipe.grading_checks import grading_complaint
from reason_rl.recipe.load import explain
from reason_rl.recipe.schema import AnswerSection, EvalSection, PromptSection, Section


class Suite(Section):
    """The sections of a recipe that make an evaluation, whatever the model."""

    eval: EvalSection
    """Problems and sampling."""
    prompt: PromptSection = PromptSection()
    """How a problem becomes a chat message."""
    answer: AnswerSection = AnswerSection()
    """How answers are graded."""


@dataclass(frozen=True)
class LoadedSuite:
    """A suite that passed its checks."""

    name: str
    path: Path
    suite: Suite


def shipped_suites() -> dict[str, Path]:
    """Return the shipped suites by name, for instance ``gsm8k``."""
    return {path.stem: path for path in sorted((content_roots()[0] / "eval" / "suites").glob("*.yaml"))}


def load_suite(name: str, assignments: Sequence[str] = ()) -> LoadedSuite:
    """Load and check a suite by the name of a shipped one, or by path.

    Args:
        name: such as ``gsm8k``, or a .yaml file.
        assignments: overrides, ``eval.samples=1``.

    Raises:
        RecipeError: with one line for each thing that is wrong; for an unknown name, with a near one.
    """
    path = _find(name)
    document = override(read(path), assignments)
    try:
        suite = Suite.model_validate(document.values)
    except ValidationError as error:
        raise RecipeError("\n".join(explain(error, document))) from error
    if complaint := grading_complaint(suite.eval.data, suite.answer.verify):
        raise RecipeError(f"{path}: answer.verify: {complaint}")
    return LoadedSuite(path.stem, path, suite)


def _find(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        return find_content(name)
    suites = shipped_suites()
    if name in suites:
        return suites[name]
    close = difflib.get_close_matches(name, suites, n=1)
    raise RecipeError(
        f"no suite {name}" + (f"; did you mean {close[0]}?" if close else f"; there are {', '.join(suites)}")
    )
