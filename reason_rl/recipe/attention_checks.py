"""Checks of the attention section against the rest of a recipe."""

from __future__ import annotations

from collections.abc import Iterator

from reason_rl.recipe.attention_specs import PriorSpec
from reason_rl.recipe.schema import Recipe

Complaint = tuple[tuple[str, ...], str]

PRIOR = ("attention", "prior")
SUPERVISED = ("pretrain", "sft")
COMPLETION_TOKENS = 320  # PretrainConfig's default, which importing would load torch for


def check_prior(recipe: Recipe) -> Iterator[Complaint]:
    """Yield what is wrong with the prior on attention of a recipe."""
    prior = recipe.attention.prior if recipe.attention else None
    if recipe.task in SUPERVISED and recipe.attention is not None and recipe.attention.heads is not None:
        yield ("attention", "heads"), f"is for reason-rl heads; task {recipe.task} does not read it"
    if prior is None:
        return
    if prior.fall is not None and prior.fall > prior.end:
        yield (*PRIOR, "fall"), f"{prior.fall:g} is after end {prior.end:g}"
    options = recipe.trainer.get("gradient_checkpointing_kwargs") or {}
    if recipe.trainer.get("gradient_checkpointing") and options.get("use_reentrant", False):
        yield ("trainer", "gradient_checkpointing_kwargs"), "the prior needs use_reentrant: false"
    if recipe.task == "pretrain":
        yield from _pretraining(recipe, prior)
    elif recipe.task == "train":
        yield from _rl(prior)
    elif prior.mode == "bias" and prior.fall is None and recipe.rollout.engine != "hf":
        yield ("rollout", "engine"), f"{recipe.rollout.engine} cannot follow a bias that stays; use hf, or a fall"


def _rl(prior: PriorSpec) -> Iterator[Complaint]:
    if prior.mode == "bias":
        yield (
            (*PRIOR, "mode"),
            f"bias is for task {' and '.join(SUPERVISED)}, for rollout engines could not follow it; use kl",
        )
    if prior.begin:
        yield (
            (*PRIOR, "begin"),
            f"is for task {' and '.join(SUPERVISED)}; what RL starts from has learned already, use warm",
        )


def _pretraining(recipe: Recipe, prior: PriorSpec) -> Iterator[Complaint]:
    if recipe.pretrain.get("compile", True):
        yield ("pretrain", "compile"), "the prior watches or changes attention as it runs; set compile: false"
    longest = recipe.pretrain.get("max_completion_tokens", COMPLETION_TOKENS)
    if prior.reference_tokens < longest:
        yield (
            (*PRIOR, "reference_tokens"),
            f"{prior.reference_tokens} is less than completions may have, {longest} tokens",
        )
    if prior.variant == "content" and not prior.begin and recipe.pretrain.get("start") is None:
        yield (*PRIOR, "begin"), "0 would calibrate content memberships on random weights; try 0.1"
