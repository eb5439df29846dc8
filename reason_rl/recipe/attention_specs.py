"""Sections of a recipe about what happens inside attention: a prior, and head budgets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reason_rl.recipe.policies import PolicySection, Tokens

HeadBudget = Annotated[float, Field(gt=0, le=1)]


class HeadsSpec(PolicySection):
    """Budgeted heads, for ``reason-rl heads``; training refuses a recipe that has them."""

    unit: Literal["kv_group", "head"] = "kv_group"
    """What has a gate: a key-value head with its query heads, or each query head."""
    rank: Literal["gate", "threshold"] = "gate"
    """What a budget keeps first: the most open gates at it, or those that open at the smallest budget (nested masks)."""
    budgets: list[HeadBudget] = Field(default=[0.25, 0.5, 0.75, 1.0], min_length=1)
    """Shares of the heads that are trained hard."""
    lowest_budget: HeadBudget = 0.2
    """Smallest share of the soft phase."""
    problems: int = Field(default=512, gt=0)
    """Problems of the recipe's data, one trace of the model each, to distil on."""
    max_tokens: Tokens = 1024
    """Completion tokens of a trace at most."""
    batch_rows: int = Field(default=16, gt=0)
    """Traces an update."""
    soft_steps: int = Field(default=400, ge=0)
    """Updates with soft gates."""
    hard_steps: int = Field(default=200, ge=0)
    """Updates with hard gates."""
    learning_rate: float = Field(default=2e-5, gt=0)
    """Of the weights."""
    gate_rate: float = Field(default=10.0, gt=0)
    """How many times that the gates learn at."""
    distillation_weight: float = Field(default=1.0, ge=0)
    """Of the distance to the frozen model with soft gates, in the hard phase."""


class GuardianSpec(PolicySection):
    """A slow controller that turns the prior's temperature while the run gets better, and relaxes it while it does not."""

    every: int = Field(default=1, gt=0)
    """Rollout batches between two decisions."""
    window: int = Field(default=5, gt=0)
    """Decisions that a gain is measured over."""
    least_gain: float = Field(default=0.002, ge=0)
    """Of accuracy less priced tokens, smoothed; below it, the temperature relaxes."""
    token_weight: float = Field(default=0.2, ge=0)
    """What a rollout of the largest budget costs, in accuracy."""


class PriorSpec(PolicySection):
    """The RPA prior on attention, soft regimes of places aligned with soft blocks, as a term of the loss."""

    reference_tokens: Tokens
    """Places that the prior is made for: the longest prompt and completion together; longer sequences are an error."""
    weight: float = Field(default=1e-3, gt=0)
    """Of the divergence of attention from the prior."""
    layers: list[int] = Field(default=[-1], min_length=1)
    """Which layers; negative numbers count from the last."""
    queries: int = Field(default=128, gt=0)
    """Places of a forward pass whose attention is compared."""
    regimes: int = Field(default=4, ge=1, le=8)
    """Regimes, and blocks."""
    align: float = Field(default=0.7, ge=0.3)
    """Temperature of the alignment."""
    tau: float = Field(default=1.0, ge=0.3, le=1.6)
    """Temperature of the prior; lower is sharper."""
    warm: float = Field(default=0.05, ge=0, le=1)
    """Share of the run over which the weight rises from 0."""
    fall: float | None = Field(default=0.6, ge=0, le=1)
    """Share of the run after which it falls; null = it stays."""
    end: float = Field(default=0.9, gt=0, le=1)
    """Share of the run after which it is 0."""
    guardian: GuardianSpec | None = None
    """Divide the weight by a temperature that is controlled."""


class AttentionSection(PolicySection):
    """What happens inside attention; all of it is off unless named."""

    prior: PriorSpec | None = None
    """A prior on where attention goes, as a regulariser."""
    heads: HeadsSpec | None = None
    """Budgeted heads."""
