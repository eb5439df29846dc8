"""Scaled stopping inside vLLM: what a request carries, and the edit of a step's rows that both of its runners share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reason_rl.errors import RecipeError
from reason_rl.stopping.temperature import StopOptions, TemperatureStop, scale_stop
from reason_rl.stopping.thinking import Phase, ThinkTokens

if TYPE_CHECKING:
    from reason_rl.recipe.rollout_specs import StopSection
    from reason_rl.rollout.backend import Sample, SamplingRequest

PROCESSORS = ("reason_rl.stopping.vllm_strength_v1:ScaledStop", "reason_rl.stopping.vllm_strength_v2:ScaledStop")
"""The logits processor for vLLM's model runner V1, and for V2."""
PREFIX = "stop_"
NUMBERS = {"stop_strength": float, "stop_min_think_tokens": int, "stop_max_think_tokens": int, "stop_topk_gate": int}
FLAGS = ("stop_mask_eos", "stop_mask_restart")
KNOWN = ("stop_end", "stop_start", "stop_eos", "stop_mode", *NUMBERS, *FLAGS)


@dataclass(frozen=True)
class StopRequest:
    """How one request is stopped: its strength, the ids of thinking, mode, gate and limits."""

    strength: float
    tokens: ThinkTokens
    options: StopOptions


def to_arguments(request: StopRequest) -> dict[str, Any]:
    """Return a request's stopping as flat values: ``extra_args`` in process, ``vllm_xargs`` of a completion over HTTP.

    >>> to_arguments(StopRequest(2.0, ThinkTokens(end=6, start=5, eos=(1,)), StopOptions()))["stop_strength"]
    2.0
    """
    options, tokens = request.options, request.tokens
    optional = {
        "stop_start": tokens.start,
        "stop_topk_gate": options.topk_gate,
        "stop_max_think_tokens": options.max_think_tokens,
    }
    return {
        "stop_strength": request.strength,
        "stop_end": tokens.end,
        "stop_eos": list(tokens.eos),
        "stop_mode": options.mode,
        "stop_min_think_tokens": options.min_think_tokens,
        "stop_mask_eos": int(options.mask_eos),
        "stop_mask_restart": int(options.mask_restart),
        **{key: value for key, value in optional.items() if value is not None},
    }


def from_arguments(arguments: Mapping[str, Any] | None) -> StopRequest | None:
    """Return the stopping that a request carries; None where it carries none. The inverse of :func:`to_arguments`.

    What is left out is off: no gate, no cap, nothing masked. ``stop_start`` left out: thinking is open from the start.

    >>> from_arguments({"stop_strength": 2, "stop_end": 6, "other": 1}).strength
    2.0

    Raises:
        ValueError: for a key that is not known, a missing strength or end token, or a value that cannot be.
    """
    given = {key: value for key, value in (arguments or {}).items() if key.startswith(PREFIX)}
    if not given:
        return None
    unknown = sorted(set(given) - set(KNOWN))
    if unknown:
        raise ValueError(f"{unknown[0]} is not known; known: {', '.join(KNOWN)}")
    missing = [key for key in ("stop_strength", "stop_end") if key not in given]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    try:
        numbers = {key: kind(given[key]) for key, kind in NUMBERS.items() if key in given}
        tokens = ThinkTokens(
            end=int(given["stop_end"]),
            start=int(given["stop_start"]) if "stop_start" in given else None,
            eos=tuple(int(token) for token in given.get("stop_eos", ())),
        )
    except TypeError as error:
        raise ValueError(f"stop arguments: {error}") from error
    strength = numbers.pop("stop_strength")
    flags = {key: bool(given.get(key, 0)) for key in FLAGS}
    fields = {key.removeprefix(PREFIX): value for key, value in (flags | numbers).items()}
    options = StopOptions(given.get("stop_mode", "logprob"), **({"topk_gate": None} | fields))
    TemperatureStop(strength, tokens, options)  # checks the strength
    return StopRequest(strength, tokens, options)


def edit_rows(logits: Tensor, rows: Sequence[int], asked: Sequence[StopRequest], where: Phase) -> None:
    """Scale the stop token in some rows of a step, in place; rows that are not thinking stay as they are bit by bit.

    Args:
        logits: raw ones, [rows of the step, vocabulary].
        rows: which of them to edit.
        asked: how, for each of these.
        where: their phase.
    """
    groups: dict[tuple[ThinkTokens, StopOptions], list[int]] = {}
    for place, request in enumerate(asked):
        groups.setdefault((request.tokens, request.options), []).append(place)
    for (tokens, options), places in groups.items():
        chosen = torch.tensor(places, device=logits.device)
        index = torch.tensor([rows[place] for place in places], device=logits.device)
        strength = torch.tensor([asked[place].strength for place in places], device=logits.device)
        phase = Phase(where.thinking[chosen], where.think_tokens[chosen])
        logits[index] = scale_stop(logits[index], strength, phase, tokens, options)


@dataclass(frozen=True)
class EngineStop:
    """Stopping as an engine is asked for it, request by request.

    Args:
        edit: the strength, one for all requests or one each; ids and options.
    """

    edit: TemperatureStop

    @property
    def processors(self) -> tuple[str, str]:
        """Return the logits processors that requests ask for."""
        return PROCESSORS

    def arguments(self, row: int) -> dict[str, Any]:
        """Return what request number ``row`` carries."""
        strength = self.edit.strength
        own = strength[row] if isinstance(strength, tuple) else strength
        return to_arguments(StopRequest(float(own), self.edit.tokens, self.edit.options))

    def marked(self, request: SamplingRequest, sample: Sample) -> Sample:
        """Return the sample with its tokens marked as sampled, all but an end of thinking that the cap has written."""
        cap, tokens = self.edit.options.max_think_tokens, self.edit.tokens
        thinking, written = tokens.opened_by(request.prompt_ids), 0
        forced = None
        for place, token in enumerate(sample.token_ids if cap is not None else ()):
            if thinking and written == cap:
                forced = place
            if token == tokens.end and thinking:
                break
            written += thinking
            thinking = thinking or token == tokens.start
        return replace(sample, sampled=tuple(place != forced for place in range(len(sample.token_ids))))


def rollout_stop(section: StopSection, tokens: ThinkTokens) -> EngineStop:
    """Return the stopping of a recipe's ``rollout.stop``: what :func:`stop_policy` is for engine hf.

    Nothing is masked but at the cap, where the end of thinking is all that is left.
    """
    options = StopOptions(
        section.mode,
        section.topk_gate,
        max_think_tokens=section.max_think_tokens,
        mask_eos=False,
        mask_restart=False,
    )
    return EngineStop(TemperatureStop(section.strength, tokens, options))


def named_stop(name: str, tokens: ThinkTokens) -> EngineStop:
    """Return the stopping of ``eval --stop strength:X``.

    Raises:
        RecipeError: for a strength that cannot be, and for what is decoded with hf only.
    """
    kind, _, value = name.partition(":")
    if kind != "strength":
        raise RecipeError(f"eval.stop {name}: is there for engine hf only; vllm takes strength:X")
    try:
        return EngineStop(TemperatureStop(float(value), tokens))
    except ValueError as error:
        raise RecipeError(f"eval.stop {name}: {error}") from None
