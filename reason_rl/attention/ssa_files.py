"""Selective temperatures on disk, beside the model or adapter they belong to: safetensors and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from torch import Tensor, nn, no_grad

from reason_rl.attention.ssa import SSAOptions, add_ssa, ssa_parameters
from reason_rl.errors import RecipeError
from reason_rl.models import SSA_CARD

WEIGHTS_FILE, CARD_FILE = "ssa.safetensors", SSA_CARD
FORMAT = 1


def save_ssa(model: nn.Module, options: SSAOptions, folder: Path) -> None:
    """Write the temperatures of a model into a folder."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: p.detach().contiguous().cpu() for name, p in ssa_parameters(model)}, folder / WEIGHTS_FILE)
    (folder / CARD_FILE).write_text(json.dumps({"format": FORMAT, **asdict(options)}, indent=1) + "\n")


def has_ssa(folder: Path) -> bool:
    """Tell whether a folder holds temperatures."""
    return (folder / CARD_FILE).is_file()


def read_ssa(folder: Path) -> tuple[SSAOptions, dict[str, Tensor]]:
    """Return the options of the temperatures of a folder, and their parameters by name.

    Raises:
        RecipeError: when the folder holds none that can be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        if card.pop("format") != FORMAT:
            raise RecipeError(f"{folder / CARD_FILE}: another format; this version reads {FORMAT}")
        return SSAOptions(**card), load_file(folder / WEIGHTS_FILE)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise RecipeError(f"{folder}: cannot be read as selective temperatures ({error})") from error


def load_ssa(model: nn.Module, folder: Path) -> SSAOptions:
    """Put the temperatures of a folder into a model and return their options.

    Raises:
        RecipeError: when the folder holds none, or they belong to a model of another shape.
    """
    options, stored = read_ssa(folder)
    add_ssa(model, options)
    restore_ssa(model, stored, str(folder))
    return options


def restore_ssa(model: nn.Module, stored: dict[str, Tensor], source: str) -> None:
    """Copy stored temperatures into a model that has the patch.

    Raises:
        RecipeError: when names or shapes differ.
    """
    own = dict(ssa_parameters(model))
    wrong = sorted(own.keys() ^ stored.keys())
    wrong += [name for name in own.keys() & stored.keys() if own[name].shape != stored[name].shape]
    if wrong:
        raise RecipeError(f"{source}: temperatures of another model ({wrong[0]} does not fit)")
    with no_grad():
        for name, parameter in own.items():
            parameter.copy_(stored[name])
