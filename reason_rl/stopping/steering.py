"""Efficiency steering: a direction from long to short right answers, added to the states while decoding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from reason_rl.errors import RecipeError
from reason_rl.stopping.states import block_of, last_layer


class Pair(NamedTuple):
    """The shortest and the longest right completion of one problem, with its prompt, as token ids."""

    prompt: tuple[int, ...]
    shortest: tuple[int, ...]
    longest: tuple[int, ...]


def middle_layer(model: PreTrainedModel) -> int:
    """Return the layer that is steered unless told otherwise: ``round(0.6 layers)``, our choice; the paper's is not known."""
    return max(1, round(0.6 * last_layer(model)))


def pairs_of(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[Sequence[int]]], right: Sequence[Sequence[bool]]
) -> list[Pair]:
    """Return a pair for each problem with two right completions of different length.

    Args:
        prompts: of each problem.
        completions: several of each problem.
        right: whether each is right.

    >>> pairs_of([[3]], [[[4, 4], [5], [6, 6, 6]]], [[True, True, False]])
    [Pair(prompt=(3,), shortest=(5,), longest=(4, 4))]
    """
    pairs = []
    for prompt, row, flags in zip(prompts, completions, right, strict=True):
        kept = sorted((tuple(ids) for ids, good in zip(row, flags, strict=True) if good), key=len)
        if kept and len(kept[0]) < len(kept[-1]):
            pairs.append(Pair(tuple(prompt), kept[0], kept[-1]))
    return pairs


def direction(model: PreTrainedModel, pairs: Sequence[Pair], layer: int) -> Float[Tensor, " width"]:
    """Return ``v = mean_i h(shortest_i) - mean_i h(longest_i)``, h the mean state of a completion's tokens after ``layer``.

    Args:
        model: in eval mode.
        pairs: of right completions.
        layer: from 1; its output states, before the final norm.

    Raises:
        RecipeError: without pairs, or for a layer that the model does not have.

    Source: Efficiency Steering (arXiv 2506.15647), abstract; the mean over tokens is our choice.
    """
    if not pairs:
        raise RecipeError("steering: no problem has two right completions of different length; sample more of each")
    short = torch.stack([_mean_state(model, pair.prompt, pair.shortest, layer) for pair in pairs])
    long = torch.stack([_mean_state(model, pair.prompt, pair.longest, layer) for pair in pairs])
    return short.mean(dim=0) - long.mean(dim=0)


@contextlib.contextmanager
def steered(model: PreTrainedModel, layer: int, push: Float[Tensor, " width"]) -> Iterator[None]:
    """Add ``push`` to the states after ``layer`` while the block runs: ``h <- h + alpha v``, pass ``alpha * v``.

    Only positions that are fed one at a time are changed: what the model writes, not the prompt. A push of nought changes
    nothing, bit by bit. No certificate holds for a steered model: its states and traces are others.

    Raises:
        RecipeError: for a layer that the model does not have.
    """

    def after(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        if states.shape[1] != 1:
            return output
        moved = states + push.to(states)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    handle = block_of(model, layer).register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def _mean_state(model: PreTrainedModel, prompt: Sequence[int], ids: Sequence[int], layer: int) -> Tensor:
    kept: list[Tensor] = []

    def after(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        kept.append((output[0] if isinstance(output, tuple) else output)[0, len(prompt) :])

    handle = block_of(model, layer).register_forward_hook(after)
    try:
        with torch.no_grad():
            model(input_ids=torch.tensor([[*prompt, *ids]], device=model.device), logits_to_keep=1)
    finally:
        handle.remove()
    return kept[0].float().mean(dim=0)
