"""Runs the ``dpo`` task of a recipe: merge the start, make pairs, and let TRL's DPOTrainer learn from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from trl import DPOTrainer

from reason_rl.errors import RecipeError
from reason_rl.models import load_model, load_tokenizer
from reason_rl.problem.prompt import render_prompts
from reason_rl.trainer.callbacks import MetricsCallback
from reason_rl.trainer.compat import check_signatures
from reason_rl.trainer.config import lora_config
from reason_rl.trainer.offline import (
    fit,
    make_merge,
    one_process_made,
    start_model,
    trl_config,
)
from reason_rl.trainer.pairs import make_pairs, pairs_file
from reason_rl.trainer.temperatures import starting_model
from reason_rl.trainer.train import TrainResult, training_problems

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from reason_rl.recipe.schema import Recipe
    from reason_rl.run_folder import RunFolder

WRAPPED = {"_prepare_dataset": ("self", "dataset", "processing_class", "args", "dataset_name")}


class PairsTrainer(DPOTrainer):
    """TRL's DPOTrainer on rows that are token ids already.

    TRL would apply the chat template to the answers, and the templates of reasoning models drop what was thought.
    """

    def _prepare_dataset(self, dataset: Dataset, processing_class: Any, args: Any, dataset_name: str) -> Dataset:
        return dataset


def prepare_dpo(recipe: Recipe, run: RunFolder, say: Callable[[str], None], engine: Any = None) -> list[dict[str, Any]]:
    """Make what training reads, in one process: the merged start and the pairs, which are returned."""
    make_merge(recipe, run, say)
    return make_pairs(recipe, run, say, engine)


def train_dpo(
    recipe: Recipe, run: RunFolder, *, resume: bool, say: Callable[[str], None], engine: Any = None
) -> TrainResult:
    """Train the start on the pairs and save it to ``run.model``; the start itself is the reference.

    Raises:
        RecipeError: for inputs that cannot be used, before training.
        RunError: when training has to stop.
    """
    check_signatures(DPOTrainer, WRAPPED)
    one_process_made(pairs_file(run), int(os.environ.get("WORLD_SIZE", "1")))
    pairs = prepare_dpo(recipe, run, say, engine)
    section = start_model(recipe, run)
    tokenizer = load_tokenizer(section)
    dataset = to_dataset(pairs, prompts_of(recipe, tokenizer), tokenizer, recipe.trainer.get("max_length"))
    if len(dataset) < len(pairs):
        say(f"{len(pairs) - len(dataset)} pairs are left out, for max_length would cut what is preferred")

    def make(callback: MetricsCallback) -> PairsTrainer:
        args = trl_config(recipe, run.checkpoints)
        shared = recipe.lora is not None or args.precompute_ref_log_probs
        return PairsTrainer(
            model=starting_model(recipe, section),
            # An adapter that is off, or log-probabilities computed before, make a second copy needless.
            ref_model=None if shared else load_model(section),
            args=args,
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=lora_config(recipe),
            callbacks=[callback],
        )

    return fit(make, run, resume=resume)


def prompts_of(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[int, ...]]:
    """Return the prompt's token ids of every training problem, by id."""
    problems = training_problems(recipe)
    prompts = render_prompts(problems, tokenizer, recipe.prompt)
    return {problem.id: prompt for problem, prompt in zip(problems, prompts, strict=True)}


def to_dataset(
    pairs: Sequence[Mapping[str, Any]],
    prompts: Mapping[str, Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
) -> Dataset:
    """Return the pairs as token ids: prompt_ids, chosen_ids, rejected_ids, problem_id, kind.

    A pair whose preferred side ``max_length`` would cut is left out; the other side may be cut.

    Raises:
        RecipeError: when none is left.
    """

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    rows = [
        {
            "prompt_ids": list(prompts[pair["problem_id"]]),
            "chosen_ids": ids(pair["chosen"]),
            "rejected_ids": ids(pair["rejected"]),
            "problem_id": pair["problem_id"],
            "kind": pair["kind"],
        }
        for pair in pairs
    ]
    kept = [row for row in rows if max_length is None or len(row["prompt_ids"] + row["chosen_ids"]) <= max_length]
    if not kept:
        raise RecipeError(
            f"trainer.max_length: {max_length} cuts the preferred side of all {len(rows)} pairs; raise it"
        )
    return Dataset.from_list(kept)
