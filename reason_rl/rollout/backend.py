"""The backend protocol: every engine samples rows with their own budgets and seeds and says why each row ended."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from reason_rl.errors import RunError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FinishReason = Literal["stop", "length", "exit"]


@dataclass(frozen=True)
class SamplingRequest:
    """One row: prompt token ids, completion tokens allowed, and the seed of its own random stream."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class SamplingOptions:
    """How all rows are sampled; temperature 0 is greedy, top_k 0 is off, ``stop_ids`` end a completion like its end token."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One completion: token ids with the end token when it came, and log-probabilities under the sampled distribution.

    The first ``forced`` tokens were put there, and their log-probabilities are those of that choice. ``sampled`` tells for
    each token whether the policy drew it; None = all after the first ``forced``.
    """

    token_ids: tuple[int, ...]
    logps: tuple[float, ...]
    finish_reason: FinishReason
    forced: int = 0
    sampled: tuple[bool, ...] | None = None


OnProgress: TypeAlias = Callable[[int, int], None]
OnEnded: TypeAlias = Callable[[Sequence[tuple[int, Sample]]], None]


class Backend(Protocol):
    """An engine that samples completions of the current policy; ``version`` says which weights it holds."""

    version: int

    def generate(
        self,
        requests: Sequence[SamplingRequest],
        options: SamplingOptions,
        on_progress: OnProgress | None = None,
        on_ended: OnEnded | None = None,
    ) -> list[Sample]:
        """Sample one completion a request, in the order of the requests.

        ``on_progress(rows done, rows)``. ``on_ended([(index of the request, sample), ...])`` is told of rows as they end, of
        each row once, and of all before this returns.
        """
        ...

    def sync_weights(self, version: int) -> None:
        """Bring the engine to the trainer's weights, which are now at ``version``."""
        ...


class PolicyBackend(Backend, Protocol):
    """A backend that can be told which model of a trainer it samples from."""

    def follow(self, model: PreTrainedModel, *, still: bool = False) -> None:
        """Sample from this model; ``still``: from a whole copy of it that only ``sync_weights`` changes."""
        ...


def check_context(requests: Sequence[SamplingRequest], context_tokens: int | None) -> None:
    """Raise RunError when a prompt and its budget do not fit into the context; an engine would cut the rollout short.

    >>> check_context([SamplingRequest((5, 6), 30, seed=0)], 32)
    """
    for request in requests:
        needed = len(request.prompt_ids) + request.max_tokens
        if context_tokens is not None and needed > context_tokens:
            raise RunError(
                f"a prompt of {len(request.prompt_ids)} tokens with a budget of {request.max_tokens} needs {needed} "
                f"tokens of context, the model has {context_tokens}"
            )


def sampling_seed(*parts: int | str) -> int:
    """Return a stable 63-bit seed for, say, (run seed, step, problem id, sample index).

    >>> sampling_seed(0, 12, "chain-7", 3) == sampling_seed(0, 12, "chain-7", 3)
    True
    >>> sampling_seed(0, 1, "a", 23) == sampling_seed(0, 12, "a", 3)
    False
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
