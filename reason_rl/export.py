"""Export: an adapter merged into plain weights that AutoModelForCausalLM loads."""

from __future__ import annotations

import json
from pathlib import Path

from reason_rl.errors import RecipeError
from reason_rl.models import kept_in, tokenizer_of
from reason_rl.run_folder import refuse_used


def export(folder: Path, output: Path, trust_remote_code: bool = False) -> Path:
    """Merge the adapter in ``folder`` into its base model and save weights and tokenizer to ``output``.

    A folder with plain weights is refused: there is nothing to merge. A base on the hub is taken at the revision that the
    adapter was trained on.

    Raises:
        RecipeError: when ``folder`` holds no adapter, or ``output`` exists already.
    """
    config = folder / "adapter_config.json"
    if not config.is_file():
        near = folder / "model" / "adapter_config.json"
        hint = f"; did you mean {folder / 'model'}?" if near.is_file() else ""
        raise RecipeError(f"{folder}: no adapter_config.json, nothing to merge{hint}")
    refuse_used(output)
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    card = json.loads(config.read_text())
    base = card["base_model_name_or_path"]
    for place in (folder, Path(base)):
        if (kept := kept_in(place)) is not None:
            raise RecipeError(f"{place}: its attention keeps {kept}, which plain weights cannot hold")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base,
            revision=None if Path(base).is_dir() else card.get("revision"),
            dtype="auto",
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise RecipeError(f"{config}: cannot load the base model {base} ({str(error).splitlines()[0]})") from error
    merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    merged.save_pretrained(output)
    tokenizer_of(str(folder)).save_pretrained(output)
    return output
