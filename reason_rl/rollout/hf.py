"""Rollouts with the trainer's own transformers model: plain decode steps; finished rows make room for waiting ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from reason_rl.rollout.backend import OnEnded, OnProgress, Sample, SamplingOptions, SamplingRequest, check_context
from reason_rl.rollout.cache import chunked_cache, join_rows, keep_rows
from reason_rl.rollout.grouped import grouped_decoding
from reason_rl.rollout.sampling import draw, uniforms
from reason_rl.rollout.weights import copy_weights, still_copy

RETIRE_SHARE = 0.75


@dataclass
class Lanes:
    """The rows under way: which request each is, its attention mask, its token to feed next, and how many it has drawn."""

    request: Tensor
    mask: Tensor
    token: Tensor
    alive: Tensor
    count: Tensor


class HFBackend:
    """Samples from a transformers model in this process, in eval mode, with a budget and a seed a row.

    Unlike ``generate`` it keeps the cache in place, drops rows when they are done and lets waiting ones in, draws each row
    from its own random stream (so a row does not depend on its neighbours), and returns log-probabilities. It decodes with
    the trainer's own model, or with a copy of it (see :meth:`follow`).

    Args:
        model: a causal language model, plain or with a peft adapter.
        eos_token_ids: ids that end a completion.
        pad_token_id: any id; it is masked.
        max_batch_rows: rows decoded together.
        context_tokens: positions the model has; longer prompt + budget is refused.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        eos_token_ids: Sequence[int],
        pad_token_id: int,
        max_batch_rows: int = 256,
        context_tokens: int | None = None,
    ) -> None:
        self.model = model
        self.eos_token_ids = torch.tensor(sorted(eos_token_ids))
        self.pad_token_id = pad_token_id
        self.max_batch_rows = max_batch_rows
        self.context_tokens = context_tokens
        self.source: PreTrainedModel | None = None
        self.version = 0

    def follow(self, model: PreTrainedModel, *, still: bool = False) -> None:
        """Sample from this model of the trainer; ``still``: from a whole copy of it that only ``sync_weights`` changes.

        A copy is for weights that are sharded, or updated while rollouts are under way; it costs the memory of the model.
        """
        self.source = model if still else None
        self.model = still_copy(model) if still else model

    def sync_weights(self, version: int) -> None:
        """Bring a copy to the trainer's weights, and to where they are; without one they are the trainer's own."""
        if self.source is not None:
            # FSDP moves the trainer's model to the accelerator when training begins, after the copy was made.
            torch.nn.Module.to(self.model, next(self.source.parameters()).device)
            copy_weights(self.source, self.model)
        self.version = version

    def generate(
        self,
        requests: Sequence[SamplingRequest],
        options: SamplingOptions,
        on_progress: OnProgress | None = None,
        on_ended: OnEnded | None = None,
    ) -> list[Sample]:
        """Sample one completion a request; rows of like budget are decoded together, and freed places filled with the next.

        Raises:
            RunError: when a prompt and its budget do not fit into the context.
        """
        check_context(requests, self.context_tokens)
        order = sorted(range(len(requests)), key=lambda i: (requests[i].max_tokens, len(requests[i].prompt_ids)))
        if not order:
            return []
        with sampling_mode(self.model), grouped_decoding(self.model):
            drawn = self._decode([requests[i] for i in order], options, on_progress, _in_order(order, on_ended))
        samples = dict(zip(order, drawn, strict=True))
        return [samples[i] for i in range(len(requests))]

    def _decode(
        self,
        requests: list[SamplingRequest],
        options: SamplingOptions,
        on_progress: OnProgress | None,
        on_ended: OnEnded | None,
    ) -> list[Sample]:
        device = self.model.device
        budgets = torch.tensor([request.max_tokens for request in requests], device=device)
        longest = int(budgets.max())
        noise = uniforms([request.seed for request in requests], longest).to(device)
        tokens = torch.zeros(len(requests), longest, dtype=torch.long, device=device)
        logps = torch.zeros(len(requests), longest, device=device)
        lengths = budgets.clone()
        stopped = torch.zeros(len(requests), dtype=torch.bool, device=device)
        eos = torch.tensor([*self.eos_token_ids.tolist(), *options.stop_ids], device=device)
        entered = min(self.max_batch_rows, len(requests))
        lanes, logits, cache = self._enter(requests, 0, entered)
        while True:
            drawn, drawn_logps = draw(logits, options, noise[lanes.request, lanes.count.clamp(max=longest - 1)])
            live, at = lanes.request[lanes.alive], lanes.count[lanes.alive]
            tokens[live, at], logps[live, at] = drawn[lanes.alive], drawn_logps[lanes.alive]
            stop = torch.isin(drawn, eos) & lanes.alive
            lanes.count = lanes.count + lanes.alive
            lengths[lanes.request[stop]] = lanes.count[stop]
            stopped[lanes.request[stop]] = True
            alive = lanes.alive & ~stop & (budgets[lanes.request] > lanes.count)
            ended, lanes.alive, lanes.token = lanes.request[lanes.alive & ~alive], alive, drawn
            left = int(alive.sum())
            if on_progress:
                on_progress(entered - left, len(requests))
            if on_ended and len(ended):
                rows = _samples(tokens[ended], logps[ended], lengths[ended], stopped[ended])
                on_ended(list(zip(ended.tolist(), rows, strict=True)))
            if left == 0 and entered == len(requests):
                return _samples(tokens, logps, lengths, stopped)
            freed = left < RETIRE_SHARE * len(lanes.alive)
            if freed and left:
                lanes = _retire(lanes, cache)
            if left:
                logits = self._step(lanes, cache)
            if freed and entered < len(requests):
                first, entered = entered, min(entered + self.max_batch_rows - left, len(requests))
                new = self._enter(requests, first, entered)
                lanes, logits, cache = _joined((lanes, logits, cache), new) if left else new

    def _enter(self, requests: list[SamplingRequest], first: int, stop: int) -> tuple[Lanes, Tensor, Cache]:
        """Read the prompts of requests ``first`` to ``stop`` into a cache of their own."""
        cache = chunked_cache(self.model.config.get_text_config().num_hidden_layers)
        lanes, logits = self._prefill(requests[first:stop], cache)
        lanes.request = lanes.request + first
        return lanes, logits, cache

    def _prefill(self, requests: list[SamplingRequest], cache: Cache) -> tuple[Lanes, Tensor]:
        device = self.model.device
        width = max(len(request.prompt_ids) for request in requests)
        ids = torch.full((len(requests), width), self.pad_token_id, device=device)
        mask = torch.zeros(len(requests), width, dtype=torch.long, device=device)
        for row, request in enumerate(requests):
            ids[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids, device=device)
            mask[row, width - len(request.prompt_ids) :] = 1
        rows = torch.arange(len(requests), device=device)
        lanes = Lanes(rows, mask, ids[:, -1], torch.ones_like(rows, dtype=torch.bool), torch.zeros_like(rows))
        return lanes, self._forward(ids, mask, (mask.cumsum(dim=1) - 1).clamp(min=0), cache)

    def _step(self, lanes: Lanes, cache: Cache) -> Tensor:
        lanes.mask = torch.nn.functional.pad(lanes.mask, (0, 1), value=1)
        positions = lanes.mask.sum(dim=1, keepdim=True) - 1
        return self._forward(lanes.token[:, None], lanes.mask, positions, cache)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]


def _retire(lanes: Lanes, cache: Cache) -> Lanes:
    """Drop finished rows, and the positions that are padding in all rows that stay."""
    rows = lanes.alive.nonzero().flatten()
    mask = lanes.mask[rows]
    first = int(mask.argmax(dim=1).min())
    keep_rows(cache, rows, first)
    return Lanes(lanes.request[rows], mask[:, first:], lanes.token[rows], lanes.alive[rows], lanes.count[rows])


def _joined(old: tuple[Lanes, Tensor, Cache], new: tuple[Lanes, Tensor, Cache]) -> tuple[Lanes, Tensor, Cache]:
    """Put new rows below old ones; both have just been fed, so their newest positions stand side by side."""
    (lanes, logits, cache), (more, more_logits, more_cache) = old, new
    join_rows(cache, more_cache)
    width = max(lanes.mask.shape[1], more.mask.shape[1])
    masks = [torch.nn.functional.pad(part.mask, (width - part.mask.shape[1], 0)) for part in (lanes, more)]
    joined = Lanes(
        torch.cat([lanes.request, more.request]),
        torch.cat(masks),
        torch.cat([lanes.token, more.token]),
        torch.cat([lanes.alive, more.alive]),
        torch.cat([lanes.count, more.count]),
    )
    return joined, torch.cat([logits, more_logits]), cache


def _in_order(order: list[int], on_ended: OnEnded | None) -> OnEnded | None:
    """Tell of rows by their place among the requests instead of the place they were decoded in."""
    if on_ended is None:
        return None
    return lambda rows: on_ended([(order[place], sample) for place, sample in rows])


def _samples(tokens: Tensor, logps: Tensor, lengths: Tensor, stopped: Tensor) -> list[Sample]:
    rows = zip(tokens.tolist(), logps.tolist(), lengths.tolist(), stopped.tolist(), strict=True)
    return [Sample(tuple(t[:n]), tuple(p[:n]), "stop" if s else "length") for t, p, n, s in rows]


@contextlib.contextmanager
def sampling_mode(model: PreTrainedModel) -> Iterator[None]:
    """Switch dropout and gradients off while the block runs, and put the training mode back after it."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
