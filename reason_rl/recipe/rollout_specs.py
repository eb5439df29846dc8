"""Sections of a recipe about how rollouts are sampled and how an update on them is computed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from reason_rl.recipe.policies import STRICT


class ServerSection(BaseModel):
    """The server of engine vllm_server; see docs/engines.md for how it is started."""

    model_config = STRICT
    url: str
    """Its root, without /v1, such as http://node2:8000."""
    model: str
    """The name it serves the model by (--served-model-name)."""
    folder: str
    """Where weights are written for it; trainer and server must see it under the same path."""
    retries: int = Field(default=5, ge=0)
    """Further attempts after a dropped connection, a timeout, or a status such as 503."""
    timeout_seconds: float = Field(default=1800.0, gt=0)
    """For one completion, or for one change of weights."""
    first_wait_seconds: float = Field(default=1.0, gt=0)
    """Before the first retry; doubles each time, a minute at most."""


class StopSection(BaseModel):
    """How the end of thinking is pushed while rollouts are sampled; the importance ratio corrects for it."""

    model_config = STRICT
    strength: float = Field(default=1.0, gt=0)
    """Of the stop token: above 1 stops earlier, below 1 later, 1 leaves it alone."""
    mode: Literal["logprob", "bias"] = "logprob"
    """logprob: its log-probability divided by the strength; bias: its odds multiplied by it."""
    topk_gate: int | None = Field(default=5, gt=0)
    """Only where it is among so many likeliest tokens; null = everywhere."""
    max_think_tokens: int | None = Field(default=None, gt=0)
    """Thinking is closed after so many think tokens; the closing token is not sampled and stays out of the loss."""


class RolloutSection(BaseModel):
    """How rollouts are sampled."""

    model_config = STRICT
    engine: Literal["hf", "vllm", "vllm_server"] = "hf"
    """hf: the trainer's own model in this process; vllm: a vLLM engine in this process, kept at the trainer's weights;
    vllm_server: vllm serve on other GPUs or hosts, kept at them through a shared folder."""
    server: ServerSection | None = None
    """The server (engine vllm_server only)."""
    vllm: dict[str, Any] = {}
    """Further arguments of vllm.LLM, such as gpu_memory_utilization (engine vllm only)."""
    stop: StopSection | None = None
    """Push the end of thinking; null = sample from the model as it is. Evaluation never uses it."""
    max_batch_rows: int = Field(default=256, gt=0)
    """Rows decoded together."""
    allowance_tokens: int | None = Field(default=None, gt=0)
    """Completion tokens that training may sample, refills included; it ends after the updates on the rollouts that reach it,
    if trainer.max_steps has not ended it before."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature; the training logits are divided by it too."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling; 1 is off."""
    top_k: int = Field(default=0, ge=0)
    """Top-k sampling; 0 is off."""
    importance_correction: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "none"] = (
        "token_truncate"
    )
    """How differences between sampler and trainer are corrected."""
    importance_cap: float = Field(default=2.0, gt=0)
    """Largest importance ratio."""
    lag: Literal[0, 1] = 0
    """1: the next batch is sampled while the present one is trained on, from weights one update older; the importance ratio
    corrects for it. Engine hf then keeps a second copy of the model."""


class UpdateSection(BaseModel):
    """How an update is computed; none of it changes what is computed, but for rounding."""

    model_config = STRICT
    chunk_rows: int | None = Field(default=None, gt=0)
    """Rows of a pass, taken in the order of their lengths and padded to the longest of them; null = TRL's single pass."""
    skip_zero_advantage: bool | None = None
    """Leave out rows whose advantage is 0; null = where the loss does not need them, true = so, or an error."""
    old_logps: Literal["recomputed", "sampled"] = "recomputed"
    """Log-probabilities before the update: computed again, as TRL does, or those of the sampler (engine hf), a pass less."""
