"""Runs the ``sft`` task of a recipe: make traces in turns, and let TRL's SFTTrainer learn them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from trl import SFTTrainer

from reason_rl.errors import RecipeError
from reason_rl.models import load_tokenizer
from reason_rl.trainer.callbacks import MetricsCallback
from reason_rl.trainer.config import lora_config
from reason_rl.trainer.dpo import prompts_of
from reason_rl.trainer.offline import fit, one_process_made, trl_config
from reason_rl.trainer.prior_sft import PriorSFTTrainer, attach_prior
from reason_rl.trainer.temperatures import attach_temperatures, starting_model
from reason_rl.trainer.train import TrainResult, resume_point
from reason_rl.trainer.turns import make_traces, text_ids, traces_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from reason_rl.recipe.schema import Recipe
    from reason_rl.run_folder import RunFolder

IGNORED_LABEL = -100


def train_sft(
    recipe: Recipe, run: RunFolder, *, resume: bool, say: Callable[[str], None], engine: Any = None
) -> TrainResult:
    """Train the recipe's model on the traces and save it to ``run.model``.

    Raises:
        RecipeError: for inputs that cannot be used, before training.
        RunError: when training has to stop.
    """
    _check_resume(recipe, run, resume)
    one_process_made(traces_file(run), int(os.environ.get("WORLD_SIZE", "1")))
    traces = make_traces(recipe, run, say, engine)
    tokenizer = load_tokenizer(recipe.model)
    dataset = to_dataset(traces, prompts_of(recipe, tokenizer), tokenizer)
    prior = recipe.attention.prior if recipe.attention else None
    held_out = prior.guardian.held_out_traces if prior and prior.guardian else 0
    if held_out >= len(dataset):
        raise RecipeError(
            f"attention.prior.guardian.held_out_traces: {held_out} of {len(dataset)} leaves none to learn"
        )
    made: list[PriorSFTTrainer] = []

    def make(callback: MetricsCallback) -> SFTTrainer:
        trainer = PriorSFTTrainer(
            model=starting_model(recipe),
            args=trl_config(recipe, run.checkpoints),
            train_dataset=dataset.select(range(held_out, len(dataset))),
            processing_class=tokenizer,
            peft_config=lora_config(recipe),
            callbacks=[callback],
        )
        attach_temperatures(trainer, recipe, resume_point(run.checkpoints, resume))
        if prior is not None:
            pad = tokenizer.convert_tokens_to_ids(str(tokenizer.pad_token))
            assert isinstance(pad, int)
            attach_prior(trainer, prior, list(dataset.select(range(held_out))), pad, recipe.seed)
        made.append(trainer)
        return trainer

    result = fit(make, run, resume=resume)
    if made[0].prior is not None and made[0].accelerator.is_main_process:
        made[0].prior.save(run.model)
    return result


def _check_resume(recipe: Recipe, run: RunFolder, resume: bool) -> None:
    prior = recipe.attention.prior if recipe.attention else None
    if prior is None or (prior.variant != "content" and prior.guardian is None):
        return
    if resume_point(run.checkpoints, resume) is not None:
        raise RecipeError(
            "attention.prior: content memberships and Guardian are in no checkpoint of task sft; train again without --resume"
        )


def to_dataset(
    traces: Sequence[Mapping[str, Any]], prompts: Mapping[str, Sequence[int]], tokenizer: PreTrainedTokenizerBase
) -> Dataset:
    """Return the traces as token ids: input_ids and labels, which leave out the prompt alone; tags are learned too."""
    rows = []
    for trace in traces:
        prompt, ids = list(prompts[trace["problem_id"]]), list(text_ids(tokenizer, trace["text"]))
        rows.append({"input_ids": prompt + ids, "labels": [IGNORED_LABEL] * len(prompt) + ids})
    return Dataset.from_list(rows)
