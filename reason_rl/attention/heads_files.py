"""Head gates on disk, beside the model they belong to: safetensors and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from torch import nn, no_grad

from reason_rl.attention.decoder import decoder_of
from reason_rl.attention.heads_module import HeadGates, HeadOptions, Shape, add_heads
from reason_rl.errors import RecipeError

WEIGHTS_FILE, CARD_FILE = "heads.safetensors", "heads.json"
FORMAT = 1


def save_heads(held: HeadGates, folder: Path) -> None:
    """Write gates into a folder."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: p.detach().contiguous().cpu() for name, p in held.named_parameters()}, folder / WEIGHTS_FILE)
    card = {"format": FORMAT, "options": asdict(held.options), "shape": asdict(held.shape)}
    (folder / CARD_FILE).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def has_heads(folder: Path) -> bool:
    """Tell whether a folder holds gates."""
    return (folder / CARD_FILE).is_file()


def load_heads(model: nn.Module, folder: Path) -> HeadGates:
    """Put the gates of a folder on a model and return them.

    Raises:
        RecipeError: when the folder holds none, or they belong to a model of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        if card["format"] != FORMAT:
            raise RecipeError(f"{folder / CARD_FILE}: format {card['format']}; this version reads {FORMAT}")
        options, shape = HeadOptions(**card["options"]), Shape(**card["shape"])
        stored = load_file(folder / WEIGHTS_FILE)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise RecipeError(f"{folder}: cannot be read as head gates ({error})") from error
    own = Shape.of(decoder_of(model).config)
    if own != shape:
        raise RecipeError(f"{folder}: gates of another model (they have {shape}, the model {own})")
    held = add_heads(model, options)
    with no_grad():
        for name, parameter in held.named_parameters():
            parameter.copy_(stored[name])
    return held
