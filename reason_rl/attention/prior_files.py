"""A prior that stays at inference on disk, beside the model it belongs to: safetensors and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reason_rl.attention.inject import AttentionBias
from reason_rl.attention.source import PriorSource
from reason_rl.errors import RecipeError
from reason_rl.models import PRIOR_CARD

WEIGHTS_FILE, CARD_FILE = "attention_prior.safetensors", PRIOR_CARD
FORMAT = 1


def save_prior(bias: AttentionBias, folder: Path) -> None:
    """Write the bias of a model, at its present strength, into a folder."""
    from safetensors.torch import save_file

    source = bias.source
    folder.mkdir(parents=True, exist_ok=True)
    card = {
        "format": FORMAT,
        "reference_tokens": bias.reference_tokens,
        "strength": bias.strength,
        "layers": bias.layers,
        "heads": bias.heads,
        **{name: getattr(source, name) for name in ("variant", "regimes", "align", "tau")},
    }
    save_file({str(layer): mu.contiguous().cpu() for layer, mu in source.frozen.items()}, folder / WEIGHTS_FILE)
    (folder / CARD_FILE).write_text(json.dumps(card, indent=1) + "\n")


def has_prior(folder: Path) -> bool:
    """Tell whether a folder holds a prior."""
    return (folder / CARD_FILE).is_file()


def load_prior(model: Any, folder: Path) -> AttentionBias:
    """Put the bias of a folder on a model.

    Raises:
        RecipeError: when the folder holds none that can be read, or the model takes no bias.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        if card.pop("format") != FORMAT:
            raise RecipeError(f"{folder / CARD_FILE}: another format; this version reads {FORMAT}")
        frozen = {int(layer): mu for layer, mu in load_file(folder / WEIGHTS_FILE).items()}
        source = PriorSource(**{name: card.pop(name) for name in ("variant", "regimes", "align", "tau")}, frozen=frozen)
        layers, heads = (None if card[name] is None else tuple(card[name]) for name in ("layers", "heads"))
        reference, strength = int(card["reference_tokens"]), float(card["strength"])
        return AttentionBias(model, source, reference, layers, heads, strength)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise RecipeError(f"{folder}: cannot be read as an attention prior ({error})") from error
