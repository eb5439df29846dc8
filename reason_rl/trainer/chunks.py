"""Splits a padded micro-batch into chunks of rows of like length, and leaves out rows that the loss does not depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """Row indices, and the columns [start, stop) outside of which all of these rows are padding."""

    rows: Tensor
    start: int
    stop: int


def length_chunks(attention_mask: Tensor, completion_width: int, chunk_rows: int) -> list[Chunk]:
    """Return chunks of at most ``chunk_rows`` rows, sorted by completion tokens.

    Args:
        attention_mask: [rows, prompt width + completion width], prompts padded on the left, completions on the right.
        completion_width: columns of the completion; a chunk keeps at least one of them.
        chunk_rows: rows of a chunk; the last may have fewer.

    >>> mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0]])
    >>> [(c.rows.tolist(), c.start, c.stop) for c in length_chunks(mask, 3, 2)]
    [([1, 2], 0, 4), ([0], 1, 5)]
    """
    prompt_width = attention_mask.shape[1] - completion_width
    lengths = attention_mask[:, prompt_width:].sum(dim=1)
    chunks = []
    for rows in lengths.argsort(stable=True).split(chunk_rows):
        prompts = attention_mask[rows, :prompt_width].sum(dim=1)
        stop = prompt_width + max(1, int(lengths[rows].max()))
        chunks.append(Chunk(rows, prompt_width - int(prompts.max()), stop))
    return chunks


@dataclass(frozen=True)
class Needed:
    """The rows of a micro-batch whose loss depends on the policy.

    For the others the log-probabilities before the update stand in (0 where TRL keeps none), so that their ratio is 1.
    """

    rows: Tensor
    old_logps: Tensor | None


def needed_rows(inputs: Mapping[str, Tensor], most: Callable[[int], int]) -> Needed:
    """Return the rows with an advantage, filled up with others to as many as the fullest process computes.

    Args:
        inputs: a micro-batch as TRL's loss gets it.
        most: makes the largest number over all processes of this one's; they must compute alike, where weights are sharded.

    >>> needed_rows({"advantages": torch.tensor([0.0, 0.5, 0.0, -0.5])}, lambda count: count + 1).rows
    tensor([0, 1, 3])
    """
    moved = inputs["advantages"].ne(0).view(len(inputs["advantages"]), -1).any(dim=1)
    count = max(1, most(int(moved.sum())))
    rows = moved.to(torch.int8).argsort(descending=True, stable=True)[:count].sort().values
    return Needed(rows, inputs.get("old_per_token_logps"))


def in_chunks_of_needed(
    compute: Callable[[Tensor, Tensor, int], tuple[Tensor | None, ...]],
    input_ids: Tensor,
    attention_mask: Tensor,
    completion_width: int,
    chunk_rows: int,
    needed: Needed,
) -> list[Tensor | None]:
    """Apply :func:`in_chunks` to the needed rows: log-probabilities and entropies, [rows, completion width].

    The entropy of the others is set to the mean over the needed ones' tokens, which leaves the logged mean that of these.
    """
    rows = needed.rows
    logps, entropies = in_chunks(compute, input_ids[rows], attention_mask[rows], completion_width, chunk_rows)
    assert logps is not None
    old = torch.zeros(len(input_ids), completion_width, dtype=logps.dtype, device=logps.device)
    whole = (old if needed.old_logps is None else needed.old_logps.to(logps.dtype)).index_copy(0, rows, logps)
    if entropies is None:
        return [whole, None]
    mask = attention_mask[rows, -completion_width:]
    mean = (entropies.detach() * mask).sum() / mask.sum().clamp(min=1)
    return [whole, torch.full_like(whole, mean.item()).index_copy(0, rows, entropies)]


def in_chunks(
    compute: Callable[[Tensor, Tensor, int], tuple[Tensor | None, ...]],
    input_ids: Tensor,
    attention_mask: Tensor,
    completion_width: int,
    chunk_rows: int,
) -> list[Tensor | None]:
    """Apply ``compute(input_ids, attention_mask, completion width)`` to each chunk and put its results in place.

    Results are [rows, completion width] or None; padding that was not computed is 0.
    """
    chunks = length_chunks(attention_mask, completion_width, chunk_rows)
    prompt_width = attention_mask.shape[1] - completion_width
    parts: list[list[Tensor | None]] = []
    for chunk in chunks:
        columns = slice(chunk.start, chunk.stop)
        width = chunk.stop - prompt_width
        results = compute(input_ids[chunk.rows, columns], attention_mask[chunk.rows, columns], width)
        missing = completion_width - width
        parts.append([None if part is None else torch.nn.functional.pad(part, (0, missing)) for part in results])
    place = torch.cat([chunk.rows for chunk in chunks]).argsort()
    joined: list[Tensor | None] = []
    for column in zip(*parts, strict=True):
        present = [part for part in column if part is not None]
        joined.append(torch.cat(present)[place] if present else None)
    return joined
