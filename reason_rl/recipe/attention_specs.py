"""Sections of a recipe about what happens inside attention: a prior, selective temperatures, and head budgets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reason_rl.recipe.policies import PolicySection, Tokens

HeadBudget = Annotated[float, Field(gt=0, le=1)]


class HeadsSpec(PolicySection):
    """Budgeted heads, for ``reason-rl heads``; training refuses a recipe that has them."""

    unit: Literal["kv_group", "head"] = "kv_group"
    """What has a gate: a key-value head with its query heads, or each query head; the same where none is shared."""
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

    every: int | None = Field(default=None, gt=0)
    """Rollout batches between two decisions, updates in tasks pretrain and sft; null = 1 and 50."""
    window: int = Field(default=5, gt=0)
    """Decisions that a gain is measured over."""
    least_gain: float = Field(default=0.002, ge=0)
    """Of the metric, smoothed; below it, the temperature relaxes. The metric is accuracy less priced tokens of the rollouts,
    in tasks pretrain and sft the negative cross-entropy of held-out traces."""
    token_weight: float = Field(default=0.2, ge=0)
    """What a rollout of the largest budget costs, in accuracy (task train)."""
    held_out_traces: int = Field(default=64, gt=0)
    """Traces that the cross-entropy is of: of calibration problems (task pretrain), or kept out of training (task sft)."""


class PriorSpec(PolicySection):
    """The RPA prior on attention: soft regimes of places, or of what they hold, aligned with soft blocks of places."""

    reference_tokens: Tokens
    """Places that the prior is made for: the longest prompt and completion together; longer sequences are an error."""
    mode: Literal["kl", "bias"] = "kl"
    """kl: the divergence of attention from the prior is a term of the loss; bias: its logarithm is added to the attention
    logits (tasks pretrain and sft, for engines could not follow it in RL)."""
    variant: Literal["static", "content", "published"] = "static"
    """static: regimes of places; content: of hidden states, calibrated once and frozen; published: the paper's listing."""
    weight: float | None = Field(default=None, gt=0)
    """Of the divergence, or of the bias; null = 0.001 and 0.5."""
    layers: list[int] | None = Field(default=None, min_length=1)
    """Which layers; negative numbers count from the last; null = the last one for kl, all for bias."""
    heads: list[Annotated[float, Field(ge=0, le=1)]] | None = Field(default=None, min_length=1)
    """How much the prior counts in each attention head; null = fully in all."""
    queries: int = Field(default=128, gt=0)
    """Places of a forward pass whose attention is compared (kl)."""
    regimes: int = Field(default=4, ge=1, le=8)
    """Regimes, and blocks."""
    align: float = Field(default=0.7, ge=0.3)
    """Temperature of the alignment."""
    tau: float = Field(default=1.0, ge=0.3, le=1.6)
    """Temperature of the prior; lower is sharper."""
    begin: float = Field(default=0.0, ge=0, lt=1)
    """Share of the run before which there is no prior, and at which content memberships are calibrated (pretrain, sft)."""
    warm: float = Field(default=0.05, ge=0, le=1)
    """Share of the run over which the weight rises from 0."""
    fall: float | None = Field(default=0.6, ge=0, le=1)
    """Share of the run after which it falls; null = it stays, and a bias is saved with the model."""
    end: float = Field(default=0.9, gt=0, le=1)
    """Share of the run after which it is 0."""
    calibration_traces: int = Field(default=64, gt=0)
    """Traces that content memberships are calibrated on: rollouts of the starting model, else of training."""
    guardian: GuardianSpec | None = None
    """Divide the weight by a temperature that is controlled."""


class SSASpec(PolicySection):
    """Selective self-attention: an inverse temperature of each query and a scale of each value, learned with the model.

    Engine hf only; saved with the model as ssa.safetensors and ssa.json.
    """

    features: Literal["linear", "mlp", "none"] = "linear"
    """Of the token: w.x + c; w2.gelu(W1 x), W1 shared by all layers; or none."""
    gate: Literal["linear", "double_exponential", "none"] = "linear"
    """Of the position: 1 + beta ln n, at the start exactly 1; 1 + exp(-exp(beta)) ln n; or none."""
    values: bool = True
    """Scale values by their token too."""
    rate: float = Field(default=10.0, gt=0)
    """How many times the learning rate they learn at."""
    alone: bool = False
    """Train nothing else; false = beside all weights, or beside the adapter of LoRA."""


class AttentionSection(PolicySection):
    """What happens inside attention; all of it is off unless named."""

    prior: PriorSpec | None = None
    """A prior on where attention goes, as a regulariser."""
    ssa: SSASpec | None = None
    """Selective temperatures."""
    heads: HeadsSpec | None = None
    """Budgeted heads."""
