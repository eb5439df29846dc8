"""The reference decoding loop that hosts a stop policy on a transformers model and its own cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedModel

from reason_rl.errors import RunError
from reason_rl.models import context_tokens
from reason_rl.rollout.backend import OnEnded, OnProgress, Sample, SamplingOptions, SamplingRequest, check_context
from reason_rl.rollout.grouped import grouped_decoding
from reason_rl.rollout.hf import sampling_mode
from reason_rl.stopping.batch import Batch, Order, Stopped
from reason_rl.stopping.rule import StopPolicy
from reason_rl.stopping.states import tapped
from reason_rl.stopping.thinking import ThinkTokens


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
        on_progress: OnProgress | None = None,
        on_ended: Callable[[Sequence[tuple[int, Stopped]]], None] | None = None,
    ) -> list[Stopped]:
        """Decode one completion a request, in their order, and say what the policy did to each; told of them as they end.

        Raises:
            RunError: when a prompt and its budget do not fit into the context.
        """
        check_context(requests, context_tokens(self.model))
        done: dict[int, Stopped] = {}
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids))
        layers = self.policy.rule.layers if self.policy.rule else ()
        with sampling_mode(self.model), grouped_decoding(self.model), tapped(self.model, layers) as tap:
            for start in range(0, len(order), self.max_batch_rows):
                chosen = order[start : start + self.max_batch_rows]
                orders = [Order(i, requests[i], options, self.policy) for i in chosen]
                batch = Batch.open(self.model, self.tokens, self.pad_token_id, tap, orders)
                while batch.lanes:
                    ended = [(row.order.number, row.stopped()) for row in batch.step()]
                    done.update(ended)
                    if on_progress and ended:
                        on_progress(len(done), len(requests))
                    if on_ended and ended:
                        on_ended(ended)
        return [done[i] for i in range(len(requests))]

    def generate(
        self,
        requests: Sequence[SamplingRequest],
        options: SamplingOptions,
        on_progress: OnProgress | None = None,
        on_ended: OnEnded | None = None,
    ) -> list[Sample]:
        """Sample one completion a request; the protocol of ``reason_rl.rollout.backend``."""

        def tell(rows: Sequence[tuple[int, Stopped]]) -> None:
            if on_ended:
                on_ended([(row, done.marked()) for row, done in rows])

        return [done.marked() for done in self.decode(requests, options, on_progress, tell)]

    def under(self, policy: StopPolicy) -> StoppingBackend:
        """Return the same backend with another policy."""
        return replace(self, policy=policy)
