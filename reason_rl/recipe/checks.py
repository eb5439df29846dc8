"""Checks across sections: what the schema of one section cannot see."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reason_rl.content import find_content
from reason_rl.errors import RecipeError
from reason_rl.recipe.attention_checks import check_attention
from reason_rl.recipe.fields import problems
from reason_rl.recipe.grading_checks import grading_complaint
from reason_rl.recipe.method_checks import check_methods, check_scale
from reason_rl.recipe.offline_checks import CONFIGS, check_sections
from reason_rl.recipe.reward_checks import check_factory, check_overlong, declares, read_reward
from reason_rl.recipe.schema import Recipe

Complaint = tuple[tuple[str, ...], str]

LOSS_TYPES = ("dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo")  # TRL looks only once it trains
TRL_DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "num_generations": 8,
    "gradient_accumulation_steps": 1,
}
# What the shape of a batch is worked out from, and the least of each.
SHAPE = {
    "per_device_train_batch_size": 1,
    "num_generations": 2,
    "gradient_accumulation_steps": 1,
    "steps_per_generation": 1,
    "num_iterations": 1,
}


def check(recipe: Recipe, folder: Path) -> Iterator[Complaint]:
    """Yield (key path, message) for everything that would fail, or silently mean something else, later."""
    wrong = [*problems("trainer", CONFIGS.get(recipe.task, "grpo_config"), recipe.trainer), *_counts(recipe.trainer)]
    yield from wrong
    yield from problems("pretrain", "pretrain_config", recipe.pretrain)
    if recipe.lora is not None:
        yield from problems("lora", "lora_config", recipe.lora)
        if isinstance(rank := recipe.lora.get("r"), int) and rank < 1:
            yield ("lora", "r"), f"is {rank}; give at least 1"
    yield from check_sections(recipe)
    yield from check_attention(recipe)
    for section, data in (("data", recipe.data), ("eval", recipe.eval and recipe.eval.data)):
        if complaint := grading_complaint(data, recipe.answer.verify):
            yield ("answer", "verify"), f"{complaint} ({section})"
    if recipe.difficulty is not None:
        yield from _table(recipe.difficulty.table, folder)
    broken = {key[-1] for key, _ in wrong}
    if recipe.algorithm is None or broken & set(SHAPE):
        return
    sound = {key: value for key, value in recipe.trainer.items() if key not in broken}
    recipe = recipe.model_copy(update={"trainer": sound})
    yield from _batch_shape(recipe)
    yield from _sampling(recipe)
    yield from _old_logps(recipe)
    if recipe.update.skip_zero_advantage:
        for obstacle in needs_all_rows(recipe):
            yield ("update", "skip_zero_advantage"), f"true does not go with {obstacle}; leave it out"
    yield from _advantage(recipe)
    yield from check_methods(recipe, int({**TRL_DEFAULTS, **recipe.trainer}["num_generations"]))
    yield from _reward(recipe, folder)


def _table(name: str, folder: Path) -> Iterator[Complaint]:
    try:
        find_content(name, folder)
    except RecipeError as error:
        yield ("difficulty", "table"), f"{error}; reason-rl difficulty RECIPE ~difficulty makes one"


def _counts(trainer: dict[str, Any]) -> Iterator[Complaint]:
    """Yield what keeps the shape of a batch from being worked out, beside wrong types."""
    for key, least in SHAPE.items():
        value = trainer.get(key, least)
        if value is None and key == "num_generations":
            yield ("trainer", key), "is null; a group needs at least 2 rollouts"
        elif isinstance(value, int) and value < least:
            why = "a group needs at least 2 rollouts" if key == "num_generations" else "give at least 1"
            yield ("trainer", key), f"is {value}; {why}"


def rows_per_generation(trainer: dict[str, Any]) -> int:
    """Return the rows that one process rolls out at a time: per-device batch size * steps per generation."""
    values = {**TRL_DEFAULTS, **trainer}
    steps = values.get("steps_per_generation") or values["gradient_accumulation_steps"]
    return int(values["per_device_train_batch_size"]) * int(steps)


def updates_per_generation(trainer: dict[str, Any]) -> int:
    """Return the optimizer updates made on one generation batch."""
    values = {**TRL_DEFAULTS, **trainer}
    slices = rows_per_generation(trainer) // int(values["per_device_train_batch_size"])
    return max(1, slices * int(values.get("num_iterations") or 1) // int(values["gradient_accumulation_steps"]))


def _batch_shape(recipe: Recipe) -> Iterator[Complaint]:
    values = {**TRL_DEFAULTS, **recipe.trainer}
    group, rows = values["num_generations"], rows_per_generation(recipe.trainer)
    if rows % group:
        yield (
            ("trainer", "num_generations"),
            f"a process rolls out {rows} rows (per_device_train_batch_size {values['per_device_train_batch_size']} * "
            f"steps_per_generation), which is not a multiple of num_generations {group}: groups would be torn apart",
        )
    if (loss := values.get("loss_type", LOSS_TYPES[0])) not in LOSS_TYPES:
        near = difflib.get_close_matches(str(loss), LOSS_TYPES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(LOSS_TYPES)}"
        yield ("trainer", "loss_type"), f"TRL has no loss {loss}; {hint}"
    slices = rows // values["per_device_train_batch_size"] * (values.get("num_iterations") or 1)
    accumulation = int(values["gradient_accumulation_steps"])
    if slices % accumulation and accumulation % slices:
        yield (
            ("trainer", "gradient_accumulation_steps"),
            f"is {accumulation}, but a rollout batch comes in {slices} parts (steps_per_generation * num_iterations): "
            "updates and checkpoints would fall inside of one; let one of the two divide the other",
        )
    if values.get("save_total_limit") == 1:
        yield (
            ("trainer", "save_total_limit"),
            "1 deletes the last checkpoint before the new one is known to be whole; keep at least 2",
        )
    updates = updates_per_generation(recipe.trainer)
    save = values.get("save_steps", updates)
    if save < 1 or save % updates:  # a share of all steps is below 1
        yield (
            ("trainer", "save_steps"),
            f"{save} is not a multiple of {updates}, the updates a rollout batch is used for; checkpoints must fall "
            f"between rollout batches, try {max(updates, int(save // updates * updates))}",
        )


def _sampling(recipe: Recipe) -> Iterator[Complaint]:
    rollout = recipe.rollout
    if (rollout.engine == "vllm_server") != (rollout.server is not None):
        yield ("rollout", "server"), "belongs to engine vllm_server; give both or neither"
    yield from _stop(recipe)
    if rollout.vllm and rollout.engine != "vllm":
        yield ("rollout", "vllm"), f"holds arguments of engine vllm, not {rollout.engine}"
    if rollout.lag and rollout.importance_correction == "none":
        yield (
            ("rollout", "lag"),
            "1 samples from weights one update old, which needs a correction; use importance_correction token_truncate",
        )
    if rollout.importance_correction != "none" and (rollout.top_p < 1 or rollout.top_k > 0):
        key = "top_p" if rollout.top_p < 1 else "top_k"
        yield (
            ("rollout", key),
            f"{key} {getattr(rollout, key)} cuts off part of the distribution, so the importance ratio would be biased; "
            "use top_p 1 and top_k 0, or importance_correction none",
        )


def _old_logps(recipe: Recipe) -> Iterator[Complaint]:
    """Yield what keeps the sampler's log-probabilities from being those of the policy before the update."""
    if recipe.update.old_logps == "recomputed":
        return
    rollout, algorithm = recipe.rollout, recipe.algorithm
    assert algorithm is not None
    obstacles = {
        f"rollout.engine {rollout.engine}, which computes with other kernels": rollout.engine != "hf",
        "rollout.lag 1, which samples from older weights": rollout.lag > 0,
        "rollout.stop, which edits the distribution": rollout.stop is not None,
        "rollout.importance_correction none, without which TRL may not keep them": rollout.importance_correction
        == "none",
        "algorithm.openings, which are not sampled": bool(algorithm.openings),
        "algorithm.summaries, whose traces are cut": algorithm.summaries is not None,
    }
    for obstacle, there in obstacles.items():
        if there:
            yield ("update", "old_logps"), f"sampled does not go with {obstacle}; use recomputed"


def needs_all_rows(recipe: Recipe) -> list[str]:
    """Return what makes the loss depend on rows whose advantage is 0."""
    trainer, algorithm = recipe.trainer, recipe.algorithm
    obstacles = {
        "algorithm.kl, a term over all rows": algorithm is not None and algorithm.kl.coefficient != 0,
        "trainer.entropy_coef, an entropy bonus over all rows": any(
            trainer.get(key) for key in ("entropy_coef", "use_adaptive_entropy")
        ),
        "trainer.top_entropy_quantile, which ranks the tokens of all rows": trainer.get("top_entropy_quantile", 1.0)
        < 1,
        "attention.prior, a term over all rows": bool(recipe.attention and recipe.attention.prior),
    }
    return [obstacle for obstacle, there in obstacles.items() if there]


def _stop(recipe: Recipe) -> Iterator[Complaint]:
    """Yield what is wrong with ``rollout.stop``."""
    stop, rollout = recipe.rollout.stop, recipe.rollout
    if stop is None:
        return
    if stop.strength == 1 and stop.max_think_tokens is None:
        yield ("rollout", "stop"), "changes nothing; give a strength other than 1, or max_think_tokens"
    if stop.strength != 1 and rollout.importance_correction == "none":
        yield ("rollout", "importance_correction"), "none leaves the scaled stop token uncorrected; use token_truncate"
    if rollout.engine == "hf" and rollout.lag:
        yield (
            ("rollout", "lag"),
            "1 samples from a copy of the model, in which engine hf cannot push the end of thinking (rollout.stop); "
            "use lag 0, or engine vllm or vllm_server",
        )


def _advantage(recipe: Recipe) -> Iterator[Complaint]:
    assert recipe.algorithm is not None
    rule, key = recipe.algorithm.advantage, ("algorithm", "advantage")
    group = {**TRL_DEFAULTS, **recipe.trainer}["num_generations"]
    counts = [count for count in (rule.select_rows, rule.select_by_difficulty) if count is not None]
    if len(counts) != (rule.select != "all"):
        yield (
            (*key, "select_rows"),
            "select: shortest or token_efficiency goes together with either select_rows or select_by_difficulty",
        )
    elif rule.select_by_difficulty is not None and min(rule.select_by_difficulty) >= group:
        yield (*key, "select_by_difficulty"), f"selects nothing of {group} rollouts a problem; name fewer"
    elif rule.select_rows is not None and rule.select_rows >= group:
        yield (*key, "select_rows"), f"{rule.select_rows} of {group} rollouts a problem selects nothing; name fewer"
    if rule.scale == "beta" and rule.baseline not in ("group_mean", "halves"):
        yield (*key, "baseline"), f"{rule.baseline} is not for scale beta, which weighs r - pass rate; use group_mean"
    if rule.baseline == "halves":
        if rule.scale != "none":
            yield (*key, "scale"), f"{rule.scale} is not for baseline halves, which is not scaled; use none"
        if rule.correct_bonus:
            yield (*key, "correct_bonus"), "is not for baseline halves"
        if rule.select != "all":
            yield (*key, "select"), f"{rule.select} leaves no halves of a group to compare; use all"
    else:
        for name, neutral in (("long_half_weight", 1.0), ("between_halves", 0.5), ("halves_by", "length")):
            if getattr(rule, name) != neutral:
                yield (*key, name), f"is for baseline halves only, not {rule.baseline}"


def _reward(recipe: Recipe, folder: Path) -> Iterator[Complaint]:
    algorithm = recipe.algorithm
    assert algorithm is not None
    try:
        path, tree = read_reward(recipe, folder)
    except RecipeError as error:
        yield ("algorithm", "reward", "file"), str(error)
        return
    yield from check_factory(algorithm.reward, path, tree)
    if declares(tree, "CANCELLED_BY_GROUP_STD"):
        group = int({**TRL_DEFAULTS, **recipe.trainer}["num_generations"])
        yield from check_scale(recipe, rows_per_generation(recipe.trainer) // group, path.name)
    if algorithm.targets is None and declares(tree, "NEEDS_TARGETS"):
        yield ("algorithm", "targets"), f"is missing; {path.name} needs measured targets"
    if algorithm.reference is None and recipe.difficulty is None and declares(tree, "NEEDS_REFERENCE"):
        yield ("algorithm", "reference"), f"is missing; {path.name} needs it, or a table in difficulty"
    yield from check_overlong(algorithm.overlong, path, tree)
