"""Sections of a recipe that name a policy: budgets, targets, curricula."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

STRICT = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

Tokens = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class PolicySection(BaseModel):
    """Base of these sections: unknown keys fail, values do not change after loading."""

    model_config = STRICT


class FixedBudgetSpec(PolicySection):
    """The same cap for every rollout."""

    use: Literal["fixed"] = "fixed"
    tokens: Tokens
    """Completion tokens a rollout may use."""

    @property
    def longest(self) -> int:
        """Return the largest cap, in completion tokens."""
        return self.tokens


class StairsBudgetSpec(PolicySection):
    """A cap that goes down in steps; the model at the end of each step is kept."""

    use: Literal["stairs"]
    tokens: list[Tokens] = Field(min_length=1)
    """Completion tokens of each step, falling; the last stays."""
    every: int = Field(gt=0)
    """Rollout batches of a step."""

    @property
    def longest(self) -> int:
        """Return the largest cap, in completion tokens."""
        return max(self.tokens)


class CycleBudgetSpec(PolicySection):
    """A cap that falls and rises; the models at the lowest cap and at the end of each cycle are kept."""

    use: Literal["cycle"]
    shape: Literal["cosine", "stair", "stair_cosine"] = "cosine"
    """How the cap goes from high to low and back."""
    low_tokens: Tokens
    """Lowest cap, completion tokens."""
    high_tokens: Tokens
    """Highest cap, completion tokens."""
    period: int = Field(gt=0)
    """Rollout batches of a cycle."""

    @property
    def longest(self) -> int:
        """Return the largest cap, in completion tokens."""
        return self.high_tokens


class PassRateBudgetSpec(PolicySection):
    """A cap by the pass rate at a problem's last visit; the longest before the first, unless a difficulty table knows it."""

    use: Literal["pass_rate"]
    thresholds: list[Share]
    """Pass rates, rising."""
    tokens: list[Tokens]
    """Completion tokens, falling, one more than thresholds: the first below the first threshold."""

    @property
    def longest(self) -> int:
        """Return the largest cap, in completion tokens."""
        return max(self.tokens)


class HistoryBudgetSpec(PolicySection):
    """A cap in proportion to a problem's own right rollouts so far (20th percentile of the newest 32)."""

    use: Literal["history"]
    factor: float = Field(default=1.5, gt=0)
    """How much longer than those a rollout may be."""
    smallest_tokens: Tokens
    """Smallest cap, completion tokens."""
    largest_tokens: Tokens
    """Largest cap, completion tokens, also before the first right rollout."""

    @property
    def longest(self) -> int:
        """Return the largest cap, in completion tokens."""
        return self.largest_tokens


def _kind(given: Any) -> Any:
    """Return which budget is meant; fixed when nothing is said."""
    return given.get("use", "fixed") if isinstance(given, dict) else getattr(given, "use", None)


BudgetSpec = Annotated[
    Annotated[FixedBudgetSpec, Tag("fixed")]
    | Annotated[StairsBudgetSpec, Tag("stairs")]
    | Annotated[CycleBudgetSpec, Tag("cycle")]
    | Annotated[PassRateBudgetSpec, Tag("pass_rate")]
    | Annotated[HistoryBudgetSpec, Tag("history")],
    Discriminator(_kind),
]


class TargetsSpec(PolicySection):
    """Target lengths by difficulty, measured on a fixed draw of the training problems; a reward reads them."""

    smallest_tokens: Tokens
    """Smallest target, completion tokens."""
    largest_tokens: Tokens
    """Largest target, completion tokens; where it is too small, nothing is too long."""
    interval_tokens: Tokens
    """Step from one possible target to the next."""
    problems: int = Field(gt=0)
    """Problems of the monitoring set."""
    rollouts: int = Field(ge=2)
    """Rollouts of each; their tokens count as rollout tokens."""
    every: int = Field(gt=0)
    """Rollout batches from one measurement to the next."""
    rounding: Literal["floor", "ceil"] = "floor"
    """Of the right responses a problem of a tier has at the least."""


class BandCurriculumSpec(PolicySection):
    """Problems whose pass rate is in a band; unknown ones count as in it."""

    use: Literal["band"]
    low: Share
    """Lowest pass rate."""
    high: Share
    """Highest pass rate."""
    outside_weight: Share = 0.05
    """Weight of the other problems, so that they are measured again; 0 draws them only where the band has too few."""


class CuresCurriculumSpec(PolicySection):
    """Problems in proportion to exp(sqrt(p (1 - p)) / temperature), p the posterior mean of the success rate."""

    use: Literal["cures"]
    temperature: float = Field(default=0.1, gt=0)
    """How sharply problems of medium difficulty are preferred."""
    decay: float = Field(default=0.9, ge=0, le=1)
    """What is left of the counts after each rollout batch."""
    probe_rollouts: int = Field(default=4, ge=0)
    """Rollouts of each problem before training; problems of a difficulty table need none. 0 starts from ignorance."""
    problems: int | None = Field(default=None, gt=0)
    """Problems a rollout batch, rollouts in proportion to sqrt(p (1 - p)), in steps of num_generations; null = all alike."""


CurriculumSpec = Annotated[BandCurriculumSpec | CuresCurriculumSpec, Field(discriminator="use")]


class DifficultySection(PolicySection):
    """A table of pass rates and lengths that ``reason-rl difficulty`` wrote; problems that are not in it are left out."""

    table: str
    """The file: beside the recipe, in the working folder, or one that ships."""
    low: Share = 0.0
    """Train on problems with at least this pass rate."""
    high: Share = 1.0
    """Train on problems with at most this pass rate."""
