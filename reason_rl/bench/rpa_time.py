"""What the prior costs: training steps, prefill and decoding with it against stock, in turn in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from reason_rl.bench.jobs import Row

if TYPE_CHECKING:
    from reason_rl.attention.inject import AttentionBias
    from reason_rl.attention.source import Variant

REFERENCE_TOKENS = 160
BIASES: dict[str, Variant] = {"bias": "static", "content": "content", "published": "published", "factors": "static"}


@dataclass(frozen=True)
class PriorTimeJob:
    """The tiny reasoner with rows as its RL recipes have them, with no prior, the bias, its low-rank form, and the kl term.

    The sides are timed in turn, so that a busy machine slows all alike; medians of the ratios to stock count. The kl term is
    on two layers with 128 queries. ``run`` tells repetitions of the whole apart.
    """

    run: int = 0
    rows: int = 32
    tokens: int = 149
    repeats: int = 20

    @property
    def key(self) -> str:
        """Number of the run."""
        return f"rpa-time-{self.run}"

    def __call__(self) -> Row:
        """Return ratios to stock, and the memory that is kept for a bias."""
        import torch

        draw = torch.Generator().manual_seed(0)
        models = {name: side(name) for name in ("stock", *BIASES, "kl")}
        vocabulary = models["stock"][0].config.vocab_size
        ids = torch.randint(0, vocabulary, (self.rows, self.tokens), generator=draw)
        steps = {name: training_step(*some, ids) for name, some in models.items()}
        step_ratio = ratios(steps, self.repeats)
        still = {name: models[name][0].eval() for name in ("stock", "bias", "content", "published")}
        prefill = {name: partial(forward, model, ids) for name, model in still.items()}
        decode = {name: decoding_step(model, ids) for name, model in still.items()}
        found = {
            "step_time_ratio": step_ratio,
            "prefill_ratio": ratios(prefill, 2 * self.repeats),
            "decode_ratio": ratios(decode, 5 * self.repeats),
        }
        return {
            "run": self.run,
            "rows": self.rows,
            "tokens": self.tokens,
            "reference_tokens": REFERENCE_TOKENS,
            "threads": torch.get_num_threads(),
            **{name: {side: round(value, 4) for side, value in part.items()} for name, part in found.items()},
            "cached_bias_bytes": {name: cached_bytes(models[name][1]) for name in BIASES},
        }


def cached_bytes(bias: AttentionBias) -> int:
    """Return the memory of what a bias keeps from one call to the next."""
    return sum(part.numel() * part.element_size() for parts in bias._cache.values() for part in parts)


def side(name: str) -> tuple[Any, Any]:
    """Return the tiny reasoner and what is on it: a bias, or what watches two layers.

    Content memberships are those of places, layer by layer: what they say does not change what they cost.
    """
    from reason_rl.attention.inject import AttentionBias
    from reason_rl.attention.kl import AttentionKL
    from reason_rl.attention.prior import static_memberships
    from reason_rl.attention.source import PriorSource
    from reason_rl.models import load_model
    from reason_rl.recipe.schema import ModelSection

    model = load_model(ModelSection()).train()
    if name == "kl":
        return model, AttentionKL(model, PriorSource(), REFERENCE_TOKENS, (-2, -1))
    if name not in BIASES:
        return model, None
    frozen = {layer: static_memberships(REFERENCE_TOKENS, 4) for layer in range(model.config.num_hidden_layers)}
    source = PriorSource(BIASES[name], frozen=frozen)
    return model, AttentionBias(model, source, REFERENCE_TOKENS, strength=0.5, by_factors=name == "factors")


def training_step(model: Any, prior: Any, ids: Any) -> Callable[[], None]:
    """Return a step: forward, the term if there is one, backward, AdamW."""
    import torch

    from reason_rl.attention.kl import AttentionKL

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    count = iter(range(1_000_000))

    def step() -> None:
        if isinstance(prior, AttentionKL):
            with prior.collecting():
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            loss = loss + 1e-3 * prior.term(next(count))
        else:
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def forward(model: Any, ids: Any) -> None:
    """Run a prompt through the model."""
    import torch

    with torch.no_grad():
        model(input_ids=ids, use_cache=False)


def decoding_step(model: Any, ids: Any) -> Callable[[], None]:
    """Return a step that decodes one token a row after all others; the cache is put back after it."""
    import torch

    with torch.no_grad():
        cache = model(input_ids=ids[:, :-1], use_cache=True).past_key_values

    def step() -> None:
        with torch.no_grad():
            model(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)
        cache.crop(-1)

    return step


def ratios(sides: Mapping[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Return, a side, the median over repeats of its seconds divided by those of stock in the same turn."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 2):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    base = seconds["stock"][2:]
    return {
        name: statistics.median(a / b for a, b in zip(values[2:], base, strict=True))
        for name, values in seconds.items()
    }
