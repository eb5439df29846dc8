"""Rows decoded together, each under its own policy and sampling: stepped by a token, joined, dropped, retired when done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from reason_rl.rollout.backend import Sample, SamplingOptions, SamplingRequest
from reason_rl.rollout.cache import chunked_cache, join_rows, keep_rows
from reason_rl.rollout.sampling import draw, uniforms
from reason_rl.stopping.fork import extend, feed, side_decode
from reason_rl.stopping.probe import Probe
from reason_rl.stopping.rule import GO, Action, Ask, Exit, Insert, LogitEdit, Look, Score, Step, StopPolicy, Trial
from reason_rl.stopping.states import Tap
from reason_rl.stopping.thinking import ThinkTokens

RETIRE_SHARE = 0.75
GREEDY = SamplingOptions(temperature=0.0)


@dataclass(frozen=True)
class Stopped:
    """One completion decoded under a policy.

    Args:
        sample: its tokens; forced ones have log-probability 0; an exited row that ended its answer finished by "exit".
        forced: which tokens the policy wrote; they belong into no loss.
        exit_at: completion tokens written before the exit; None when there was none.
        side_tokens: tokens fed and decoded on forks of the cache.
        state: the rule's last state.
    """

    sample: Sample
    forced: tuple[bool, ...]
    exit_at: int | None
    side_tokens: int
    state: Any

    @property
    def net_tokens(self) -> int:
        """Completion tokens and side tokens together: what the completion cost."""
        return len(self.sample.token_ids) + self.side_tokens

    def marked(self) -> Sample:
        """Return the sample with a mark at each token that the model drew."""
        return replace(self.sample, sampled=tuple(not put for put in self.forced))


@dataclass(frozen=True)
class Order:
    """A row to be decoded: the request, how it is sampled, what is done about stopping.

    ``number`` tells it from the other rows of its batch; edits of logits see it as ``Step.request``.
    """

    number: int
    request: SamplingRequest
    options: SamplingOptions
    policy: StopPolicy


@dataclass
class Row:
    """A row while it is decoded; ``queue`` holds tokens still to be forced, ``noise`` its uniform numbers."""

    order: Order
    limit: int
    thinking: bool
    state: Any
    noise: Tensor
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    queue: list[int] = field(default_factory=list)
    closed: bool = False
    think_tokens: int = 0
    exit_at: int | None = None
    side_tokens: int = 0
    finish: str | None = None

    @classmethod
    def start(cls, order: Order, tokens: ThinkTokens, device: torch.device) -> Row:
        """Return the row before its first token."""
        request, rule = order.request, order.policy.rule
        noise = uniforms([request.seed], request.max_tokens)[0].to(device)
        state = rule.start() if rule else None
        return cls(order, request.max_tokens, tokens.opened_by(request.prompt_ids), state, noise)

    def uniform(self) -> Tensor:
        """Return the number that the next token is drawn with."""
        return self.noise[min(len(self.ids), len(self.noise) - 1)]

    def write(self, token: int, logp: float, forced: bool, tokens: ThinkTokens) -> None:
        """Append one token and move on: thinking, its count, and whether the row is done."""
        self.ids.append(token)
        self.logps.append(logp)
        self.forced.append(forced)
        if self.thinking:
            self.think_tokens += 1
            if token == tokens.end:
                self.thinking, self.closed = False, True
        elif not self.closed and token == tokens.start:
            self.thinking = True
        if token in tokens.eos or token in self.order.options.stop_ids:
            self.finish = "stop" if self.exit_at is None else "exit"
        elif len(self.ids) >= self.limit:
            self.finish = "length"

    def act(self, action: Action) -> None:
        """Take an action that writes over: queue its tokens, and for an exit limit the answer."""
        if not isinstance(action, Insert | Exit):
            return
        if not action.ids:
            raise ValueError(f"{type(action).__name__} without tokens would write nothing")
        self.queue = list(action.ids)
        if isinstance(action, Exit):
            self.exit_at = len(self.ids)
            self.limit = min(self.limit, len(self.ids) + len(action.ids) + action.answer_tokens)

    def stopped(self) -> Stopped:
        """Return the finished row."""
        sample = Sample(tuple(self.ids), tuple(self.logps), self.finish)  # type: ignore[arg-type]
        return Stopped(sample, tuple(self.forced), self.exit_at, self.side_tokens, self.state)


@dataclass
class Batch:
    """Rows decoded together: their cache, its mask with the tokens to be fed next, and those tokens."""

    model: PreTrainedModel
    tokens: ThinkTokens
    tap: Tap
    lanes: list[Row]
    ids: Tensor
    mask: Tensor
    cache: Cache

    @classmethod
    def open(
        cls, model: PreTrainedModel, tokens: ThinkTokens, pad_token_id: int, tap: Tap, orders: Sequence[Order]
    ) -> Batch:
        """Pad the prompts on the left; nothing is fed yet.

        Raises:
            ValueError: for a rule that reads other layers than the tap.
        """
        wrong = [o.policy.rule.layers for o in orders if o.policy.rule and o.policy.rule.layers not in ((), tap.layers)]
        if wrong:
            raise ValueError(f"a rule reads the layers {wrong[0]}, {tap.layers} are tapped")
        device, prompts = model.device, [order.request.prompt_ids for order in orders]
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), pad_token_id, device=device)
        mask = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt, device=device)
            mask[row, width - len(prompt) :] = 1
        lanes = [Row.start(order, tokens, device) for order in orders]
        cache = chunked_cache(model.config.get_text_config().num_hidden_layers)
        return cls(model, tokens, tap, lanes, ids, mask, cache)

    def step(self) -> list[Row]:
        """Feed, write one token in every running row, and return the rows that this ended; without rows it is over."""
        logits = feed(self.model, self.ids, self.mask, self.cache)
        running = [row for row in self.lanes if row.finish is None]
        self._write(logits)
        self.ids = torch.tensor([[row.ids[-1]] for row in self.lanes], device=self.mask.device)
        self.mask = extend(self.mask, 1)
        ended = [row for row in running if row.finish is not None]
        if len(running) - len(ended) < RETIRE_SHARE * len(self.lanes):
            self.retire()
        return ended

    def drop(self, numbers: Iterable[int]) -> None:
        """Give up the rows with these numbers; their room is free at once."""
        given_up = set(numbers)
        for row in self.lanes:
            if row.order.number in given_up:
                row.finish = "dropped"
        self.retire()

    def join(self, other: Batch) -> None:
        """Take in the rows of another batch of the same model; both have been stepped."""
        for batch in (self, other):
            batch.retire()
        if not self.lanes or not other.lanes:
            whole = self if self.lanes else other
            self.lanes, self.ids, self.mask, self.cache = whole.lanes, whole.ids, whole.mask, whole.cache
            return
        width = max(self.mask.shape[1], other.mask.shape[1])
        masks = [torch.nn.functional.pad(batch.mask, (width - batch.mask.shape[1], 0)) for batch in (self, other)]
        join_rows(self.cache, other.cache)
        self.mask, self.ids = torch.cat(masks), torch.cat([self.ids, other.ids])
        self.lanes = [*self.lanes, *other.lanes]

    def retire(self) -> None:
        """Drop rows that are done, and the positions that are padding in all rows that stay."""
        live = [lane for lane, row in enumerate(self.lanes) if row.finish is None]
        if live and len(live) < len(self.lanes):
            kept = torch.tensor(live, device=self.mask.device)
            padding = int(self.mask[kept].argmax(dim=1).min())
            keep_rows(self.cache, kept, padding)
            self.mask, self.ids = self.mask[kept, padding:], self.ids[kept]
        self.lanes = [self.lanes[lane] for lane in live]

    def _write(self, logits: Tensor) -> None:
        """Draw, let the rules look, and write one token in every live row."""
        features = self.tap.features()
        logits = self._edited(logits)
        uniform = torch.stack([row.uniform() for row in self.lanes])
        drawn, logps = self._drawn(logits, uniform)
        greedy = draw(logits, GREEDY, uniform)
        self._ask([lane for lane, row in enumerate(self.lanes) if _is_asked(row)], drawn.tolist(), features)
        for lane, row in enumerate(self.lanes):
            if row.finish is not None:
                continue
            if row.queue:
                row.write(row.queue.pop(0), 0.0, True, self.tokens)
            else:
                token, logp = greedy if row.exit_at is not None else (drawn, logps)
                row.write(int(token[lane]), float(logp[lane]), False, self.tokens)

    def _edited(self, logits: Tensor) -> Tensor:
        """Return the logits after the rows' edits; rows with equal edits go together."""
        groups: dict[LogitEdit, list[int]] = {}
        for lane, row in enumerate(self.lanes):
            if row.order.policy.edit is not None:
                groups.setdefault(row.order.policy.edit, []).append(lane)
        for edit, lanes in groups.items():
            if len(lanes) == len(self.lanes):
                return edit(self._step(lanes, logits))
            chosen = torch.tensor(lanes, device=logits.device)
            logits = logits.index_copy(0, chosen, edit(self._step(lanes, logits[chosen])).to(logits.dtype))
        return logits

    def _drawn(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a token in each row; rows that are sampled alike go together."""
        groups: dict[SamplingOptions, list[int]] = {}
        for lane, row in enumerate(self.lanes):
            groups.setdefault(row.order.options, []).append(lane)
        if len(groups) == 1:
            return draw(logits, self.lanes[0].order.options, uniform)
        order = torch.tensor([lane for lanes in groups.values() for lane in lanes], device=logits.device)
        parts = [draw(logits[lanes], options, uniform[lanes]) for options, lanes in groups.items()]
        back = order.argsort()
        tokens, logps = (torch.cat(part)[back] for part in zip(*parts, strict=True))
        return tokens, logps

    def _step(self, lanes: list[int], logits: Tensor) -> Step:
        device, rows = logits.device, [self.lanes[lane] for lane in lanes]
        # An exited row must not be edited any more, nor one whose next token is settled.
        thinking = torch.tensor([row.thinking and _is_asked(row) for row in rows], device=device)
        counts = torch.tensor([row.think_tokens for row in rows], device=device)
        return Step(torch.tensor([row.order.number for row in rows], device=device), logits, thinking, counts)

    def _ask(self, asked: list[int], drawn: list[int], features: Tensor | None) -> None:
        """Put each thinking row before its rule; side decodes with the same suffix go together."""
        trials: dict[int, Trial] = {}
        scores: dict[int, float] = {}
        states = [None] * len(self.lanes) if features is None else features.unbind()
        while asked:
            asks: dict[Ask, list[int]] = {}
            wanted: dict[int, tuple[Probe, list[int]]] = {}
            for lane in asked:
                row = self.lanes[lane]
                rule = row.order.policy.rule
                if rule is None:
                    continue
                look = Look(row.ids, row.think_tokens, drawn[lane], states[lane], trials.get(lane), scores.get(lane))
                row.state, action = rule.decide(row.state, look)
                if action is GO:
                    continue
                if isinstance(action, Score):
                    wanted.setdefault(id(action.probe), (action.probe, []))[1].append(lane)
                elif isinstance(action, Ask):
                    asks.setdefault(action, []).append(lane)
                else:
                    row.act(action)
            trials, scores = {}, {}
            for ask, waiting in asks.items():
                outcome = side_decode(self.model, self.cache, self.mask, waiting, ask)
                for lane, trial in zip(waiting, outcome, strict=True):
                    self.lanes[lane].side_tokens += len(ask.suffix) + len(trial.token_ids)
                    trials[lane] = trial
            for probe, waiting in wanted.values():
                assert features is not None, "a rule asked for a score and names no layers"
                scores.update(zip(waiting, probe.score(features[waiting]).tolist(), strict=True))
            asked = sorted([*trials, *scores])


def _is_asked(row: Row) -> bool:
    return row.finish is None and row.thinking and not row.queue and row.exit_at is None
