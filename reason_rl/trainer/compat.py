"""The methods of TRL that we wrap, with the signatures we rely on; anything else stops at start-up with one line.

Also what torch has to be told so that several CPU processes can resume.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from trl import GRPOTrainer

from reason_rl.errors import RunError

WRAPPED = {
    "_calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
    "_generate_and_score_completions": ("self", "inputs"),
    "_tokenize_prompts": ("self", "prompts"),
    "compute_loss": ("self", "model", "inputs", "return_outputs", "num_items_in_batch"),
    "training_step": ("self", "model", "inputs", "num_items_in_batch"),
    "_get_train_sampler": ("self", "dataset"),
    "log": ("self", "logs", "start_time"),
}


def check_trl() -> None:
    """Raise RunError when a wrapped method of the installed TRL has another signature than the one recorded."""
    check_signatures(GRPOTrainer, WRAPPED)


def check_signatures(trainer: type, wrapped: Mapping[str, tuple[str, ...]]) -> None:
    """Raise RunError when a wrapped method of one of TRL's trainers has another signature than the one recorded."""
    for name, expected in wrapped.items():
        method = getattr(trainer, name, None)
        found = tuple(inspect.signature(method).parameters) if method else None
        if found != expected:
            raise RunError(
                f"this TRL has {trainer.__name__}.{name}{found}, reason_rl was written for {expected}; install trl 1.16"
            )


def on_numbered_cpu(storage: Any, location: str) -> Any:
    """Return a storage that is wanted on ``cpu:1`` as it is, None for other devices.

    accelerate numbers the CPU by process, transformers loads the optimizer to that device, and torch knows ``cpu`` alone.
    """
    return storage if location.startswith("cpu:") else None


torch.serialization.register_package(101, lambda storage: None, on_numbered_cpu)
