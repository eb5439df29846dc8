"""Turns a recipe into its smoke run: the same method, two steps of a tiny random model on problems of the tiny world."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from reason_rl.errors import RecipeError
from reason_rl.models import TINY_RANDOM, TINY_REASONER
from reason_rl.recipe.method_checks import GROUPS_FOR_A_BATCH_SCALE
from reason_rl.recipe.offline_specs import MergeSection
from reason_rl.recipe.policies import CuresCurriculumSpec, DifficultySection
from reason_rl.recipe.schema import AlgorithmSection, AnswerSection, EvalSection, ModelSection, Recipe, WorldData
from reason_rl.tiny_random import architecture
from reason_rl.world.tokenizer import END_THINK

SUFFIX = "-smoke"
PROBLEMS = 64
# What belongs to a machine or to the length of a run, not to the method.
DROPPED = {
    "bf16",
    "ddp_backend",
    "deepspeed",
    "eval_steps",
    "fp16",
    "fsdp",
    "fsdp_config",
    "logging_steps",
    "num_train_epochs",
    "optim",
    "push_to_hub",
    "save_steps",
    "tf32",
    "torch_compile",
}
TABLE = "eval/difficulty/tiny.jsonl"  # knows the problems of the tiny world
SHORT_OFFLINE = {
    "bf16": False,
    "gradient_accumulation_steps": 1,
    "logging_steps": 1,
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "report_to": "none",
}
SHORT = {
    "gradient_accumulation_steps": 1,
    "logging_steps": 1,
    "max_steps": 2,
    "report_to": "none",
    "steps_per_generation": 2,
}


def smoke(recipe: Recipe) -> Recipe:
    """Return the recipe with another model, other problems and little of both; the method is left as it is.

    Kept: reward, budgets and their lengths, filter, advantage, KL, group size, loss, LoRA, learning rate. Changed: the model
    (a tiny random one of the same architecture), the problems (64 of the tiny world), the engine (hf), two groups a
    process (eight where advantages are scaled over the batch) and two updates of them, at most two rounds of refilling. A
    random model is never right, so a reward of correctness alone has no gradient: a smoke run shows that a recipe loads,
    samples, grades, updates and saves.

    Raises:
        RecipeError: for a recipe that trains no model with RL, or a model of no known family.
    """
    if recipe.task in ("dpo", "sft"):
        return _smoke_offline(recipe)
    if recipe.algorithm is None:
        raise RecipeError(f"task {recipe.task}: only tasks train, dpo and sft have a smoke run")
    fields: dict[str, Any] = {
        "output": f"{recipe.output}{SUFFIX}",
        "model": _model(recipe.model),
        "data": WorldData(use="world", split="train", count=PROBLEMS),
        "answer": _answer(recipe.answer),
        "difficulty": None if recipe.difficulty is None else DifficultySection(table=TABLE),
        "algorithm": _algorithm(recipe.algorithm),
        "rollout": recipe.rollout.model_copy(update={"engine": "hf", "vllm": {}, "server": None}),
        "trainer": _trainer(recipe.trainer, recipe.algorithm.advantage.scale),
        "eval": EvalSection(data=WorldData(use="world", split="test", count=8), samples=1, max_tokens=64),
    }
    return recipe.model_copy(update=fields)


def _smoke_offline(recipe: Recipe) -> Recipe:
    """Return the smoke run of a task that learns from solutions written beforehand.

    The tiny reasoner writes them, for a random model has none that are right; a start that is merged is the tiny random
    model merged with itself.
    """
    model = _model(recipe.model)
    few = {"samples": 2, "max_tokens": 256, "problems": 16}
    styles = {"long": TINY_REASONER, "short": TINY_REASONER, "margin": None}
    changes = {
        "output": f"{recipe.output}{SUFFIX}",
        "model": model,
        "merge": recipe.merge and MergeSection(method="linear", models=[model.path] * 2),
        "data": WorldData(use="world", split="train", count=PROBLEMS),
        "answer": _answer(recipe.answer),
        "difficulty": None,
        "pairs": recipe.pairs and recipe.pairs.model_copy(update=few | styles),
        "turns": recipe.turns and recipe.turns.model_copy(update=few | {"model": TINY_REASONER}),
        "rollout": recipe.rollout.model_copy(update={"engine": "hf", "vllm": {}, "server": None}),
        "trainer": {key: value for key, value in recipe.trainer.items() if key not in DROPPED} | SHORT_OFFLINE,
        "eval": EvalSection(data=WorldData(use="world", split="test", count=8), samples=1, max_tokens=64),
    }
    return recipe.model_copy(update=changes)


def _model(section: ModelSection) -> ModelSection:
    """Return the tiny model's section; a model that thinks keeps thinking, with the tiny world's token."""
    thinks = section.end_think_token is not None
    return ModelSection(path=TINY_RANDOM + architecture(section.path), end_think_token=END_THINK if thinks else None)


def _answer(section: AnswerSection) -> AnswerSection:
    """Return the grading of the tiny world's problems: they have no instances to check against."""
    return section.model_copy(update={"verify": "exact"}) if section.verify in ("puzzle", "gym") else section


def _algorithm(section: AlgorithmSection) -> AlgorithmSection:
    """Return the same method; a random model gives no group with signal, so looking for them long is of no use."""
    reference = section.reference
    if reference is not None:
        section = section.model_copy(
            update={"reference": reference.model_copy(update={"samples": 1, "max_tokens": 64})}
        )
    if section.targets is not None:
        section = section.model_copy(
            update={"targets": section.targets.model_copy(update={"problems": 4, "rollouts": 2})}
        )
    if isinstance(section.curriculum, CuresCurriculumSpec):
        few: dict[str, int | None] = {"probe_rollouts": min(section.curriculum.probe_rollouts, 1)}
        few["problems"] = 1 if section.curriculum.problems else None
        section = section.model_copy(update={"curriculum": section.curriculum.model_copy(update=few)})
    rounds = min(section.filter.max_rounds, 2)
    return section.model_copy(update={"filter": section.filter.model_copy(update={"max_rounds": rounds})})


def _trainer(given: dict[str, Any], scale: str) -> dict[str, Any]:
    """Return the ``trainer:`` fields of two steps on any machine; a scale over the batch needs more than two groups."""
    kept = {key: value for key, value in given.items() if key not in DROPPED}
    groups = GROUPS_FOR_A_BATCH_SCALE // 2 if scale.startswith("batch_") else 1
    return kept | SHORT | {"bf16": False, "per_device_train_batch_size": groups * given.get("num_generations", 8)}


def drop_last_smoke(output: Path) -> None:
    """Delete the folder of an earlier smoke run, and nothing that is not one."""
    if output.name.endswith(SUFFIX) and (output / "resolved.yaml").is_file():
        shutil.rmtree(output)
