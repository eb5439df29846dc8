"""Which sections each task needs, and which it does not read."""

from __future__ import annotations

from collections.abc import Iterator

from reason_rl.recipe.offline_specs import PairsSection
from reason_rl.recipe.schema import Recipe

Complaint = tuple[tuple[str, ...], str]

# Whose fields the trainer section has.
CONFIGS = {"train": "grpo_config", "dpo": "dpo_config", "sft": "sft_config"}
NEEDED = {
    "train": ("data", "algorithm", "eval"),
    "dpo": ("data", "pairs", "eval"),
    "merge": ("merge", "eval"),
    "sft": ("data", "turns", "eval"),
    "pretrain": (),
}
# Sections, and fields of them, that only some tasks read.
READ_BY = {
    "algorithm": ("train",),
    "attention": ("train", "pretrain", "sft"),
    "difficulty": ("train", "dpo", "sft"),
    "merge": ("merge", "dpo"),
    "pairs": ("dpo",),
    "turns": ("sft",),
    "trainer": ("train", "dpo", "sft"),
    "lora": ("train", "dpo", "sft"),
    "update": ("train",),
    "rollout.lag": ("train",),
    "rollout.allowance_tokens": ("train",),
    "pretrain": ("pretrain",),
}


def check_sections(recipe: Recipe) -> Iterator[Complaint]:
    """Yield (key path, message) for sections that the recipe's task needs and has not got, or does not read."""
    for section in NEEDED[recipe.task]:
        if getattr(recipe, section) is None:
            yield (section,), f"is missing; task {recipe.task} needs it"
    for section, tasks in READ_BY.items():
        if recipe.task not in tasks and _is_set(recipe, section):
            yield tuple(section.split(".")), f"is for task {' or '.join(tasks)}; task {recipe.task} does not read it"
    if recipe.task in ("dpo", "sft"):
        yield from _solutions(recipe)
    if recipe.task == "dpo" and recipe.pairs is not None:
        yield from _pairs(recipe.pairs)


def _is_set(recipe: Recipe, path: str) -> bool:
    """Tell whether a section, or a field of one, is other than its default; resolved recipes name defaults too."""
    section, *below = path.split(".")
    holder = getattr(recipe, section) if below else recipe
    name = below[0] if below else section
    return bool(getattr(holder, name) != type(holder).model_fields[name].default)


def _pairs(section: PairsSection) -> Iterator[Complaint]:
    if section.group_pairs + section.instance_pairs == 0:
        yield ("pairs", "group_pairs"), "and instance_pairs are both 0, so there is nothing to learn from"
    if section.margin is not None and section.margin >= 1 / section.samples:
        yield (
            ("pairs", "margin"),
            f"{section.margin:g} is not below 1 / {section.samples}, so one more right solution would count for nothing",
        )


def _solutions(recipe: Recipe) -> Iterator[Complaint]:
    if recipe.prompt.variants or recipe.prompt.target_tokens:
        yield ("prompt",), "asks for variants or lengths, which solutions written beforehand do not have"
    if recipe.task == "sft" and recipe.model.end_think_token is None:
        yield ("model", "end_think_token"), "is null, but turns are made of thinking"
    if recipe.rollout.stop is not None:
        yield ("rollout", "stop"), "is for RL fine-tuning; solutions are sampled from the models as they are"
