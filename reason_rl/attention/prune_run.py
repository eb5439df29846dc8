"""``reason-rl prune``: from a model and a budget to a smaller model on disk, with its error and its speed measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from reason_rl.attention.decoder import decoder_of, parameter_count
from reason_rl.attention.heads_files import has_heads, load_heads
from reason_rl.attention.heads_module import HeadOptions, add_heads, at_mask
from reason_rl.attention.prune import Choice, choose_heads, norm_scores, prune
from reason_rl.attention.prune_speed import speed_ratio
from reason_rl.errors import RecipeError
from reason_rl.models import kept_in, load_model, load_tokenizer, refuse_adapter, resolve_model
from reason_rl.recipe.schema import ModelSection
from reason_rl.run_folder import refuse_used

RankBy = Literal["gates", "norm"]
CARD_FILE = "pruned.json"
PROBE_TOKENS = 64


@dataclass(frozen=True)
class PruneOptions:
    """What to prune by and what to measure.

    Args:
        budget: share of the heads to keep.
        rank: by the model's own ``gates``, or by the ``norm`` of its weights, which needs no training.
        tokens: prompt tokens of the speed measurement; None = 2048, or as many as the model has positions.
        repeats: measured passes of each model.
    """

    budget: float
    rank: RankBy = "gates"
    tokens: int | None = None
    repeats: int = 5


def prune_model(path: str, out: Path, options: PruneOptions) -> dict[str, Any]:
    """Prune the model of a folder, write the smaller one to ``out``, and return what was kept and measured.

    Raises:
        RecipeError: for a budget outside (0, 1], a model that cannot be pruned or has no gates, or an ``out`` in use.
    """
    if not 0.0 < options.budget <= 1.0:
        raise RecipeError(f"--budget {options.budget:g}: must be above 0 and at most 1")
    refuse_used(out)
    refuse_adapter(path, "prune")
    section = ModelSection(path=path, dtype="auto")
    model = load_model(section).eval()
    choice = choose(model, Path(resolve_model(path)), options)
    smaller = prune(model, choice.mask)
    tokens = min(options.tokens or 2048, int(model.config.max_position_embeddings))
    result = {
        "model": path,
        "asked": choice.asked,
        "kept": choice.kept,
        "rank": options.rank,
        "heads": [row.nonzero()[:, 0].tolist() for row in choice.mask],
        "parameters": {"before": parameter_count(model), "after": parameter_count(smaller)},
        "largest_logit_difference": difference(model, smaller, choice),
        "prompt_tokens": tokens,
        **speed_ratio(model, smaller, tokens, options.repeats),
    }
    smaller.save_pretrained(out)
    load_tokenizer(section).save_pretrained(out)
    (out / CARD_FILE).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def choose(model: Any, folder: Path, options: PruneOptions) -> Choice:
    """Return the heads to keep; gates are read from the folder and left off the model.

    Raises:
        RecipeError: when gates are asked for and there are none, or something stays in the model's attention.
    """
    if (kept := kept_in(folder)) is not None:
        raise RecipeError(
            f"{folder}: its attention keeps {kept}, which a smaller model would not; prune first, then train it"
        )
    config = decoder_of(model).config
    if options.rank == "norm":
        return choose_heads(norm_scores(model, HeadOptions()), config, HeadOptions(), options.budget)
    if not has_heads(folder):
        raise RecipeError(
            f"{folder}: no head gates to prune by; make them with reason-rl heads, or rank by weights: --rank norm"
        )
    held = load_heads(model, folder)
    return choose_heads(held.scores(options.budget), config, held.options, options.budget)


def difference(model: Any, smaller: Any, choice: Choice) -> float:
    """Return the largest difference between the logits of the pruned model and of the masked one, on one probe row."""
    decoder = decoder_of(model)
    if not hasattr(decoder, "head_gates"):
        add_heads(model, HeadOptions())
    units = decoder.head_gates.offset.shape
    mask = choice.mask.view(*units, -1).any(-1)
    ids = torch.arange(min(PROBE_TOKENS, model.config.max_position_embeddings))[None] % model.config.vocab_size
    with torch.no_grad():
        pruned = smaller(input_ids=ids).logits
        with at_mask(model, mask):
            return (pruned - model(input_ids=ids).logits).abs().max().item()
