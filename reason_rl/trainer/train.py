"""Runs the ``train`` task of a recipe: everything from problems to the saved model."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import DistributedType

from reason_rl.algorithm.budget import make_budget
from reason_rl.answer.verify import make_verifier
from reason_rl.errors import RecipeError, RunError
from reason_rl.evaluate.difficulty import references
from reason_rl.models import (
    adapter_rank,
    context_tokens,
    end_think_id,
    load_config,
    load_tokenizer,
    refuse_adapter,
)
from reason_rl.problem.prompt import check_context, longest_variant, render_prompts, to_dataset, variants_of
from reason_rl.problem.record import Problem
from reason_rl.problem.sources import load_problems
from reason_rl.recipe.checks import TRL_DEFAULTS, needs_all_rows, rows_per_generation, updates_per_generation
from reason_rl.rollout.engines import open_engine
from reason_rl.rollout.grading import Grader
from reason_rl.rollout.processes import one_message_when_another_is_gone
from reason_rl.stopping.rollouts import rollout_backend
from reason_rl.trainer.callbacks import (
    AllowanceCallback,
    MilestoneCallback,
    ProgressCallback,
    RunCallback,
    complete_checkpoints,
    drop_incomplete,
    restore_algorithm_state,
)
from reason_rl.trainer.composition import Composition
from reason_rl.trainer.config import (
    check_lora,
    check_names,
    check_thinking_is_open,
    composition,
    grpo_config,
    lora_config,
    sampling_options,
)
from reason_rl.trainer.extra_loss import ExtraLoss
from reason_rl.trainer.grpo import ReasonGRPOTrainer
from reason_rl.trainer.reference import by_prompt, starting_references
from reason_rl.trainer.reward_trial import try_reward
from reason_rl.trainer.temperatures import attach_temperatures, starting_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from reason_rl.recipe.schema import Recipe
    from reason_rl.run_folder import RunFolder


@dataclass(frozen=True)
class TrainResult:
    """Where the trained model is and how long training took."""

    model: Path
    steps: int
    seconds: float


def train(
    recipe: Recipe, run: RunFolder, *, resume: bool = False, engine: Any = None, save_at: Sequence[float] = ()
) -> TrainResult:
    """Train the recipe's model and save it to ``run.model``.

    ``engine`` comes from ``open_engine``, if already open; ``save_at`` names shares of ``rollout.allowance_tokens`` at
    which a checkpoint is saved.

    Raises:
        RecipeError: for inputs that cannot be used, before training.
        RunError: when training has to stop.
    """
    if recipe.attention is not None and recipe.attention.heads is not None:
        raise RecipeError(
            "attention.heads: is for reason-rl heads RECIPE --out DIR, training does not read it; delete it"
        )
    checkpoints = run.checkpoints
    checkpoint = resume_point(checkpoints, resume)
    with make_verifier(recipe.answer.verify, recipe.answer.timeout_seconds) as verifier:
        trainer, callback = _build(recipe, run, verifier, checkpoint, engine)
        if checkpoint is not None:
            restore_algorithm_state(trainer, checkpoint)
        trainer.add_callback(MilestoneCallback(trainer, run.path / "kept", updates_per_generation(recipe.trainer)))
        if recipe.rollout.allowance_tokens is not None:
            trainer.add_callback(_allowance(trainer, recipe, save_at))
        with _live_lines(trainer), one_message_when_another_is_gone(), disk_errors(checkpoints):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            trainer.save_model(str(run.model))
    if trainer.accelerator.is_main_process:
        trainer.processing_class.save_pretrained(run.model)
    trainer.accelerator.wait_for_everyone()
    seconds = callback.history[-1]["seconds"] if callback.history else 0.0
    return TrainResult(run.model, trainer.state.global_step, seconds)


@dataclass(frozen=True)
class Inputs:
    """What training reads, checked as far as can be without weights; ``longest``: tokens of the longest sequence."""

    tokenizer: PreTrainedTokenizerBase
    think_id: int | None
    problems: list[Problem]
    method: Composition
    longest: int


def training_inputs(recipe: Recipe) -> Inputs:
    """Load problems, tokenizer and method.

    Raises:
        RecipeError: for what training cannot use.
    """
    check_names(recipe.trainer)
    refuse_adapter(recipe.model.path)
    check_lora(recipe)
    tokenizer = load_tokenizer(recipe.model)
    think_id = end_think_id(tokenizer, recipe.model.end_think_token)
    problems = training_problems(recipe)
    check_enough(recipe, problems)
    method = composition(recipe, recipe.reward_file())
    if method.curriculum is not None:
        group, processes = {**TRL_DEFAULTS, **recipe.trainer}["num_generations"], int(os.environ.get("WORLD_SIZE", "1"))
        method.curriculum.check(rows_per_generation(recipe.trainer) // group * processes, processes)
    prompts = render_prompts(problems, tokenizer, longest_variant(recipe.prompt))
    try_reward(method, recipe, problems, tokenizer)
    if any(think_id in opening.token_ids for opening in method.openings):
        check_thinking_is_open(str(tokenizer.decode(list(prompts[0]))), str(recipe.model.end_think_token))
    budget, summary = method.budget.largest(), method.summaries.further_tokens if method.summaries else 0
    check_context(problems, prompts, budget, context_tokens(load_config(recipe.model)), summary)
    longest = max(map(len, prompts)) + budget + summary
    check_room(recipe, longest)
    return Inputs(tokenizer, think_id, problems, method, longest)


def check_enough(recipe: Recipe, problems: Sequence[Problem]) -> None:
    """Raise RecipeError when one rollout batch takes more prompts than there are: no step would be made.

    A curriculum draws by itself, but it takes its turns from the same batches of all prompts.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    taken = rows_per_generation(recipe.trainer) * processes // {**TRL_DEFAULTS, **recipe.trainer}["num_generations"]
    prompts = sum(len(variants_of(problem, recipe.prompt)) for problem in problems)
    if prompts < taken:
        raise RecipeError(
            f"data: {prompts} prompts, but a rollout batch takes {taken}; take more problems or lower "
            "trainer.steps_per_generation"
        )


def check_room(recipe: Recipe, longest: int) -> None:
    """Raise RecipeError where what is set aside for a sequence does not hold ``longest`` tokens."""
    assert recipe.algorithm is not None
    prior = recipe.attention.prior if recipe.attention else None
    room = {
        "rollout.vllm.max_model_len": recipe.rollout.vllm.get("max_model_len"),
        "attention.prior.reference_tokens": prior and prior.reference_tokens,
    }
    parts = "budget" if recipe.algorithm.summaries is None else "budget, with a summary,"
    for key, tokens in room.items():
        # vLLM takes -1 for as many as fit.
        if isinstance(tokens, int) and 0 < tokens < longest:
            raise RecipeError(
                f"{key}: is {tokens}, but the longest prompt and its {parts} are {longest} tokens; set it to at least that"
            )


def check_training(recipe: Recipe, run: RunFolder) -> None:
    """Raise RecipeError for what training would refuse, TRL's own complaints included.

    Not part of ``training_inputs``: a sharded model is loaded before TRL's configuration is there, as ever.
    """
    grpo_config(recipe, run.checkpoints, training_inputs(recipe).method.budget.largest())


def _build(
    recipe: Recipe, run: RunFolder, verifier: Any, checkpoint: Path | None, engine: Any
) -> tuple[ReasonGRPOTrainer, RunCallback]:
    """Load problems and model, check what can be checked, and put the trainer together."""
    inputs = training_inputs(recipe)
    tokenizer, method = inputs.tokenizer, inputs.method
    model = starting_model(recipe)
    args = grpo_config(recipe, run.checkpoints, method.budget.largest())
    callback = RunCallback(run.metrics, step_of(checkpoint))
    if engine is None:
        engine = open_engine(recipe, lora_rank=adapter_rank(model))  # one for rollouts and references
    backend = rollout_backend(recipe, model, tokenizer, engine)
    trainer = ReasonGRPOTrainer(
        model=model,
        args=args,
        train_dataset=to_dataset(inputs.problems, recipe.prompt),
        processing_class=tokenizer,
        peft_config=lora_config(recipe),
        callbacks=[callback],
        composition=method,
        grader=Grader(tokenizer, verifier, inputs.think_id, recipe.answer.find),
        backend=backend,
        sampling=sampling_options(recipe),
        chunk_rows=recipe.update.chunk_rows,
        skip_zero_advantage=skips_zero_advantage(recipe),
        sampled_logps=recipe.update.old_logps == "sampled",
        allowance_tokens=recipe.rollout.allowance_tokens,
        references=by_prompt(starting_references(recipe, run, engine) or {}, inputs.problems, recipe.prompt),
        lag=recipe.rollout.lag,
    )
    attach_temperatures(trainer, recipe, checkpoint)
    sharded = trainer.accelerator.distributed_type == DistributedType.FSDP
    trainer.extra_loss = extra_loss(recipe, trainer.accelerator.unwrap_model(trainer.model), sharded)
    # Shards, and weights that an update changes while rollouts are under way, are sampled from as a copy.
    still = sharded or recipe.rollout.lag > 0
    backend.follow(trainer.accelerator.unwrap_model(trainer.model), still=still)
    callback.trainer = trainer
    return trainer, callback


def skips_zero_advantage(recipe: Recipe) -> bool:
    """Tell whether rows without an advantage are left out of the update."""
    asked = recipe.update.skip_zero_advantage
    return not needs_all_rows(recipe) if asked is None else asked


def extra_loss(recipe: Recipe, model: Any, sharded: bool) -> ExtraLoss | None:
    """Return the term that the recipe adds to the loss, None without one.

    Raises:
        RecipeError: where weights are sharded, which it could not read outside of the forward pass.
    """
    spec = recipe.attention.prior if recipe.attention else None
    if spec is None:
        return None
    if sharded:
        raise RecipeError("attention.prior: reads weights outside of the forward pass, which FSDP shards; use DDP")
    from reason_rl.attention.regulariser import make_prior_loss
    from reason_rl.attention.rollout_memberships import rollout_memberships

    frozen = None
    if spec.variant == "content":
        assert recipe.algorithm is not None
        frozen = rollout_memberships(recipe, spec, model, make_budget(recipe.algorithm.budget).largest())
    return make_prior_loss(spec, model, recipe.seed, frozen)


def _allowance(trainer: ReasonGRPOTrainer, recipe: Recipe, save_at: Sequence[float]) -> AllowanceCallback:
    """Return what ends training at the allowance; shares that a resumed run is past are not saved again."""
    allowance = recipe.rollout.allowance_tokens
    assert allowance is not None
    ahead = [share for share in save_at if share > trainer.algorithm_state["rollout_tokens"] / allowance]
    callback = AllowanceCallback(allowance, updates_per_generation(recipe.trainer), ahead)
    callback.trainer = trainer
    return callback


def training_problems(recipe: Recipe) -> list[Problem]:
    """Load the training problems, and say how many were left out.

    Left out are those that the recipe evaluates on and, with a difficulty table, those that are not in its band.
    """
    problems = load_problems(recipe.data)
    table = references(recipe)
    if table is not None:
        known = [problem for problem in problems if problem.id in table]
        if not known:
            raise RecipeError("difficulty.table: knows none of the training problems; was it made from this data?")
        print(
            f"reason-rl: {len(known)} of {len(problems)} training problems are in the difficulty table", file=sys.stderr
        )
        problems = known
    if recipe.eval is None:
        return problems
    held_out = {problem.id for problem in load_problems(recipe.eval.data)}
    kept = [problem for problem in problems if problem.id not in held_out]
    if not kept:
        raise RecipeError("data: every training problem is also an eval problem; name another split or seed")
    if len(kept) < len(problems):
        left_out = len(problems) - len(kept)
        print(f"reason-rl: {left_out} training problems are also eval problems and are left out", file=sys.stderr)
    return kept


def resume_point(checkpoints: Path, resume: bool) -> Path | None:
    """Return the newest whole checkpoint when resuming, after clearing away half-written ones."""
    if not resume:
        return None
    drop_incomplete(checkpoints)
    whole = complete_checkpoints(checkpoints)
    return whole[-1] if whole else None


def step_of(checkpoint: Path | None) -> int:
    """Return the step of a checkpoint, 0 for none."""
    return int(checkpoint.name.split("-")[1]) if checkpoint else 0


@contextlib.contextmanager
def _live_lines(trainer: ReasonGRPOTrainer) -> Iterator[None]:
    """Show a line for rollouts and one for steps while the block runs, on the main process of a terminal."""
    if not (trainer.accelerator.is_main_process and sys.stdout.isatty()):
        yield
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[detail]}"), transient=True) as progress:
        callback = ProgressCallback(progress)
        trainer.add_callback(callback)
        trainer.vllm_generation.on_progress = callback.on_rollout
        yield


@contextlib.contextmanager
def disk_errors(checkpoints: Path) -> Iterator[None]:
    """Turn a full or failing disk into one clear line that names the checkpoint that is still good."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = getattr(error, "errno", None)
        full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in str(error)
        if not full and not isinstance(error, OSError):
            raise
        whole = complete_checkpoints(checkpoints)
        good = f"{whole[-1]} is good; free space and use --resume" if whole else "no checkpoint was written before"
        raise RunError(f"writing to {checkpoints} failed ({error}); {good}") from error
