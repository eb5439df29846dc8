"""Turns the sections of a recipe into TRL's GRPOConfig, peft's LoraConfig and our Composition."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, SchedulerType
from transformers.training_args import OptimizerNames
from trl import GRPOConfig

from reason_rl.algorithm.budget import make_budget
from reason_rl.algorithm.curriculum import make_curriculum
from reason_rl.algorithm.opening import Opening, check_openings
from reason_rl.algorithm.price import GuardedPrices
from reason_rl.algorithm.quartiles import QuartileCounts
from reason_rl.algorithm.reward import load_reward
from reason_rl.algorithm.store import Policy
from reason_rl.algorithm.summaries import SummaryRule
from reason_rl.algorithm.targets import make_targets
from reason_rl.errors import RecipeError
from reason_rl.models import end_think_id, load_config, load_tokenizer
from reason_rl.problem.record import PLAIN
from reason_rl.recipe.checks import updates_per_generation
from reason_rl.rollout.backend import SamplingOptions
from reason_rl.trainer.composition import AdvantageRule, Composition, FilterRule

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from reason_rl.recipe.schema import Recipe

Config = TypeVar("Config")

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


def check_names(trainer: Mapping[str, Any]) -> None:
    """Raise RecipeError for an optimizer or a learning-rate schedule that transformers does not have.

    >>> check_names({"optim": "adamw_torch", "lr_scheduler_type": "linear"})
    """
    for key, kind in (("optim", OptimizerNames), ("lr_scheduler_type", SchedulerType)):
        known = [str(member.value) for member in kind]
        value = trainer.get(key, known[0])
        if value not in known:
            near = difflib.get_close_matches(str(value), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise RecipeError(f"trainer.{key}: there is no {value}; {hint}")


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
    return made("trainer", GRPOConfig, fields)


def made(section: str, kind: Callable[..., Config], fields: Mapping[str, Any]) -> Config:
    """Return the configuration that a section of the recipe describes.

    Raises:
        RecipeError: naming the section, with what TRL, transformers or peft say.

    >>> made("lora", LoraConfig, {"r": 4}).r
    4
    """
    try:
        return kind(**fields)
    except (ValueError, TypeError, ImportError) as error:
        said = str(error).strip() or type(error).__name__
        raise RecipeError(f"{section}: {said.splitlines()[0]}") from error


def lora_config(recipe: Recipe) -> LoraConfig | None:
    """Build the LoraConfig of the ``lora:`` section; None for full fine-tuning.

    Raises:
        RecipeError: with what peft refuses.
    """
    if recipe.lora is None:
        return None
    return made("lora", LoraConfig, {"task_type": "CAUSAL_LM", "revision": recipe.model.revision, **recipe.lora})


def check_lora(recipe: Recipe) -> None:
    """Raise RecipeError for what peft refuses, and for a target module that the model does not have.

    Of several modules peft goes on when one is there.
    """
    lora_config(recipe)
    targets = None if recipe.lora is None else recipe.lora.get("target_modules")
    if not targets or targets == "all-linear":
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            load_config(recipe.model), trust_remote_code=recipe.model.trust_remote_code
        )
    modules = [name for name, _ in model.named_modules()]
    for target in [targets] if isinstance(targets, str) else targets:
        # A single string is a regular expression to peft, a list holds ends of names.
        pattern = target if isinstance(targets, str) else rf"(.*\.)?{re.escape(target)}"
        if not any(re.fullmatch(pattern, name) for name in modules):
            linear = {
                name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)
            }
            near = difflib.get_close_matches(target, linear, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(linear))}"
            raise RecipeError(f"lora.target_modules: {recipe.model.path} has no module {target}; {hint}")


def sampling_options(recipe: Recipe) -> SamplingOptions:
    """Return how rollouts are sampled."""
    return SamplingOptions(recipe.rollout.temperature, recipe.rollout.top_p, recipe.rollout.top_k)


def variant_names(recipe: Recipe) -> tuple[str, ...]:
    """Return the variants that training asks problems in; empty when there is only the plain one."""
    names = tuple(recipe.prompt.variants)
    return (*names, PLAIN) if names and recipe.prompt.plain_share > 0 else names


def openings(recipe: Recipe) -> tuple[Opening, ...]:
    """Return what rollouts begin with, in the model's tokens.

    Raises:
        RecipeError: when the shares do not share out a group.
    """
    assert recipe.algorithm is not None
    specs = recipe.algorithm.openings
    if not specs:
        return ()
    tokenizer = load_tokenizer(recipe.model)
    found = tuple(Opening(text_ids(tokenizer, s.text), s.share, s.budget_tokens, s.trained) for s in specs)
    check_openings(found, int(recipe.trainer.get("num_generations", 8)))
    return found


def summaries(recipe: Recipe) -> SummaryRule | None:
    """Return how traces are summarised, in the model's tokens; None when they are not.

    Raises:
        RecipeError: when the model does not think, or the budgets do not grow.
    """
    assert recipe.algorithm is not None
    spec = recipe.algorithm.summaries
    if spec is None:
        return None
    tokenizer = load_tokenizer(recipe.model)
    end = end_think_id(tokenizer, recipe.model.end_think_token)
    if end is None:
        raise RecipeError("algorithm.summaries: the model does not think (model.end_think_token is null)")
    return SummaryRule(
        budgets=tuple(spec.budgets),
        cut_ids=(*text_ids(tokenizer, spec.cut_text), end),
        answer_ids=text_ids(tokenizer, spec.answer_text),
        end_think_id=end,
        **spec.model_dump(exclude={"budgets", "cut_text", "answer_text"}),
    )


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Return the token ids of a text by itself, without special tokens around it."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def check_thinking_is_open(prompt: str, end_think_token: str) -> None:
    """Raise RecipeError unless the chat template leaves the model inside its thinking, which an opening then closes.

    >>> check_thinking_is_open("<|user|> 2 + 2? <|assistant|> <think>", "</think>")
    """
    opener = end_think_token.replace("/", "", 1)
    if not prompt.rstrip().endswith(opener):
        raise RecipeError(
            f"algorithm.openings: {end_think_token} would close a thinking that is not open; the chat template has to end "
            f"in {opener}, not in {prompt[-20:]!r}"
        )


def controller(recipe: Recipe) -> Policy | None:
    """Return what turns the weight of a further loss term as the run goes on; None without one."""
    spec = recipe.attention.prior if recipe.attention else None
    if spec is None or spec.guardian is None:
        return None
    from reason_rl.attention.regulariser import make_guardian

    assert recipe.algorithm is not None
    return make_guardian(spec, make_budget(recipe.algorithm.budget).largest(), recipe.seed)


def composition(recipe: Recipe, reward_file: Path) -> Composition:
    """Build the method from the ``algorithm:`` section."""
    algorithm = recipe.algorithm
    assert algorithm is not None
    counts = algorithm.advantage.select_by_difficulty
    return Composition(
        reward=load_reward(reward_file, **algorithm.reward.params()),
        budget=make_budget(algorithm.budget),
        filter=FilterRule(**algorithm.filter.model_dump()),
        advantage=AdvantageRule(**algorithm.advantage.model_dump(exclude={"select_by_difficulty"})),
        overlong=algorithm.overlong,
        kl_type=algorithm.kl.type,
        openings=openings(recipe),
        summaries=summaries(recipe),
        variants=variant_names(recipe),
        prices=None if algorithm.prices is None else GuardedPrices(**algorithm.prices.model_dump()),
        targets=make_targets(algorithm.targets, recipe.seed),
        curriculum=make_curriculum(algorithm.curriculum),
        selection=None if counts is None else QuartileCounts(counts),
        controller=controller(recipe),
        seed=recipe.seed,
    )
