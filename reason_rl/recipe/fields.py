"""Names and types of the fields that belong to TRL and peft, from committed snapshots, so that checking needs no torch."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

SNAPSHOTS = Path(__file__).parent / "snapshots"

# Fields of TRL's configurations that another section of the recipe decides; those of EVERY_TASK whatever the task.
ELSEWHERE = {
    "output_dir": "output",
    "seed": "seed",
    "data_seed": "seed",
    "max_completion_length": "algorithm.budget.tokens",
    "temperature": "rollout.temperature",
    "top_p": "rollout.top_p",
    "top_k": "rollout.top_k",
    "mask_truncated_completions": "algorithm.overlong",
    "scale_rewards": "algorithm.advantage.scale",
    "beta": "algorithm.kl.coefficient",
    "reward_weights": "the reward file",
    "use_vllm": "rollout.engine",
    "model_init_kwargs": "model",
    "multi_objective_aggregation": "algorithm.advantage",
}
SAMPLING = "is read by TRL's own engines only; how rollouts are sampled is set in rollout"
# Fields that would change nothing, or only half of what they name.
REFUSED = {
    "disable_tqdm": "is not read: reason_rl shows its own progress; leave it out",
    "use_cpu": "is decided by the machine; hide its GPUs with CUDA_VISIBLE_DEVICES= instead",
    "save_strategy": "is always steps; set save_steps",
    "logging_strategy": "is always steps; set logging_steps",
    "resume_from_checkpoint": "is not read; use --resume",
    "eval_strategy": "is not for training here: the model is evaluated before and after it, as eval says",
    "generation_batch_size": "is not read; set steps_per_generation",
    "chat_template_kwargs": "would change the prompts of training alone, neither those that are checked nor those of "
    "evaluation; change the model's chat template",
    "min_p": SAMPLING,
    "repetition_penalty": SAMPLING,
    "generation_kwargs": SAMPLING,
    "cache_implementation": SAMPLING,
    "use_transformers_paged": SAMPLING,
    "use_transformers_continuous_batching": SAMPLING,
    "transformers_continuous_batching_config": SAMPLING,
}
EVERY_TASK = (
    "output_dir",
    "seed",
    "data_seed",
    "model_init_kwargs",
    "disable_tqdm",
    "use_cpu",
    "save_strategy",
    "logging_strategy",
    "eval_strategy",
    "resume_from_checkpoint",
)
SCALARS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


@cache
def snapshot(name: str) -> Mapping[str, str]:
    """Return field name -> type of a configuration class ("grpo_config", "dpo_config", "lora_config" ...)."""
    fields: dict[str, str] = json.loads((SNAPSHOTS / f"{name}.json").read_text())
    return fields


def problems(section: str, name: str, given: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield (key path, message) for every unknown, misplaced or wrongly typed field."""
    known = snapshot(name)
    for key, value in given.items():
        if section == "trainer" and (refusal := _refusal(name, key)):
            yield (section, key), refusal
        elif key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            yield (section, key), "unknown key" + (f"; did you mean {near[0]}?" if near else "")
        elif not _fits(value, known[key]):
            yield (section, key), f"should be {known[key]}, is {value!r}"


def _refusal(name: str, key: str) -> str | None:
    """Return why a field is not one of the trainer section, None when it is."""
    if key.startswith("vllm_"):
        return "is set by rollout; move it there"
    if name != "grpo_config" and key not in EVERY_TASK:
        return None
    return f"is set by {ELSEWHERE[key]}; move it there" if key in ELSEWHERE else REFUSED.get(key)


def _fits(value: Any, kind: str) -> bool:
    """Compare scalars with the declared type; other types are left to the class itself."""
    parts = [part.strip() for part in kind.split("|")]
    if value is None:
        return "None" in parts
    if not all(part in SCALARS or part == "None" for part in parts):
        return True
    allowed = tuple(t for part in parts if part != "None" for t in SCALARS[part])
    return isinstance(value, allowed) and (not isinstance(value, bool) or bool in allowed)


def take_snapshots() -> dict[str, dict[str, str]]:
    """Return the snapshots of the installed TRL and peft, and of our own pretraining (imports torch)."""
    import dataclasses

    from peft import LoraConfig
    from trl import DPOConfig, GRPOConfig, SFTConfig

    from reason_rl.world.pretrain import PretrainConfig

    classes = {
        "grpo_config": GRPOConfig,
        "dpo_config": DPOConfig,
        "sft_config": SFTConfig,
        "lora_config": LoraConfig,
        "pretrain_config": PretrainConfig,
    }
    return {
        name: {field.name: _type_name(field.type) for field in sorted(dataclasses.fields(kind), key=lambda f: f.name)}
        for name, kind in classes.items()
    }


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, str):
        text = annotation
    else:
        text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    text = text.replace("typing.", "").replace("NoneType", "None")
    if text.startswith("Optional[") and text.endswith("]"):
        text = text.removeprefix("Optional[").removesuffix("]") + " | None"
    if text.startswith("Union[") and text.endswith("]") and "[" not in text[6:-1]:
        text = " | ".join(part.strip() for part in text[6:-1].split(","))
    return text


if __name__ == "__main__":
    for snapshot_name, fields in take_snapshots().items():
        (SNAPSHOTS / f"{snapshot_name}.json").write_text(json.dumps(fields, indent=1) + "\n")
