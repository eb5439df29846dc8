"""What training on rows written beforehand needs around TRL's own trainers: the start, metrics, checkpoints, saving."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback
from trl import DPOConfig, SFTConfig

from reason_rl.errors import RecipeError
from reason_rl.models import refuse_adapter, resolve_model
from reason_rl.recipe.schema import EvalSection
from reason_rl.rollout.processes import one_message_when_another_is_gone
from reason_rl.trainer.callbacks import MetricsCallback
from reason_rl.trainer.config import check_lora, made
from reason_rl.trainer.train import TrainResult, disk_errors, resume_point, step_of

if TYPE_CHECKING:
    from reason_rl.recipe.offline_specs import PairsSection, TurnsSection
    from reason_rl.recipe.schema import ModelSection, Recipe
    from reason_rl.run_folder import RunFolder

# TRL's own max_length of 1024 tokens would cut the end off traces; all of these are our choice.
DEFAULTS: dict[str, Any] = {
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_total_limit": 2,
    "lr_scheduler_type": "constant_with_warmup",
    "max_length": None,
    "logging_steps": 10,
    "save_steps": 100,
}
METRIC_NAMES = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "entropy": "entropy",
    "mean_token_accuracy": "token_accuracy",
    "rewards/margins": "margin",
    "rewards/accuracies": "share_preferred",
    "logps/chosen": "chosen_logp",
    "logps/rejected": "rejected_logp",
    "prior_weight": "prior_weight",
    "guardian_tau": "guardian_tau",
    "guardian_gain": "guardian_gain",
    "guardian_acted": "guardian_acted",
}


def check_models(recipe: Recipe) -> None:
    """Raise RecipeError for a further model, or a module of its own, that the recipe names and that is not there.

    Also for fields that TRL or peft refuse, and for an adapter to train on; a merge may be of adapters.
    """
    if recipe.merge is None:
        refuse_adapter(recipe.model.path)
    if recipe.task != "merge":
        # With it processes meet; several have nothing to lose that sampling before took.
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            trl_config(recipe, Path(recipe.output))
        check_lora(recipe)
    named = {f"pairs.{style}": getattr(recipe.pairs, style, None) for style in ("long", "short")}
    named["turns.model"] = recipe.turns.model if recipe.turns else None
    if recipe.merge is not None:
        named |= {f"merge.models.{k}": model for k, model in enumerate(recipe.merge.models)}
        named["merge.base"] = recipe.merge.base
    for key, path in named.items():
        try:
            if path is not None:
                resolve_model(path)
        except RecipeError as error:
            raise RecipeError(str(error).replace("model.path", key, 1)) from None


def start_model(recipe: Recipe, run: RunFolder) -> ModelSection:
    """Return the model that training starts from: the merge in the run folder, else the recipe's model."""
    if recipe.merge is None:
        return recipe.model
    return recipe.model.model_copy(update={"path": str(merge_folder(recipe, run)), "revision": None})


def merge_folder(recipe: Recipe, run: RunFolder) -> Path:
    """Return where the merge goes: it is the result of task merge, the start of the others."""
    return run.model if recipe.task == "merge" else run.path / "start"


def make_merge(recipe: Recipe, run: RunFolder, say: Callable[[str], None]) -> None:
    """Merge the models that the recipe names, unless that is done or it names none."""
    if recipe.merge is None or merge_folder(recipe, run).exists():
        return
    from reason_rl.merge.run import merge_models

    say(f"merging {', '.join(recipe.merge.models)}")
    merge_models(recipe.merge.spec(), merge_folder(recipe, run), say)


def solving(recipe: Recipe, path: str | None, section: PairsSection | TurnsSection) -> Recipe:
    """Return the recipe as an evaluation of a model (None = its own) on its training problems."""
    assert recipe.data is not None
    options = EvalSection(
        data=recipe.data,
        limit=section.problems,
        samples=section.samples,
        max_tokens=section.max_tokens,
        temperature=recipe.rollout.temperature,
        top_p=recipe.rollout.top_p,
        top_k=recipe.rollout.top_k,
        seed=recipe.seed,
    )
    model = recipe.model if path is None else recipe.model.model_copy(update={"path": path, "revision": None})
    return recipe.model_copy(update={"model": model, "eval": options})


def trl_config(recipe: Recipe, output_dir: Path) -> DPOConfig | SFTConfig:
    """Build TRL's configuration of the task: ``trainer:`` over our defaults, then what other sections decide.

    Raises:
        RecipeError: with what TRL refuses.
    """
    fields = {
        **DEFAULTS,
        **recipe.trainer,
        "output_dir": str(output_dir),
        "seed": recipe.seed,
        "disable_tqdm": True,
        "logging_strategy": "steps",
        "save_strategy": "steps",
        "use_cpu": not torch.cuda.is_available(),
    }
    return made("trainer", DPOConfig if recipe.task == "dpo" else SFTConfig, fields)


def one_process_made(what: Path, processes: int) -> None:
    """Raise RecipeError when several processes would have to wait for one that samples.

    >>> one_process_made(Path("/nowhere"), 1)
    """
    if processes > 1 and not what.exists():
        raise RecipeError(
            f"{what}: is not there yet, and is made by one process; run reason-rl prepare RECIPE first, then launch with "
            "--resume"
        )


def fit(make_trainer: Callable[[MetricsCallback], Any], run: RunFolder, *, resume: bool) -> TrainResult:
    """Train with one of TRL's trainers and save the model, its tokenizer and metrics into the run folder.

    Args:
        make_trainer: builds the trainer around the callback.
        run: where everything goes.
        resume: go on from the newest whole checkpoint.

    Raises:
        RunError: when the disk is full, or weights stop being finite.
    """
    checkpoint = resume_point(run.checkpoints, resume)
    callback = MetricsCallback(run.metrics, step_of(checkpoint), METRIC_NAMES)
    trainer = make_trainer(callback)
    trainer.remove_callback(PrinterCallback)
    with one_message_when_another_is_gone(), disk_errors(run.checkpoints):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.save_model(str(run.model))
    if trainer.accelerator.is_main_process:
        trainer.processing_class.save_pretrained(run.model)
    trainer.accelerator.wait_for_everyone()
    return TrainResult(run.model, trainer.state.global_step, callback.seconds)
