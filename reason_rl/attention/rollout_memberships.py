"""Content memberships of an RL recipe: calibrated on rollouts of the model that training starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from reason_rl.attention.decoder import attentions_of
from reason_rl.attention.memberships import calibrate, padded
from reason_rl.attention.regulariser import layers_of
from reason_rl.attention.source import chosen_layers
from reason_rl.models import context_tokens, eos_ids, load_tokenizer
from reason_rl.problem.prompt import render_prompts
from reason_rl.problem.sources import load_problems
from reason_rl.rollout.backend import SamplingOptions, SamplingRequest, sampling_seed
from reason_rl.rollout.hf import HFBackend

if TYPE_CHECKING:
    from reason_rl.recipe.attention_specs import PriorSpec
    from reason_rl.recipe.schema import Recipe

ROWS = 16  # of a calibrating pass


def rollout_memberships(recipe: Recipe, spec: PriorSpec, model: Any, budget_tokens: int) -> dict[int, Tensor]:
    """Return frozen memberships by layer, from rollouts of the recipe's first problems.

    Rollouts are sampled by this process from the model as it is, with seeds of their own, so that every process of a run, and
    a resumed run, gets the same.

    Args:
        recipe: whose problems and prompts are sampled, at its temperature.
        spec: its section ``attention.prior``.
        model: before training.
        budget_tokens: completion tokens of a rollout at most.
    """
    tokenizer = load_tokenizer(recipe.model)
    problems = load_problems(recipe.data)[: spec.calibration_traces]
    prompts = render_prompts(problems, tokenizer, recipe.prompt)
    pad = int(tokenizer.convert_tokens_to_ids(str(tokenizer.pad_token)))  # type: ignore[arg-type]
    backend = HFBackend(model, eos_ids(model, tokenizer), pad, context_tokens=context_tokens(model))
    requests = [
        SamplingRequest(tuple(prompt), budget_tokens, sampling_seed(recipe.seed, "memberships", problem.id))
        for problem, prompt in zip(problems, prompts, strict=True)
    ]
    samples = backend.generate(requests, SamplingOptions(recipe.rollout.temperature))
    rows = [(*request.prompt_ids, *sample.token_ids) for request, sample in zip(requests, samples, strict=True)]
    layers = chosen_layers(layers_of(spec), len(attentions_of(model)))
    batches = [padded(rows[start : start + ROWS], pad, model.device) for start in range(0, len(rows), ROWS)]
    return calibrate(model, batches, layers, spec.reference_tokens, spec.regimes)
