"""Sections of a recipe about what happens inside attention: selective temperatures and head budgets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reason_rl.recipe.policies import PolicySection, Tokens

HeadBudget = Annotated[float, Field(gt=0, le=1)]


class SSASpec(PolicySection):
    """Selective self-attention: each query gets its own inverse temperature, each value its own scale."""

    features: Literal["linear", "mlp", "none"] = "linear"
    """What of a token sets them: a linear map, a small shared network, or nothing (positions only)."""
    gate: Literal["linear", "double_exponential", "none"] = "linear"
    """How the temperature follows the position; linear starts exactly at the model as it is."""
    values: bool = True
    """Scale values too."""
    rate: float = Field(default=10.0, gt=0)
    """How many times the learning rate these parameters learn at."""
    alone: bool = False
    """Train nothing else."""


class HeadsSpec(PolicySection):
    """Budgeted heads, for ``reason-rl heads``; ``train`` does not read it."""

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


class AttentionSection(PolicySection):
    """What happens inside attention; all of it is off unless named."""

    ssa: SSASpec | None = None
    """Selective temperatures, trained with everything else or alone."""
    heads: HeadsSpec | None = None
    """Budgeted heads."""
