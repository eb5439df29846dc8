"""Tiny random models, one an architecture, over the tiny world's tokens: what a smoke run trains instead of the real one."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from reason_rl.errors import RecipeError
from reason_rl.models import TINY_RANDOM
from reason_rl.smollm import cache_folder
from reason_rl.world.tokenizer import CHAT_TEMPLATE, build_tokenizer, vocabulary

# Parts of model names, and the architecture they stand for; the first that fits decides.
FAMILIES = (
    ("qwen3", "qwen3"),
    ("qwen", "qwen2"),
    ("deepscaler", "qwen2"),
    ("llama", "llama"),
    ("nemotron", "llama"),
    ("smollm", "llama"),
    ("tiny-reasoner", "llama"),
)
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 131072,
}
EXTRA: dict[str, dict[str, Any]] = {"llama": {}, "qwen2": {}, "qwen3": {"head_dim": 8, "tie_word_embeddings": True}}


def architecture(path: str) -> str:
    """Return the architecture (transformers' ``model_type``) of a recipe's ``model.path``: qwen2, qwen3 or llama.

    A folder is asked for its config.json; anything else is known by its name.

    Raises:
        RecipeError: for a model of no known family.

    >>> architecture("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B")
    'qwen2'
    """
    config = Path(path).expanduser() / "config.json"
    name = json.loads(config.read_text())["model_type"] if config.is_file() else path
    for part, kind in FAMILIES:
        if part in name.lower():
            return kind
    raise RecipeError(f"model.path: no tiny model stands for {path}; known families: {', '.join(EXTRA)}")


def tiny_random_path(name: str) -> Path:
    """Return the folder of "tiny-random-<architecture>", written the first time; its name carries what it is made of.

    Weights are drawn with a fixed seed, so every process and machine has the same ones. Tokens are nearly equally likely,
    so a completion ends by itself after about as many tokens as the vocabulary has (123).

    Raises:
        RecipeError: for an unknown architecture.
    """
    kind = name.removeprefix(TINY_RANDOM)
    if kind not in EXTRA:
        raise RecipeError(f"model.path: no model {name}; there are {', '.join(TINY_RANDOM + known for known in EXTRA)}")
    shape = SHAPE | EXTRA[kind]
    made_of = json.dumps([shape, vocabulary(), CHAT_TEMPLATE], sort_keys=True)
    folder = cache_folder() / f"{name}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Written beside the goal and moved there at once: several processes may do so at the same time.
    part = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    try:
        _write(kind, shape, part)
        part.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _write(kind: str, shape: dict[str, Any], target: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = build_tokenizer()
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **shape, **ids)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
