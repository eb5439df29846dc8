"""Whether models can be merged, and which vocabulary rows they share: decided from headers, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from reason_rl.errors import RecipeError
from reason_rl.merge.source import EMBEDDING, HEAD, Source

# Of a config.json: what says nothing about the function that the weights compute.
INDIFFERENT = {
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "vocab_size",
}

NAME_ONE = "name the model whose tokenizer is kept: rows of tokens that all share are merged, its other rows copied"


def check_agreement(kept: Source, others: Sequence[Source], *, same_vocabulary: bool) -> None:
    """Raise RecipeError, one line a model, unless the models differ in the values of their weights alone.

    Args:
        kept: the model whose configuration is kept.
        others: the other ones.
        same_vocabulary: also refuse other vocabularies.
    """
    complaints = [
        complaint for other in others for complaint in [_complaint(kept, other, same_vocabulary)] if complaint
    ]
    if complaints:
        raise RecipeError("\n".join(f"merge: {complaint}" for complaint in complaints))


def _complaint(kept: Source, other: Source, same_vocabulary: bool) -> str | None:
    kinds = [source.config.get("model_type") for source in (kept, other)]
    if kinds[0] != kinds[1]:
        return f"{other.name} is a {kinds[1]} model, {kept.name} a {kinds[0]} one"
    if kept.tied and not other.tied:
        return (
            f"{kept.name} ties its head to its embeddings and cannot keep the head of {other.name}; name {other.name} as "
            "the model whose tokenizer is kept"
        )
    missing, extra = kept.entries.keys() - other.entries.keys(), other.entries.keys() - kept.entries.keys()
    if missing or extra:
        return f"{other.name} and {kept.name} have other tensors: {_names(missing | extra)} only in one of them"
    if same_vocabulary and (complaint := _vocabularies(kept, other)):
        return complaint
    shapes = [name for name in kept.entries if not _fit(name, kept, other, same_vocabulary)]
    if shapes:
        name = shapes[0]
        pair = " and ".join(f"{list(source.entries[name].shape)} in {source.name}" for source in (kept, other))
        more = f" ({len(shapes)} such tensors)" if len(shapes) > 1 else ""
        return f"{name} is {pair}{more}" + (f"; {NAME_ONE}" if all(map(has_token_rows, shapes)) else "")
    return None


def _fit(name: str, kept: Source, other: Source, same_vocabulary: bool) -> bool:
    ours, theirs = kept.entries[name].shape, other.entries[name].shape
    return ours == theirs or (not same_vocabulary and has_token_rows(name) and ours[1:] == theirs[1:])


def _vocabularies(kept: Source, other: Source) -> str | None:
    if dict(kept.vocabulary) == dict(other.vocabulary):
        return None
    different = {token for token, _ in set(kept.vocabulary.items()) ^ set(other.vocabulary.items())}
    return f"{other.name} has another vocabulary than {kept.name} ({_names(different)}); {NAME_ONE}"


def _names(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def has_token_rows(name: str) -> bool:
    """Tell whether a tensor has a row a token.

    >>> has_token_rows("model.embed_tokens.weight"), has_token_rows("model.norm.weight")
    (True, False)
    """
    return name.endswith((EMBEDDING, HEAD))


def shared_rows(kept: Source, others: Sequence[Source], rows: int) -> torch.Tensor | None:
    """Return which of the kept model's vocabulary rows stand for the same token in all models [rows]; None = all of them.

    Rows beyond the vocabulary are padding, which belongs to no token.
    """
    if all(dict(other.vocabulary) == dict(kept.vocabulary) for other in others):
        return None
    shared = set(kept.vocabulary.items()).intersection(*(other.vocabulary.items() for other in others))
    mask = torch.zeros(rows, dtype=torch.bool)
    mask[[row for _, row in shared if row < rows]] = True
    return mask


def config_differences(kept: Source, others: Sequence[Source]) -> dict[str, dict[str, Any]]:
    """Return what else the configurations differ in, setting -> model -> value: merging takes the kept model's."""
    found: dict[str, dict[str, Any]] = {}
    for other in others:
        for key, ours, theirs in _differing(kept.config, other.config):
            found.setdefault(key, {kept.name: ours})[other.name] = theirs
    return found


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in sorted((ours.keys() | theirs.keys()) - INDIFFERENT):
        if ours.get(key) != theirs.get(key):
            yield key, ours.get(key), theirs.get(key)
