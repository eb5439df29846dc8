"""Checks of the attention section against the rest of a recipe."""

from __future__ import annotations

from collections.abc import Iterator

from reason_rl.recipe.attention_specs import PriorSpec, SSASpec
from reason_rl.recipe.schema import Recipe

Complaint = tuple[tuple[str, ...], str]

PRIOR, SSA = ("attention", "prior"), ("attention", "ssa")
SUPERVISED = ("pretrain", "sft")
COMPLETION_TOKENS = 320  # PretrainConfig's default, which importing would load torch for
PROMPT_TOKENS = 69  # of the tiny world's longest problem


def check_attention(recipe: Recipe) -> Iterator[Complaint]:
    """Yield what is wrong with the attention section of a recipe."""
    section = recipe.attention
    if section is None:
        return
    if recipe.task in SUPERVISED and section.heads is not None:
        yield ("attention", "heads"), f"is for reason-rl heads; task {recipe.task} does not read it"
    if section.prior is not None:
        yield from _prior(recipe, section.prior)
    if section.ssa is not None:
        yield from _ssa(recipe, section.ssa)
    options = recipe.trainer.get("gradient_checkpointing_kwargs") or {}
    reentrant = recipe.trainer.get("gradient_checkpointing") and options.get("use_reentrant", False)
    if reentrant and (section.prior or section.ssa):
        what = "the prior needs" if section.prior else "selective temperatures need"
        yield ("trainer", "gradient_checkpointing_kwargs"), f"{what} use_reentrant: false"


def _prior(recipe: Recipe, prior: PriorSpec) -> Iterator[Complaint]:
    if prior.fall is not None and prior.fall > prior.end:
        yield (*PRIOR, "fall"), f"{prior.fall:g} is after end {prior.end:g}"
    unread = "held_out_traces" if recipe.task == "train" else "token_weight"
    if prior.guardian is not None and unread in prior.guardian.model_fields_set:
        yield (*PRIOR, "guardian", unread), f"task {recipe.task} does not read it; leave it out"
    if recipe.task == "pretrain":
        yield from _pretraining(recipe, prior)
    elif recipe.task == "train":
        yield from _rl(prior)
    elif prior.mode == "bias" and prior.fall is None and recipe.rollout.engine != "hf":
        yield ("rollout", "engine"), f"{recipe.rollout.engine} cannot follow a bias that stays; use hf, or a fall"
    for key in ("packing", "padding_free"):
        if recipe.task == "sft" and recipe.trainer.get(key):
            yield ("trainer", key), "puts rows side by side, which the prior would take for one; set false"
    code = recipe.model.attn_implementation
    if recipe.task in SUPERVISED and prior.mode == "bias" and code != "sdpa":
        yield ("model", "attn_implementation"), f"{code} takes no bias; set sdpa, or attention.prior.mode: kl"


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
    longest = PROMPT_TOKENS + recipe.pretrain.get("max_completion_tokens", COMPLETION_TOKENS)
    if prior.reference_tokens < longest:
        yield (
            (*PRIOR, "reference_tokens"),
            f"{prior.reference_tokens} is less than a prompt and its completion may have, {longest} tokens",
        )
    if prior.variant == "content" and not prior.begin and recipe.pretrain.get("start") is None:
        yield (*PRIOR, "begin"), "0 would calibrate content memberships on random weights; try 0.1"


def _ssa(recipe: Recipe, ssa: SSASpec) -> Iterator[Complaint]:
    assert recipe.attention is not None
    if ssa.features == "none" and ssa.gate == "none":
        yield (*SSA, "gate"), "none and features none scale nothing; name one of them"
    if recipe.attention.prior is not None:
        yield SSA, "does not go with attention.prior, which reads queries before they are scaled; leave one out"
    if recipe.task == "pretrain":
        if recipe.pretrain.get("compile", True):
            yield ("pretrain", "compile"), "selective temperatures hook into attention as it runs; set compile: false"
        if ssa.alone:
            yield (*SSA, "alone"), "true would leave random weights untrained; task pretrain trains everything"
        return
    if recipe.rollout.engine != "hf":
        yield (
            ("rollout", "engine"),
            f"{recipe.rollout.engine} cannot follow selective temperatures (attention.ssa); use hf",
        )
    if recipe.lora is not None:
        if ssa.alone:
            yield (*SSA, "alone"), "true trains nothing of an adapter; leave out lora, or alone"
        if recipe.algorithm is not None and recipe.algorithm.kl.coefficient:
            yield (
                ("algorithm", "kl", "coefficient"),
                "compares with the model without its adapter, which would have the temperatures (attention.ssa) too; set 0, "
                "or leave out lora",
            )
    elif recipe.trainer.get("sync_ref_model"):
        yield (
            ("trainer", "sync_ref_model"),
            "the reference model has no temperatures (attention.ssa) to sync; set false",
        )
