"""Rollouts whose end of thinking is pushed, as a recipe's ``rollout.stop`` says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reason_rl.rollout.engines import make_backend
from reason_rl.stopping.generate import StoppingBackend
from reason_rl.stopping.rule import Elicitor, StopPolicy
from reason_rl.stopping.rules.budget_forcing import BudgetForcing
from reason_rl.stopping.temperature import StopOptions, TemperatureStop
from reason_rl.stopping.thinking import ThinkTokens, think_tokens
from reason_rl.stopping.vllm_strength import rollout_stop

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reason_rl.recipe.rollout_specs import StopSection
    from reason_rl.recipe.schema import Recipe
    from reason_rl.rollout.backend import PolicyBackend


def rollout_backend(
    recipe: Recipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, engine: Any = None
) -> PolicyBackend:
    """Return the backend that samples rollouts with the recipe's engine, under its ``rollout.stop`` where it has one.

    Engine hf decodes under a stop policy, the engines of vLLM under their logits processor (``engine`` from ``open_engine``).

    Raises:
        RecipeError: for a model that does not think, or whose end-of-think marker is not one token.
    """
    section = recipe.rollout.stop
    if section is None:
        return make_backend(recipe, model, tokenizer, engine)
    tokens = think_tokens(model, tokenizer, recipe.model.end_think_token)
    if recipe.rollout.engine != "hf":
        return make_backend(recipe, model, tokenizer, engine, stop=rollout_stop(section, tokens))
    return StoppingBackend(
        model, tokens, int(tokenizer.pad_token_id), stop_policy(section, tokens), recipe.rollout.max_batch_rows
    )


def stop_policy(section: StopSection, tokens: ThinkTokens) -> StopPolicy:
    """Return what rollouts are sampled under.

    The stop logit is the only one that is edited. Nothing is masked: where the sampler cannot write what the policy can, no
    importance ratio puts it back. The sampler's log-probabilities are those after the edit, gate included, so the ratio of
    policy to sampler is exact; at the cap the end of thinking is written, marked as not sampled, and the answer is sampled.
    """
    edit = None
    if section.strength != 1:
        options = StopOptions(section.mode, section.topk_gate, mask_eos=False, mask_restart=False)
        edit = TemperatureStop(section.strength, tokens, options)
    rule = None
    if section.max_think_tokens is not None:
        close = Elicitor((tokens.end,), 1, tokens.eos)
        rule = BudgetForcing(tokens.end, close, section.max_think_tokens, sample_answer=True)
    return StopPolicy(edit, rule)
