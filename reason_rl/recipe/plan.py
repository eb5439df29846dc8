"""What a recipe will do, worked out without loading weights: rows, updates, tokens, memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reason_rl.recipe.checks import TRL_DEFAULTS, rows_per_generation, updates_per_generation
from reason_rl.recipe.schema import Recipe

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2}
GIGABYTE = 1e9


def plan(recipe: Recipe, config: Mapping[str, Any] | None, processes: int = 1) -> dict[str, Any]:
    """Return the figures of a run; ``config`` is the model's config.json, None when it is not on this machine."""
    if recipe.algorithm is None:
        others = {"pretrain": {"pretrain": dict(recipe.pretrain)}, "merge": {}}
        return {"task": recipe.task} | others.get(recipe.task, {"updates": recipe.trainer.get("max_steps")})
    trainer = {**TRL_DEFAULTS, **recipe.trainer}
    rows = rows_per_generation(recipe.trainer)
    updates = updates_per_generation(recipe.trainer)
    groups = rows * processes // trainer["num_generations"]
    steps = trainer.get("max_steps")
    budget = recipe.algorithm.budget.longest
    problems = getattr(recipe.data, "count", None)
    figures: dict[str, Any] = {
        "rows_per_generation": rows * processes,
        "groups_per_generation": groups,
        "updates_per_generation": updates,
        "updates_per_epoch": None if problems is None else problems // groups * updates,
        "updates": steps,
        "generations": None if steps is None else -(-steps // updates),
        "largest_rollout_tokens_per_generation": rows * processes * budget,
        "rounds_at_most": recipe.algorithm.filter.max_rounds if recipe.algorithm.filter.refill else 1,
        "budget_tokens": budget,
        "parameters": None,
    }
    if config is not None:
        figures |= memory(recipe, config, trainer["per_device_train_batch_size"], rows, budget)
    return figures


def read_config(folder: str) -> dict[str, Any] | None:
    """Return config.json of a model folder, None when there is none."""
    path = Path(folder) / "config.json"
    return json.loads(path.read_text()) if path.is_file() else None


def parameters(config: Mapping[str, Any]) -> int:
    """Return the parameters of a Llama- or Qwen-like decoder, from its configuration (norms and biases included)."""
    hidden, layers, vocabulary = config["hidden_size"], config["num_hidden_layers"], config["vocab_size"]
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    key_value = config.get("num_key_value_heads") or heads
    attention = hidden * size * (2 * heads + 2 * key_value)
    if config.get("model_type") == "qwen2":
        attention += size * (heads + 2 * key_value)
    mlp = 3 * hidden * config["intermediate_size"]
    embeddings = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return layers * (attention + mlp + 2 * hidden) + hidden + embeddings


def lora_parameters(config: Mapping[str, Any], rank: int) -> int:
    """Return the parameters of an adapter of this rank on all linear layers of the decoder."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    query, key_value = heads * size, (config.get("num_key_value_heads") or heads) * size
    inner = config["intermediate_size"]
    ends = 2 * (hidden + query) + 2 * (hidden + key_value) + 3 * (hidden + inner)
    return int(config["num_hidden_layers"] * rank * ends)


def memory(recipe: Recipe, config: Mapping[str, Any], micro_rows: int, rows: int, budget: int) -> dict[str, Any]:
    """Return parameters and an estimate of memory a process, in GB: weights, gradients + Adam, activations, cache."""
    count = parameters(config)
    trained = count if recipe.lora is None else lora_parameters(config, recipe.lora.get("r", 8))
    width = BYTES[recipe.model.dtype]
    layers, hidden = config["num_hidden_layers"], config["hidden_size"]
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    size = config.get("head_dim") or hidden // config["num_attention_heads"]
    checkpointed = recipe.trainer.get("gradient_checkpointing", False)
    # Roughly 16 activations of the hidden size a layer and token are kept without checkpointing, one with it.
    kept = 1 if checkpointed else 16
    parts = {
        "weights": count * width,
        "gradients_and_adam": trained * (width + 8),
        "reference_model": count * width
        if recipe.algorithm and recipe.algorithm.kl.coefficient and not recipe.lora
        else 0,
        "activations": micro_rows * budget * layers * hidden * kept * width,
        "rollout_cache": min(rows, recipe.rollout.max_batch_rows) * budget * layers * 2 * heads * size * width,
    }
    return {
        "parameters": count,
        "trained_parameters": trained,
        "memory_gb": {name: round(value / GIGABYTE, 3) for name, value in parts.items()},
        "memory_total_gb": round(sum(parts.values()) / GIGABYTE, 3),
        "context_tokens": config.get("max_position_embeddings"),
    }
