"""The reference decoding loop that hosts a stop policy on a transformers model and its own cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from reason_rl.errors import RunError
from reason_rl.models import context_tokens
from reason_rl.rollout.backend import Sample, SamplingOptions, SamplingRequest, check_context
from reason_rl.rollout.cache import chunked_cache, keep_rows
from reason_rl.rollout.hf import sampling_mode
from reason_rl.rollout.sampling import draw, uniforms
from reason_rl.stopping.fork import extend, feed, side_decode
from reason_rl.stopping.probe import Probe
from reason_rl.stopping.rule import Action, Ask, Exit, ExitRule, Go, Look, Step, StopPolicy, Trial
from reason_rl.stopping.states import Tap, tapped
from reason_rl.stopping.thinking import ThinkTokens

RETIRE_SHARE = 0.75


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


@dataclass
class _Row:
    """A row while it is decoded; ``queue`` holds tokens still to be forced."""

    request: int
    limit: int
    thinking: bool
    state: Any
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    queue: list[int] = field(default_factory=list)
    closed: bool = False
    think_tokens: int = 0
    exit_at: int | None = None
    side_tokens: int = 0
    finish: str | None = None

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
        if token in tokens.eos:
            self.finish = "stop" if self.exit_at is None else "exit"
        elif len(self.ids) >= self.limit:
            self.finish = "length"

    def act(self, action: Action) -> None:
        """Take an action over: queue its tokens, and for an exit limit the answer."""
        if isinstance(action, Go | Ask):
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
class StoppingBackend:
    """Samples like ``HFBackend`` (same seeds, same tokens when the policy does nothing), under a stop policy.

    Full attention in all layers is assumed, as by ``HFBackend``; beams and assisted decoding are not there.

    Args:
        model: a causal language model, plain or with a peft adapter.
        tokens: ids that open and close thinking and end a completion.
        pad_token_id: any id; it is masked.
        policy: what is done about stopping.
        max_batch_rows: rows decoded together.
        version: of the weights.
    """

    model: PreTrainedModel
    tokens: ThinkTokens
    pad_token_id: int
    policy: StopPolicy = field(default_factory=StopPolicy)
    max_batch_rows: int = 64
    version: int = 0

    def follow(self, model: PreTrainedModel, *, still: bool = False) -> None:
        """Sample from this model of the trainer.

        Raises:
            RunError: for weights that would have to be copied.
        """
        if still:
            raise RunError(
                "rollout.stop: weights that are sharded, or updated meanwhile, cannot be sampled from; leave it out"
            )
        self.model = model

    def sync_weights(self, version: int) -> None:
        """Record the version; the weights are the model's own."""
        self.version = version

    def decode(
        self,
        requests: Sequence[SamplingRequest],
        options: SamplingOptions,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[Stopped]:
        """Decode one completion a request, in their order, and say what the policy did to each.

        Raises:
            RunError: when a prompt and its budget do not fit into the context.
        """
        check_context(requests, context_tokens(self.model))
        host = replace(self, tokens=replace(self.tokens, eos=(*self.tokens.eos, *options.stop_ids)))
        done: dict[int, Stopped] = {}
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids))
        layers = self.policy.rule.layers if self.policy.rule else ()
        with sampling_mode(self.model), tapped(self.model, layers) as tap:
            for start in range(0, len(order), self.max_batch_rows):
                chosen = order[start : start + self.max_batch_rows]
                batch = _Batch.open(host, [(i, requests[i]) for i in chosen], options, tap)
                done |= {row.request: row.stopped() for row in batch.run()}
                if on_progress:
                    on_progress(len(done), len(requests))
        return [done[i] for i in range(len(requests))]

    def generate(
        self,
        requests: Sequence[SamplingRequest],
        options: SamplingOptions,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[Sample]:
        """Sample one completion a request; the protocol of ``reason_rl.rollout.backend``."""
        stopped = self.decode(requests, options, on_progress)
        return [replace(done.sample, sampled=tuple(not put for put in done.forced)) for done in stopped]

    def under(self, policy: StopPolicy) -> StoppingBackend:
        """Return the same backend with another policy."""
        return replace(self, policy=policy)


@dataclass
class _Batch:
    """Rows decoded together: their cache, mask and random numbers."""

    host: StoppingBackend
    options: SamplingOptions
    tap: Tap
    rows: list[_Row]
    noise: dict[int, Tensor]
    mask: Tensor
    ids: Tensor
    cache: Cache

    @classmethod
    def open(
        cls,
        host: StoppingBackend,
        requests: Sequence[tuple[int, SamplingRequest]],
        options: SamplingOptions,
        tap: Tap,
    ) -> _Batch:
        """Pad the prompts on the left; nothing is fed yet."""
        device, rule = host.model.device, host.policy.rule
        width = max(len(request.prompt_ids) for _, request in requests)
        ids = torch.full((len(requests), width), host.pad_token_id, device=device)
        mask = torch.zeros(len(requests), width, dtype=torch.long, device=device)
        for row, (_, request) in enumerate(requests):
            ids[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids, device=device)
            mask[row, width - len(request.prompt_ids) :] = 1
        rows = [
            _Row(i, request.max_tokens, host.tokens.opened_by(request.prompt_ids), rule.start() if rule else None)
            for i, request in requests
        ]
        longest = max(request.max_tokens for _, request in requests)
        noise = uniforms([request.seed for _, request in requests], longest)
        by_request = {i: noise[row].to(device) for row, (i, _) in enumerate(requests)}
        cache = chunked_cache(host.model.config.get_text_config().num_hidden_layers)
        return cls(host, options, tap, rows, by_request, mask, ids, cache)

    def run(self) -> list[_Row]:
        """Decode until every row is done and return them."""
        finished: list[_Row] = []
        lanes = list(self.rows)
        feeding = self.ids
        while True:
            logits = feed(self.host.model, feeding, self.mask, self.cache)
            self._write(lanes, logits)
            live = [lane for lane, row in enumerate(lanes) if row.finish is None]
            if not live:
                return [*finished, *lanes]
            if len(live) < RETIRE_SHARE * len(lanes):
                finished += [row for row in lanes if row.finish is not None]
                kept = torch.tensor(live, device=self.mask.device)
                padding = int(self.mask[kept].argmax(dim=1).min())
                keep_rows(self.cache, kept, padding)
                self.mask, lanes = self.mask[kept, padding:], [lanes[lane] for lane in live]
            feeding = torch.tensor([[row.ids[-1]] for row in lanes], device=self.mask.device)
            self.mask = extend(self.mask, 1)

    def _write(self, lanes: list[_Row], logits: Tensor) -> None:
        """Draw, let the rule look, and write one token in every live row."""
        features = self.tap.features()
        if self.host.policy.edit is not None:
            logits = self.host.policy.edit(self._step(lanes, logits))
        uniform = torch.stack(
            [self.noise[row.request][min(len(row.ids), len(self.noise[row.request]) - 1)] for row in lanes]
        )
        drawn, logps = draw(logits, self.options, uniform)
        greedy = draw(logits, SamplingOptions(temperature=0.0), uniform)
        asked = [lane for lane, row in enumerate(lanes) if _is_asked(row)]
        if self.host.policy.rule is not None:
            self._ask(self.host.policy.rule, lanes, asked, drawn.tolist(), features)
        for lane, row in enumerate(lanes):
            if row.finish is not None:
                continue
            if row.queue:
                row.write(row.queue.pop(0), 0.0, True, self.host.tokens)
            else:
                token, logp = greedy if row.exit_at is not None else (drawn, logps)
                row.write(int(token[lane]), float(logp[lane]), False, self.host.tokens)

    def _step(self, lanes: list[_Row], logits: Tensor) -> Step:
        device = logits.device
        # An exited row must not be edited any more, nor one whose next token is settled.
        thinking = torch.tensor([row.thinking and _is_asked(row) for row in lanes], device=device)
        counts = torch.tensor([row.think_tokens for row in lanes], device=device)
        return Step(torch.tensor([row.request for row in lanes], device=device), logits, thinking, counts)

    def _ask(
        self, rule: ExitRule, lanes: list[_Row], asked: list[int], drawn: list[int], features: Tensor | None
    ) -> None:
        """Put each thinking row before the rule; side decodes with the same suffix go together."""
        trials: dict[int, Trial] = {}
        scores = None if features is None else _Scores(features)
        while asked:
            asks: dict[Ask, list[int]] = {}
            for lane in asked:
                row = lanes[lane]
                states = None if features is None else features[lane]
                score = None if scores is None else partial(scores.of, lane)
                look = Look(row.ids, row.think_tokens, drawn[lane], states, trials.get(lane), score)
                row.state, action = rule.decide(row.state, look)
                row.act(action)
                if isinstance(action, Ask):
                    asks.setdefault(action, []).append(lane)
            trials = {}
            for ask, waiting in asks.items():
                outcome = side_decode(self.host.model, self.cache, self.mask, waiting, ask)
                for lane, trial in zip(waiting, outcome, strict=True):
                    lanes[lane].side_tokens += len(ask.suffix) + len(trial.token_ids)
                    trials[lane] = trial
            asked = sorted(trials)


@dataclass
class _Scores:
    """The scores of all rows of a step, computed when the first row asks."""

    features: Tensor
    values: list[float] = field(default_factory=list)
    probe: Probe | None = None

    def of(self, lane: int, probe: Probe) -> float:
        """Return the score of one row."""
        if self.probe is not probe:
            self.probe, self.values = probe, probe.score(self.features).tolist()
        return self.values[lane]


def _is_asked(row: _Row) -> bool:
    return row.finish is None and row.thinking and not row.queue and row.exit_at is None
