"""Sections of the tasks that learn from what was written beforehand, or merge: merge, pairs, turns."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from reason_rl.algorithm.turns import CANDIDATE, CUT
from reason_rl.merge.spec import Dtype, MergeSpec, Method, complaint_about
from reason_rl.recipe.policies import STRICT


class MergeSection(BaseModel):
    """Models merged into one without training, as by ``reason-rl merge``."""

    model_config = STRICT
    method: Method
    """How weights are combined."""
    models: list[str]
    """Folders, hub ids, names or adapters; the first one's configuration and tokenizer are kept."""
    weights: list[float] = []
    """One a model; empty = all 1."""
    base: str | None = None
    """What differences are taken to (every method but linear)."""
    density: float | None = None
    """Share of the entries of each difference that is kept; null = the method's default."""
    scale: float | None = None
    """Factor on the merged difference; null = the method's default."""
    seed: int = 0
    """Of the entries that DARE keeps."""
    tokenizer: str | None = None
    """The model whose tokenizer, configuration and own vocabulary rows are kept, where vocabularies differ."""
    exclude: str | None = None
    """Regular expression; tensors whose name it matches are copied, not merged."""
    dtype: Dtype | None = None
    """Of the result; null = as stored."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if complaint := complaint_about(self.spec()):
            raise ValueError(complaint)
        return self

    def spec(self) -> MergeSpec:
        """Return the same for the merge itself."""
        return MergeSpec(**{**dict(self), "models": tuple(self.models), "weights": tuple(self.weights)})


class PairsSection(BaseModel):
    """Preferences between solutions of a long and a short model, for DPO (task dpo)."""

    model_config = STRICT
    long: str | None = None
    """Folder, hub id or name of the model with long solutions; null = the recipe's model."""
    short: str
    """Folder, hub id or name of the model with short ones, of the same tokenizer."""
    samples: int = Field(default=12, gt=0)
    """Solutions of a problem by each of the two."""
    max_tokens: int = Field(gt=0)
    """Cap of a solution in completion tokens; cut ones count as wrong."""
    problems: int | None = Field(default=None, gt=0)
    """Take the first so many training problems only."""
    margin: float | None = Field(default=None, ge=-1, le=1)
    """Long is preferred where its share right is higher by more than this; null = half a sample, 1 / (2 samples)."""
    group_pairs: int = Field(default=4, ge=0)
    """Pairs a problem between the preferred style and the other."""
    instance_pairs: int = Field(default=2, ge=0)
    """Pairs a problem within the preferred style: the shortest right solution against the longest."""
    least_difference: float = Field(default=0.1, ge=0, lt=1)
    """Pairs within a style whose lengths differ by less than this share of the longer one are left out."""
    max_pairs: int = Field(default=15000, gt=0)
    """Pairs altogether at most."""


def _pattern(text: str) -> str:
    """Check that a text is a regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression ({error})") from error
    return text


class TurnsSection(BaseModel):
    """Right solutions rewritten as turns, a unit of thinking and its answer each, for supervised fine-tuning (task sft)."""

    model_config = STRICT
    model: str | None = None
    """Folder, hub id or name of the model whose solutions are rewritten; null = the recipe's model."""
    samples: int = Field(default=1, gt=0)
    """Solutions of a problem; right ones are kept."""
    max_tokens: int = Field(gt=0)
    """Cap of a solution in completion tokens; cut ones are left out."""
    answer_tokens: int = Field(default=64, gt=0)
    """Cap of the answer that is sampled after a unit in completion tokens; traces with longer ones are left out."""
    problems: int | None = Field(default=None, gt=0)
    """Take the first so many training problems only."""
    cut: Annotated[str, AfterValidator(_pattern)] = CUT
    """Regular expression that matches where a unit may begin."""
    candidate: Annotated[str, AfterValidator(_pattern)] = CANDIDATE
    """Regular expression that must match in a unit before the next one may begin."""
