"""What a recipe says of itself."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from reason_rl.recipe.policies import STRICT


class AboutSection(BaseModel):
    """What ``recipes ls`` says of a recipe, beside the comment on its second line; changes nothing about a run."""

    model_config = STRICT
    method: str
    """Name of the method."""
    paper: str | None = None
    """Title of the paper; null for what is ours."""
    arxiv: str | None = Field(default=None, pattern=r"^\d{4}\.\d{5}$")
    """Its arXiv id."""
    state: Literal["measured", "unit only", "not run"] = "unit only"
    """measured: its results are committed; unit only: covered by tests, no results; not run: never run as it stands."""
    published: str | None = None
    """The paper's own figures for this model, with their place in the paper."""
