"""Turns the sections of a recipe into TRL's GRPOConfig, peft's LoraConfig and our Composition."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig
from trl import GRPOConfig

from reason_rl.algorithm.budget import make_budget
from reason_rl.algorithm.reward import load_reward
from reason_rl.rollout.backend import SamplingOptions
from reason_rl.trainer.composition import AdvantageRule, Composition, FilterRule

if TYPE_CHECKING:
    from reason_rl.recipe.schema import Recipe

# TRL's own defaults for these have changed between releases, or do not suit reasoning traces: our choice, shown by `show`.
DEFAULTS: dict[str, Any] = {
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_total_limit": 2,
    "epsilon": 0.2,
    "loss_type": "dapo",
    "num_iterations": 1,
    "lr_scheduler_type": "constant_with_warmup",
    "use_bias_correction_kl": False,
}


def grpo_config(recipe: Recipe, output_dir: Path, budget_tokens: int) -> GRPOConfig:
    """Build the GRPOConfig: raw ``trainer:`` fields over our defaults, then what the other sections decide."""
    assert recipe.algorithm is not None
    given = dict(recipe.trainer)
    correction = recipe.rollout.importance_correction
    decided = {
        "output_dir": str(output_dir),
        "seed": recipe.seed,
        "max_completion_length": budget_tokens,
        "temperature": recipe.rollout.temperature,
        "top_p": recipe.rollout.top_p,
        "top_k": recipe.rollout.top_k,
        "beta": recipe.algorithm.kl.coefficient,
        "scale_rewards": "none",
        "mask_truncated_completions": False,
        "vllm_importance_sampling_correction": correction != "none",
        "vllm_importance_sampling_clip_max": recipe.rollout.importance_cap,
        "disable_tqdm": True,
        "logging_strategy": "steps",
        "save_strategy": "steps",
        "use_cpu": not torch.cuda.is_available(),
    }
    if correction != "none":
        decided["vllm_importance_sampling_mode"] = correction
    fields = {**DEFAULTS, **given, **decided}
    per_generation = updates_per_generation(fields)
    fields.setdefault("logging_steps", per_generation)
    fields.setdefault("save_steps", 10 * per_generation)
    return GRPOConfig(**fields)


def updates_per_generation(fields: dict[str, Any]) -> int:
    """Return the optimizer updates made on one generation batch: S * K / gradient accumulation."""
    accumulation = fields.get("gradient_accumulation_steps", 1)
    slices = fields.get("steps_per_generation") or accumulation
    return max(1, slices * fields.get("num_iterations", 1) // accumulation)


def lora_config(recipe: Recipe) -> LoraConfig | None:
    """Build the LoraConfig of the ``lora:`` section; None for full fine-tuning."""
    if recipe.lora is None:
        return None
    return LoraConfig(**{"task_type": "CAUSAL_LM", **dict(recipe.lora)})


def sampling_options(recipe: Recipe) -> SamplingOptions:
    """Return how rollouts are sampled."""
    return SamplingOptions(recipe.rollout.temperature, recipe.rollout.top_p, recipe.rollout.top_k)


def composition(recipe: Recipe, reward_file: Path) -> Composition:
    """Build the method from the ``algorithm:`` section."""
    algorithm = recipe.algorithm
    assert algorithm is not None
    return Composition(
        reward=load_reward(reward_file, **algorithm.reward.params()),
        budget=make_budget(algorithm.budget),
        filter=FilterRule(**algorithm.filter.model_dump()),
        advantage=AdvantageRule(**algorithm.advantage.model_dump()),
        overlong=algorithm.overlong,
        kl_type=algorithm.kl.type,
        kl_coefficient=algorithm.kl.coefficient,
        seed=recipe.seed,
    )
