"""``reason-rl merge``: reads models tensor by tensor, writes shards, and appears whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file

from reason_rl.merge.agree import check_agreement, config_differences, has_token_rows, shared_rows
from reason_rl.merge.source import INDEX, Source, digest, load_tokenizer, open_source
from reason_rl.merge.spec import MergeSpec
from reason_rl.merge.tensors import merge_tensor
from reason_rl.run_folder import package_versions, refuse_used

CARD = "merge.json"
SHARD_BYTES = 2_000_000_000  # what is held in memory, beside a few copies of the largest tensor


def merge_models(
    spec: MergeSpec, out: Path, say: Callable[[str], None] = print, *, shard_bytes: int = SHARD_BYTES
) -> dict[str, Any]:
    """Merge models into the folder ``out``: weights, configuration, tokenizer, and merge.json, which says what was merged.

    Everything is checked before anything is written; ``out`` appears when all of it is there.

    Returns:
        what merge.json holds: the spec, SHA-256 of every file read and written, and what the configurations differ in.

    Raises:
        RecipeError: for a spec that makes no sense, models that do not fit each other, or an ``out`` in use.
    """
    spec = spec.checked()
    refuse_used(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the finished folder is moved, not copied.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as name:
        scratch, part = Path(name), Path(name) / "merged"
        sources = {model: open_source(model, scratch) for model in spec.sources}
        if not sources[spec.kept].tied:
            sources = {model: source.with_head() for model, source in sources.items()}
        kept = sources[spec.kept]
        others = [source for source in sources.values() if source is not kept]
        check_agreement(kept, others, same_vocabulary=spec.tokenizer is None)
        differences = config_differences(kept, others)
        if differences:
            say(f"the configurations differ in {', '.join(differences)}; {kept.name}'s is kept")
        part.mkdir()
        _write_weights(spec, sources, part, shard_bytes)
        _write_rest(spec, kept, part)
        card = {
            "format": 1,
            "merge": asdict(spec),
            "kept": spec.kept,
            "config_differences": differences,
            "read": {source.name: {f.name: digest(f) for f in source.files} for source in sources.values()},
            "written": {f.name: digest(f) for f in sorted(part.iterdir())},
            "packages": package_versions(),
        }
        (part / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        part.replace(out)
    return card


def _write_weights(spec: MergeSpec, sources: dict[str, Source], part: Path, shard_bytes: int) -> None:
    """Write the merged tensors, a shard in memory at a time."""
    kept = sources[spec.kept]
    shells = {
        name: torch.empty(entry.shape, dtype=_stored(spec, kept, name), device="meta")
        for name, entry in kept.entries.items()
    }
    plan = split_torch_state_dict_into_shards(shells, max_shard_size=shard_bytes)
    for file, names in plan.filename_to_tensors.items():
        tensors = {name: merged_tensor(spec, sources, name).to(shells[name].dtype) for name in names}
        save_file(tensors, part / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (part / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _stored(spec: MergeSpec, kept: Source, name: str) -> torch.dtype:
    """Return the type a tensor is written in."""
    stored = kept.entries[name].dtype
    if stored is None:
        return kept.tensor(name).dtype
    return getattr(torch, spec.dtype) if spec.dtype else stored


def merged_tensor(spec: MergeSpec, sources: dict[str, Source], name: str) -> torch.Tensor:
    """Return one tensor of the result: merged, or the kept model's where it holds no floats or is excluded.

    Of vocabulary rows, those whose token is not the same in all models are the kept model's.
    """
    kept = sources[spec.kept]
    own = kept.tensor(name)
    if kept.entries[name].dtype is None or (spec.exclude is not None and re.search(spec.exclude, name)):
        return own
    others = [source for source in sources.values() if source is not kept]
    shared = shared_rows(kept, others, own.shape[0]) if has_token_rows(name) else None
    base = None if spec.base is None else _rows(sources[spec.base].tensor(name), own)
    models = [_rows(sources[model].tensor(name), own) for model in spec.models]
    merged = merge_tensor(spec, name, base, models).contiguous()
    return merged if shared is None else torch.where(shared[:, None], merged, own.to(merged.dtype))


def _rows(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a tensor with as many rows as another; rows that are missing are the other's, and later put back anyway."""
    if tensor.shape == like.shape:
        return tensor
    rows = like.to(tensor.dtype, copy=True)
    count = min(len(tensor), len(like))
    rows[:count] = tensor[:count]
    return rows


def _write_rest(spec: MergeSpec, kept: Source, part: Path) -> None:
    """Write configuration, generation configuration and tokenizer of the kept model."""
    config = dict(kept.config)
    if spec.dtype is not None:
        config.pop("torch_dtype", None)
        config["dtype"] = spec.dtype
    (part / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    generation = kept.folder / "generation_config.json"
    if generation.is_file():
        shutil.copyfile(generation, part / generation.name)
    load_tokenizer(kept.name, kept.folder).save_pretrained(part)
