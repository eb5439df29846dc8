"""A model on disk as the merge reads it: names, shapes and types from the headers, tensors one at a time."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from reason_rl.errors import RecipeError
from reason_rl.models import kept_in, resolve_model, tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
# Tensors with a row a token; a tied head is the embedding under a second name, which files may or may not repeat.
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file, and its name there; ``dtype`` None = no floating-point numbers, so it is copied."""

    file: Path
    stored: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None


@dataclass(frozen=True)
class Source:
    """A model's folder, opened as far as its headers.

    ``name`` is what the user calls it, ``vocabulary`` token -> id.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    entries: Mapping[str, Entry]
    vocabulary: Mapping[str, int]

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding."""
        return bool(self.config.get("tie_word_embeddings"))

    @property
    def files(self) -> list[Path]:
        """The files that hold the tensors."""
        return sorted({entry.file for entry in self.entries.values()})

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor."""
        entry = self.entries[name]
        with safe_open(entry.file, framework="pt") as file:
            return file.get_tensor(entry.stored)

    def with_head(self) -> Source:
        """Return a tied model with a head of its own, which reads the embedding; an untied one as it is."""
        embedding = next((entry for name, entry in self.entries.items() if name.endswith(EMBEDDING)), None)
        return replace(self, entries={**self.entries, HEAD: embedding}) if self.tied and embedding else self


def open_source(name: str, scratch: Path) -> Source:
    """Open a model by folder, hub id or name; an adapter is first merged into its base, in ``scratch``.

    Raises:
        RecipeError: for a model without safetensors, configuration or tokenizer, or weights that are quantised or cannot be
            read.
    """
    folder = _folder(name, scratch)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"merge: {name}: no config.json that can be read ({error})") from error
    if config.get("quantization_config"):
        raise _quantised(name, "quantization_config in config.json")
    entries = dict(_entries(name, folder))
    if config.get("tie_word_embeddings"):
        entries = {key: entry for key, entry in entries.items() if not key.endswith(HEAD)}
    return Source(name, folder, config, entries, load_tokenizer(name, folder).get_vocab())


def load_tokenizer(name: str, folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model's folder."""
    try:
        return tokenizer_of(str(folder))
    except (OSError, ValueError) as error:
        raise RecipeError(f"merge: {name}: no tokenizer ({str(error).splitlines()[0]})") from error


def _folder(name: str, scratch: Path) -> Path:
    """Return the folder with the plain weights of a model."""
    folder = Path(resolve_model(name))
    if (folder / "adapter_config.json").is_file():
        from reason_rl.export import export

        return export(folder, scratch / hashlib.sha256(name.encode()).hexdigest()[:16])
    if (kept := kept_in(folder)) is not None:
        raise RecipeError(f"merge: {name}: its attention keeps {kept}, which merged weights cannot hold")
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]))
    except (OSError, ValueError) as error:
        raise RecipeError(f"merge: {name}: not on this machine or the hub ({str(error).splitlines()[0]})") from error


def _entries(name: str, folder: Path) -> Iterator[tuple[str, Entry]]:
    """Yield (tensor name, entry) of every file of a folder, from the headers."""
    index = folder / INDEX
    with _readable(name):
        files = {WEIGHTS} if not index.is_file() else set(json.loads(index.read_text())["weight_map"].values())
        for file in sorted(files):
            path = folder / file
            if not path.is_file():
                raise RecipeError(f"merge: {name}: no {file}; only weights in safetensors are read")
            with safe_open(path, framework="pt") as opened:
                for key in opened.keys():  # noqa: SIM118
                    header = opened.get_slice(key)
                    kind = header.get_dtype()
                    if kind.startswith("F") and kind not in DTYPES:
                        raise _quantised(name, f"{key} is {kind}")
                    yield key, Entry(path, key, tuple(header.get_shape()), DTYPES.get(kind))


def _quantised(name: str, why: str) -> RecipeError:
    return RecipeError(f"merge: {name}: its weights are quantised ({why}); merge those they were made from")


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise RecipeError(f"merge: {name}: weights cannot be read ({error})") from error


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
