"""``reason-rl heads``: the recipe's model writes traces, and is taught to repeat them at several head budgets."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reason_rl.attention.decoder import decoder_of
from reason_rl.attention.heads import cost
from reason_rl.attention.heads_files import save_heads
from reason_rl.attention.heads_module import HeadOptions, Shape
from reason_rl.attention.heads_train import NOT_LEARNED, Batch, HeadTraining, sensitivity, train_heads
from reason_rl.errors import RecipeError
from reason_rl.models import context_tokens, load_model, load_tokenizer, refuse_adapter, refuse_kept, to_accelerator
from reason_rl.problem.prompt import check_context, render_prompts
from reason_rl.problem.sources import load_problems
from reason_rl.rollout.backend import SamplingOptions, SamplingRequest, sampling_seed
from reason_rl.rollout.engines import make_backend
from reason_rl.run_folder import refuse_used

if TYPE_CHECKING:
    from reason_rl.recipe.attention_specs import HeadsSpec
    from reason_rl.recipe.schema import Recipe

SENSITIVITY_BATCHES = 8

Trace = tuple[tuple[int, ...], tuple[int, ...]]


def teach_heads(recipe: Recipe, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Train gates and weights of the recipe's model by distillation from itself, and write both to ``out``.

    Returns:
        where it is, traces, and the mean soft gate at each budget.

    Raises:
        RecipeError: for a recipe without ``attention.heads`` or ``data``, with LoRA or another engine, a model with one
            unit a layer, or an ``out`` in use.
    """
    section = _checked(recipe, out)
    tokenizer, model = load_tokenizer(recipe.model), to_accelerator(load_model(recipe.model))
    refuse_kept(model, "which reason-rl heads would not save")
    if Shape.of(decoder_of(model).config).units(section.unit) == 1:
        raise RecipeError(f"attention.heads.unit: {section.unit} makes one gate a layer, so there is nothing to choose")
    traces = sample_traces(recipe, section, model, tokenizer)
    say(f"{len(traces)} traces, {sum(len(completion) for _, completion in traces)} completion tokens")
    torch.manual_seed(recipe.seed)
    options = HeadOptions(unit=section.unit, rank=section.rank)
    pad = tokenizer.convert_tokens_to_ids(str(tokenizer.pad_token))
    drawn = endless(traces, section.batch_rows, int(pad), recipe.seed)  # type: ignore[arg-type]
    batches = ({name: part.to(model.device) for name, part in batch.items()} for batch in drawn)
    scores = sensitivity(model, batches, SENSITIVITY_BATCHES, options)
    held = train_heads(model, batches, options, training_of(section, recipe.seed), say, scores)
    state = {name: tensor for name, tensor in model.state_dict().items() if "head_gates" not in name}
    model.save_pretrained(out, state_dict=state)
    tokenizer.save_pretrained(out)
    save_heads(held, out)
    shares = {f"{budget:g}": cost(held.soft(budget)).item() for budget in section.budgets}
    return {"model": str(out), "traces": len(traces), "gates": shares}


def training_of(section: HeadsSpec, seed: int) -> HeadTraining:
    """Return a section's options of training."""
    same = ("soft_steps", "hard_steps", "learning_rate", "gate_rate", "lowest_budget", "distillation_weight")
    return HeadTraining(budgets=tuple(section.budgets), seed=seed, **{name: getattr(section, name) for name in same})


def sample_traces(recipe: Recipe, section: HeadsSpec, model: Any, tokenizer: Any) -> list[Trace]:
    """Return prompt and completion of one trace a problem, sampled at the recipe's temperature."""
    problems = load_problems(recipe.data)[: section.problems]
    prompts = render_prompts(problems, tokenizer, recipe.prompt)
    check_context(problems, prompts, section.max_tokens, context_tokens(model))
    requests = [
        SamplingRequest(tuple(prompt), section.max_tokens, sampling_seed(recipe.seed, problem.id, 0))
        for problem, prompt in zip(problems, prompts, strict=True)
    ]
    backend = make_backend(recipe, model, tokenizer)
    samples = backend.generate(requests, SamplingOptions(recipe.rollout.temperature))
    return [(request.prompt_ids, sample.token_ids) for request, sample in zip(requests, samples, strict=True)]


def endless(traces: Sequence[Trace], rows: int, pad_token_id: int, seed: int) -> Iterator[Batch]:
    """Yield batches for ever, padded on the right, in a new order each time round.

    >>> batch = next(endless([((5, 6), (7,)), ((5,), (8, 9, 4))], 2, 0, 0))
    >>> sorted(batch["input_ids"].tolist()), sorted(batch["labels"].tolist())
    ([[5, 6, 7, 0], [5, 8, 9, 4]], [[-100, -100, 7, -100], [-100, 8, 9, 4]])
    """
    rng, order = random.Random(seed), list(traces)
    while True:
        rng.shuffle(order)
        for start in range(0, len(order), rows):
            some = order[start : start + rows]
            width = max(len(prompt) + len(completion) for prompt, completion in some)
            ids = torch.full((len(some), width), pad_token_id)
            labels = torch.full((len(some), width), NOT_LEARNED)
            for row, (prompt, completion) in enumerate(some):
                end = len(prompt) + len(completion)
                ids[row, :end] = torch.tensor([*prompt, *completion])
                labels[row, len(prompt) : end] = torch.tensor(completion)
            yield {"input_ids": ids, "labels": labels}


def _checked(recipe: Recipe, out: Path) -> HeadsSpec:
    section = recipe.attention.heads if recipe.attention is not None else None
    if section is None:
        raise RecipeError("attention.heads: is missing; reason-rl heads needs it (attention.heads.budgets=[0.5,1.0])")
    if recipe.data is None:
        raise RecipeError("data: is missing; reason-rl heads samples traces of these problems")
    if recipe.lora is not None:
        raise RecipeError("lora: reason-rl heads trains all weights; delete the section (~lora)")
    refuse_adapter(recipe.model.path)
    if recipe.rollout.engine != "hf":
        raise RecipeError(f"rollout.engine: reason-rl heads samples with hf, not {recipe.rollout.engine}")
    refuse_used(out)
    return section
