"""What every exit of a finished trace would have answered: one pass over the trace, then all its exits side by side.

The exits of a trace share its beginning. They are decoded as branches of one sequence: each attends to the trace up to its
own cue and to itself, so nothing is copied and a step of all branches is one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from reason_rl.errors import RecipeError
from reason_rl.rollout.cache import chunked_cache
from reason_rl.stopping.cues import Cues
from reason_rl.stopping.fork import entropy_nats
from reason_rl.stopping.rule import Ask, Trial
from reason_rl.stopping.states import check_layers, tapped
from reason_rl.stopping.thinking import ThinkTokens

MASK_NUMBERS = 2**24  # of the largest attention mask; more traces at a time gain nothing
MASKED_ATTENTION = ("sdpa", "eager")
GROUP_CUES = 48  # branches of a trace side by side: they attend past each other, which costs as much as their prefix


@dataclass(frozen=True)
class Text:
    """A finished trace and the places of its cues, in completion tokens."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    cues: tuple[int, ...]


@dataclass(frozen=True)
class Exits:
    """What was found at the cues of a trace: the states there, and what an exit would have written."""

    features: Float[Tensor, "cues width"]
    trials: tuple[Trial, ...]


def think_places(prompt: Sequence[int], completion: Sequence[int], tokens: ThinkTokens) -> list[tuple[int, int]]:
    """Return each place where a rule is asked while a trace is written: (completion tokens, of these think tokens).

    >>> tokens = ThinkTokens(end=6, start=5, eos=(1,))
    >>> think_places([3, 5], [9, 9, 6, 7, 1], tokens), think_places([3], [9, 5, 9, 6, 1], tokens)
    ([(0, 0), (1, 1), (2, 2)], [(2, 0), (3, 1)])
    """
    thinking, closed, think_tokens = tokens.opened_by(prompt), False, 0
    places = []
    for written, token in enumerate(completion):
        if thinking:
            places.append((written, think_tokens))
            think_tokens += 1
            thinking = token != tokens.end
            closed = not thinking
        elif not closed and token == tokens.start:
            thinking = True
    return places


def cue_places(prompt: Sequence[int], completion: Sequence[int], tokens: ThinkTokens, cues: Cues) -> tuple[int, ...]:
    """Return after how many completion tokens the cues of a trace come.

    >>> tokens = ThinkTokens(end=6, start=5, eos=(1,))
    >>> cue_places([3, 5], [21, 9, 21, 6, 21, 1], tokens, Cues(frozenset({(21,)})))
    (1, 3)
    >>> cue_places([3], [21, 5, 9, 9, 6, 1], tokens, Cues(frozenset(), every=2))
    (4,)
    """
    places = think_places(prompt, completion, tokens)
    return tuple(written for written, count in places if cues.at(completion[:written], count))


def check_tries(model: PreTrainedModel, layers: Sequence[int]) -> None:
    """Raise RecipeError for a model that exits cannot be tried with; to be asked before its traces are sampled.

    Raises:
        RecipeError: for an attention implementation that takes no masks of its own, or a layer that is not there.
    """
    kind = getattr(model.config, "_attn_implementation", None)
    if kind not in MASKED_ATTENTION:
        raise RecipeError(f"model.attn_implementation {kind}: trying exits needs {' or '.join(MASKED_ATTENTION)}")
    check_layers(model, layers)


def try_exits(
    model: PreTrainedModel,
    texts: Sequence[Text],
    ask: Ask,
    layers: Sequence[int],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Exits]:
    """Return the states at each cue of each trace and the greedy continuation after ``ask.suffix`` there.

    Gives what :func:`reason_rl.stopping.fork.side_decode` gives while the trace is written, for a fraction of the work.

    Args:
        model: in eval mode, without gradients; full attention in every layer.
        texts: finished traces.
        ask: suffix, length and stop tokens of the exits.
        layers: whose states to keep.
        on_progress: called with (traces done, traces).

    Raises:
        RecipeError: see :func:`check_tries`.
        ValueError: for an empty suffix.
    """
    check_tries(model, layers)
    if not ask.suffix:
        raise ValueError("an exit needs at least one suffix token")
    order = sorted(range(len(texts)), key=lambda i: len(texts[i].prompt) + len(texts[i].completion))
    found: dict[int, Exits] = {}
    start = 0
    while start < len(order):
        size = _fitting([texts[i] for i in order[start:]], ask)
        chosen = order[start : start + size]
        tried = _try_some(model, [texts[i] for i in chosen], ask, layers)
        found |= dict(zip(chosen, tried, strict=True))
        start += size
        if on_progress:
            on_progress(start, len(order))
    return [found[i] for i in range(len(texts))]


def _fitting(texts: Sequence[Text], ask: Ask) -> int:
    """Return how many of these traces, the shortest first, fit into one pass; at least one."""
    cues = tokens = 0
    for number, text in enumerate(texts):
        cues = min(GROUP_CUES, max(cues, len(text.cues)))
        tokens = max(tokens, len(text.prompt) + len(text.completion))
        keys = tokens + cues * (len(ask.suffix) + ask.max_tokens)
        if number and (number + 1) * max(tokens * tokens, cues * len(ask.suffix) * keys) > MASK_NUMBERS:
            return number
    return len(texts)


def _try_some(model: PreTrainedModel, texts: Sequence[Text], ask: Ask, layers: Sequence[int]) -> list[Exits]:
    device = model.device
    rows = [[*text.prompt, *text.completion] for text in texts]
    width, cues = max(map(len, rows)), max(1, *(len(text.cues) for text in texts))
    # Padding stands to the right, where no branch looks.
    ids = torch.tensor([row + [row[-1]] * (width - len(row)) for row in rows], device=device)
    ends = [[len(text.prompt) + place for place in text.cues] + [1] * (cues - len(text.cues)) for text in texts]
    seen = torch.tensor(ends, device=device)
    cache = chunked_cache(model.config.get_text_config().num_hidden_layers)
    with tapped(model, layers, every_position=True) as tap:
        # The outputs of padding are not used, and causal attention keeps them out of all others.
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        states = tap.features()
    trials: list[list[Trial]] = [[] for _ in texts]
    for group in seen.split(GROUP_CUES, dim=1):
        for row, tried in enumerate(_Branches(model, cache, group, width, ask).decode()):
            trials[row] += tried
        cache.crop(width - cache.get_seq_length())
    exits = []
    for row, text in enumerate(texts):
        count = len(text.cues)
        features = torch.zeros(count, 0) if states is None else states[row, seen[row, :count] - 1].cpu()
        exits.append(Exits(features, tuple(trials[row][:count])))
    return exits


@dataclass
class _Branches:
    """The exits of several traces while they are decoded; ``seen``: prefix tokens that each branch attends to."""

    model: PreTrainedModel
    cache: Cache
    seen: Int[Tensor, "rows cues"]
    width: int
    ask: Ask

    def decode(self) -> list[list[Trial]]:
        """Decode all branches greedily and return what each wrote, its stop token included."""
        device = self.seen.device
        rows, cues = self.seen.shape
        suffix, lanes = torch.tensor(self.ask.suffix, device=device), torch.arange(cues, device=device)
        size = len(suffix)
        owner, rank = lanes.repeat_interleave(size), torch.arange(size, device=device).repeat(cues)
        places = (self.seen[:, :, None] + torch.arange(size, device=device)).flatten(1)
        own = (owner[:, None] == owner) & (rank[:, None] >= rank)
        ends = torch.arange(size - 1, cues * size, size, device=device)
        logits = self._feed(suffix.repeat(rows, cues), places, own, ends).float()
        # A trace at a time: float64 over a vocabulary at each cue is large.
        entropies = torch.stack([entropy_nats(row) for row in logits])
        tokens = torch.zeros(rows, cues, 0, dtype=torch.long, device=device)
        logps = torch.zeros(rows, cues, 0, device=device)
        stop, ended = (
            torch.tensor(self.ask.stop, device=device),
            torch.zeros(rows, cues, dtype=torch.bool, device=device),
        )
        while tokens.shape[2] < self.ask.max_tokens:
            best = logits.log_softmax(dim=-1).max(dim=-1)
            tokens = torch.cat([tokens, best.indices[:, :, None]], dim=2)
            logps = torch.cat([logps, best.values[:, :, None]], dim=2)
            ended = ended | torch.isin(best.indices, stop)
            if bool(ended.all()) or tokens.shape[2] == self.ask.max_tokens:
                break
            owner = torch.cat([owner, lanes])
            places = self.seen + size + tokens.shape[2] - 1
            logits = self._feed(best.indices, places, lanes[:, None] == owner, lanes).float()
        return [
            [_up_to(*branch, self.ask.stop) for branch in zip(*row, strict=True)]
            for row in zip(tokens.tolist(), logps.tolist(), entropies.tolist(), strict=True)
        ]

    def _feed(self, ids: Tensor, places: Tensor, own: Bool[Tensor, "queries keys"], keep: Tensor) -> Tensor:
        """Feed tokens, each after its branch's prefix and own tokens, and return the logits at ``keep``."""
        per_branch = ids.shape[1] // self.seen.shape[1]
        prefix = (
            torch.arange(self.width, device=ids.device) < self.seen.repeat_interleave(per_branch, dim=1)[:, :, None]
        )
        allowed = torch.cat([prefix, own.expand(len(ids), -1, -1)], dim=2)[:, None]
        dtype = self.model.dtype
        mask = torch.zeros(allowed.shape, dtype=dtype, device=ids.device).masked_fill(~allowed, torch.finfo(dtype).min)
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return torch.as_tensor(output.logits)


def _up_to(ids: Sequence[int], logps: Sequence[float], entropy: float, stop: Sequence[int]) -> Trial:
    """Return the trial up to and including the first stop token."""
    length = next((place + 1 for place, token in enumerate(ids) if token in stop), len(ids))
    return Trial(tuple(ids[:length]), tuple(logps[:length]), entropy)
