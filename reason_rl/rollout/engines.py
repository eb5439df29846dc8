"""The rollout engine that a recipe asks for; no engine ever stands in for another."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason_rl.errors import RecipeError
from reason_rl.models import adapter_rank, context_tokens, eos_ids, kept_by, kept_in, resolve_model
from reason_rl.rollout.hf import HFBackend
from reason_rl.rollout.server_client import ServerClient, ServerOptions
from reason_rl.rollout.vllm_local import EngineOptions, RequestStop, VLLMBackend, start_engine
from reason_rl.rollout.vllm_server import VLLMServerBackend
from reason_rl.stopping.vllm_strength import PROCESSORS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reason_rl.recipe.schema import Recipe


def open_engine(recipe: Recipe, *, lora_rank: int | None = None, needed_tokens: int | None = None) -> Any:
    """Start what the recipe's engine needs once a process: a vLLM engine on the untrained model, a client, nothing for hf.

    Args:
        recipe: names engine and model.
        lora_rank: of an adapter that the recipe's ``lora:`` does not tell of.
        needed_tokens: longest prompt and completion together, where known; the engine then keeps no room for more.

    Raises:
        RecipeError: when the engine is not installed, not in a version that works, or cannot follow the model's attention.
    """
    if recipe.rollout.engine == "hf":
        return None
    source = resolve_model(recipe.model.path)
    _check_attention(recipe, kept_in(Path(source)))
    if recipe.rollout.engine == "vllm_server":
        assert recipe.rollout.server is not None
        fields = recipe.rollout.server.model_dump()
        return ServerClient(ServerOptions(**fields, concurrency=recipe.rollout.max_batch_rows))
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        source, revision=recipe.model.revision, trust_remote_code=recipe.model.trust_remote_code
    )
    options = EngineOptions(
        context_tokens=min(config.get_text_config().max_position_embeddings, needed_tokens or sys.maxsize),
        dtype=recipe.model.dtype,
        max_batch_rows=recipe.rollout.max_batch_rows,
        lora_rank=lora_rank if recipe.lora is None else int(recipe.lora.get("r", 8)),
        processors=(PROCESSORS,) if stops(recipe) else (),
        extra={"revision": recipe.model.revision, **recipe.rollout.vllm},
    )
    return start_engine(source, options)


def _check_attention(recipe: Recipe, kept: str | None) -> None:
    if kept is not None:
        raise RecipeError(
            f"rollout.engine: {recipe.rollout.engine} cannot follow what the model's attention keeps, {kept}; use hf"
        )


def stops(recipe: Recipe) -> bool:
    """Return whether rollouts or evaluation scale the stop token, so that an engine needs the processor for it."""
    return recipe.rollout.stop is not None or (recipe.eval is not None and recipe.eval.stop is not None)


def make_backend(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    engine: Any = None,
    stop: RequestStop | None = None,
    needed_tokens: int | None = None,
) -> HFBackend | VLLMBackend | VLLMServerBackend:
    """Return the backend that samples from ``model`` with the recipe's engine.

    ``engine`` comes from :func:`open_engine`, and is opened for ``needed_tokens`` when it is None; ``stop`` is what requests
    ask of its processors (engines of vLLM only).

    Raises:
        RecipeError: when the engine cannot sample from such a model.
    """
    ends = eos_ids(model, tokenizer)
    if recipe.rollout.engine == "hf":
        return HFBackend(
            model,
            eos_token_ids=ends,
            pad_token_id=tokenizer.pad_token_id,
            max_batch_rows=recipe.rollout.max_batch_rows,
            context_tokens=context_tokens(model),
        )
    _check_attention(recipe, kept_by(model))
    if engine is None:
        engine = open_engine(recipe, lora_rank=adapter_rank(model), needed_tokens=needed_tokens)
    if recipe.rollout.engine == "vllm_server":
        return VLLMServerBackend(engine, model, ends, stop=stop)
    sleeps = bool(recipe.rollout.vllm.get("enable_sleep_mode"))
    return VLLMBackend(engine, model, ends, sleeps=sleeps, stop=stop)
