"""Sections of a recipe's ``algorithm:`` that change which rows there are, how they begin, or what they are compared with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reason_rl.recipe.policies import PolicySection

VariantName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class OpeningSpec(PolicySection):
    """What a share of each group's rollouts begin with instead of sampling it."""

    text: str
    """The opening, tokenised by itself; empty = sampled as it comes."""
    share: float = Field(gt=0, lt=1)
    """Share of a group's rollouts; the shares add up to 1."""
    budget_tokens: int | None = Field(default=None, gt=0)
    """Completion tokens of such a rollout at most; null = those of algorithm.budget."""
    trained: bool = True
    """Train the opening: its old probability is its share. Otherwise it is left out of the loss."""


class SummariesSpec(PolicySection):
    """Traces are cut at several budgets, and short answers sampled there earn the reward of trace and answer."""

    budgets: list[int] = Field(min_length=1)
    """Think tokens after which a trace is cut, growing; the last one is algorithm.budget.tokens."""
    tokens: int = Field(gt=0)
    """Completion tokens of a summary."""
    samples: int = Field(default=4, gt=0)
    """Summaries of each trace and budget."""
    prior: Literal["uniform", "linear", "base"] = "uniform"
    """How likely each budget is: equal, in proportion to it, or the last one alone."""
    decay: float = Field(default=0.5, gt=0, le=1)
    """How much less an earlier budget counts than the one after it, as baseline."""
    variance: Literal["brpo", "earlier_only", "group_only", "none"] = "brpo"
    """The traces' baseline: earlier budgets and the group, one of them, none."""
    train: Literal["all", "last"] = "all"
    """Which summaries are trained: those of all budgets, or of the last."""
    cut_text: str = ""
    """Put after a cut trace, before the end-of-think token."""
    answer_text: str = ""
    """Put before every summary."""


class PricesSpec(PolicySection):
    """What a completion costs, by variant of the prompt; lowered for a variant that loses accuracy."""

    prices: dict[VariantName, Annotated[float, Field(ge=0, lt=1)]]
    """Share of a right answer's reward that a completion of the maximal length costs, for each variant ("plain" too)."""
    warmup_generations: int = Field(default=0, ge=0)
    """Rollout batches over which prices rise from 0."""
    accuracy_loss: float = Field(default=0.05, ge=0)
    """Training accuracy that a variant may lose against the end of the warm-up before its price falls."""
    smoothing: float = Field(default=0.9, ge=0, lt=1)
    """Weight of the past in the running accuracy."""
    fall: float = Field(default=0.9, gt=0, le=1)
    """Factor on the price a rollout batch while too much is lost."""
    rise: float = Field(default=1.02, ge=1)
    """Factor a rollout batch otherwise, up to the full price."""


class ReferenceSpec(PolicySection):
    """How the starting model is measured; the rows are kept in the run folder and are not sampled again."""

    samples: int = Field(gt=0)
    """Completions a problem."""
    max_tokens: int = Field(gt=0)
    """Completion tokens of each; those that reach it count as wrong."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling; 1 is off."""
