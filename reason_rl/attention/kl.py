"""The prior as a loss term: the divergence of attention from it, the forward pass untouched."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reason_rl.attention.decoder import (
    Follower,
    absolute_positions,
    attentions_of,
    decoder_of,
    query_name,
    refuse_reentrant,
    window_of,
)
from reason_rl.attention.source import PriorSource, chosen_layers, head_weights
from reason_rl.errors import RecipeError, RunError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Seen:
    """What a forward pass showed of one attention module.

    Args:
        layer: its place among the chosen ones.
        queries, keys: before their rotation, heads side by side or one after another, [rows, tokens, ...].
        cos, sin: of the rotation, [1 or rows, tokens, head size].
        position: of each token, 0-based, [1 or rows, tokens].
        real: which tokens are no padding, [rows, tokens].
    """

    layer: int
    queries: Float[Tensor, "rows tokens ..."]
    keys: Float[Tensor, "rows tokens ..."]
    cos: Tensor
    sin: Tensor
    position: Int[Tensor, "rows tokens"]
    real: Bool[Tensor, "rows tokens"]


def kl_to_prior(
    logits: Float[Tensor, "rows heads queries tokens"], log_prior: Float[Tensor, "rows queries tokens"]
) -> Float[Tensor, "rows heads queries"]:
    """Return ``KL(softmax(logits) || pi)`` of each query over the places where ``log pi`` is not -inf; logits are finite.

    The gradient is written out, ``a (log a - log pi - KL)``, which keeps two squares of the attention instead of seven.

    >>> logits = torch.tensor([0.25, 0.75]).log()[None, None, None]
    >>> round(kl_to_prior(logits, torch.tensor([[[0.5, 0.5]]]).log()).item(), 4)
    0.1308
    """
    divergence: Tensor = _Divergence.apply(logits, log_prior)
    return divergence


class _Divergence(torch.autograd.Function):
    """The divergence and its gradient with respect to the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, log_prior: Tensor) -> Tensor:
        hidden = torch.isinf(log_prior)
        masked = logits + torch.zeros_like(log_prior).masked_fill(hidden, -torch.inf)[:, None]
        attention = masked.softmax(dim=-1)
        # log a - log pi, but for log of the sum of exponentials, which leaves the gradient alone. Where nothing may be
        # attended to, attention is 0 and the difference only has to be finite.
        difference = logits - log_prior.masked_fill(hidden, 0.0)[:, None]
        mean = torch.einsum("rhqk,rhqk->rhq", attention, difference)
        total = masked.amax(dim=-1) - attention.amax(dim=-1).log()
        ctx.save_for_backward(attention, difference, mean)
        return mean - total

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, None]:
        attention, difference, mean = ctx.saved_tensors
        return (difference - mean[..., None]).mul_(attention).mul_(given[..., None]), None


@dataclass
class AttentionKL:
    """Collects what chosen layers see during a forward pass, and says how far their attention is from the prior.

    Queries are a sample of ``queries`` places a forward pass, the same for all rows and layers, fixed by seed and step; the
    attention of those is computed again from the layer's own queries and keys, so nothing about the forward pass changes.

    Args:
        model: Llama- or Qwen-type, plain or with a peft adapter.
        source: of the layers' priors.
        reference_tokens: places that they are made for; a longer sequence is an error.
        layers: which ones; negative numbers count from the last.
        queries: sampled a forward pass.
        seed: of the sampling.
        heads: how much each counts, in [0, 1]; None = all alike.

    Raises:
        RecipeError: for another architecture, layers or heads that there are not, or attention over a window; in a forward
            pass, for reentrant gradient checkpointing.

    Source: RPA (arXiv 2603.09253) has no such mode; ours, for vLLM could not apply a bias.
    """

    model: PreTrainedModel
    source: PriorSource
    reference_tokens: int
    layers: tuple[int, ...]
    queries: int = 128
    seed: int = 0
    heads: tuple[float, ...] | None = None
    seen: list[Seen] = field(default_factory=list)
    _tables: dict[int, Tensor] = field(default_factory=dict)
    _on: bool = False
    _position: Any = None
    _states: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        modules, base = attentions_of(self.model), decoder_of(self.model)
        self.chosen = chosen_layers(self.layers, len(modules))
        head_weights(self.heads, base.config.num_attention_heads)
        self.modules = [modules[layer] for layer in self.chosen]
        if any(window_of(module) is not None for module in self.modules):
            raise RecipeError("attention.prior: attention over a sliding window is not known")
        base.register_forward_pre_hook(self._before_decoder, with_kwargs=True)
        for place, module in enumerate(self.modules):
            self._watch(place, module)

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Remember what the chosen layers see while the block runs; recomputation for the backward pass comes later."""
        self.seen, self._on = [], True
        try:
            yield
        finally:
            self._on = False

    def term(self, step: int) -> Tensor:
        """Return the mean divergence over rows, heads and sampled queries of what was collected, and forget it.

        Raises:
            RunError: when a sequence is longer than the prior, or nothing was collected.
        """
        if not self.seen:
            raise RunError("attention.prior: no forward pass was seen; are the weights sharded?")
        totals, counts = zip(*(self._divergence(seen, step) for seen in self.seen), strict=True)
        self.seen = []
        return torch.stack(totals).sum() / torch.stack(counts).sum().clamp(min=1e-6)

    def _before_decoder(self, module: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
        if not self._on:
            return
        refuse_reentrant(module)
        if args:
            inputs = {"input_ids": args[0], **inputs}
        shape = (inputs["input_ids"] if inputs.get("input_ids") is not None else inputs["inputs_embeds"]).shape[:2]
        mask = inputs.get("attention_mask")
        counted = {key: value for key, value in inputs.items() if key != "position_ids"} if mask is not None else inputs
        position = absolute_positions(counted) - 1
        real = torch.ones(shape, dtype=torch.bool, device=position.device) if mask is None else mask.bool()
        self._position = position.expand(shape), real

    def _watch(self, place: int, module: Any) -> None:
        followers = [Follower(module, name, self._keeping(name)) for name in names_of(module)]

        def before(_module: nn.Module, _args: Any) -> None:
            for follower in followers:
                follower.follow()

        def after(_module: nn.Module, _args: Any, inputs: dict[str, Any], _output: Any) -> None:
            if self._on:
                queries, keys = (self._states.pop(name) for name in names_of(module))
                self.seen.append(Seen(place, queries, keys, *inputs["position_embeddings"], *self._position))

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after, with_kwargs=True)

    def _keeping(self, name: str) -> Callable[[Tensor], Tensor]:
        def keep(output: Tensor) -> Tensor:
            if self._on:
                self._states[name] = output
            return output

        return keep

    def attention(self, strength: float = 0.0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, a collected module, attention [rows, heads, queries, tokens] and which queries are real; and forget it all.

        Args:
            strength: of the prior as a bias in the forward pass, the same in all heads.
        """
        seen, self.seen = self.seen, []
        for one in seen:
            logits, prior, real = self._logits(one, 0)
            hidden = torch.isinf(prior)
            bias = (strength * prior.masked_fill(hidden, 0.0)).masked_fill(hidden, -torch.inf)
            yield (logits + bias[:, None]).softmax(dim=-1), real

    def saturation(self, strength: float = 0.0, limit: float = 0.95) -> float:
        """Return the share of sampled queries and heads with an attention above ``limit`` (see :meth:`attention`)."""
        above = total = 0.0
        for attention, real in self.attention(strength):
            above += float(((attention.amax(dim=-1) > limit) & real[:, None]).sum())
            total += float(real.sum()) * attention.shape[1]
        return above / max(total, 1.0)

    def _divergence(self, seen: Seen, step: int) -> tuple[Tensor, Tensor]:
        """Return the sum of divergences over real queries and heads, and how many there are."""
        logits, prior, real = self._logits(seen, step)
        divergence = kl_to_prior(logits, prior)
        weights = divergence.new_tensor(self.heads) if self.heads is not None else divergence.new_ones(len(logits[0]))
        return (divergence * weights[:, None] * real[:, None]).sum(), real.sum() * weights.sum()

    def _logits(self, seen: Seen, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return attention logits of the sampled queries, their log-prior (-inf: may not look), and which are real."""
        tokens = seen.keys.shape[1]
        longest = int(seen.position.max()) + 1
        if longest > self.reference_tokens:
            raise RunError(
                f"attention.prior: a sequence has {longest} tokens, the prior {self.reference_tokens}; raise "
                "reference_tokens"
            )
        draw = torch.Generator().manual_seed(_seed(self.seed, step))
        chosen = torch.randperm(tokens, generator=draw)[: self.queries].sort().values.to(seen.keys.device)
        logits = attention_logits(self.modules[seen.layer], seen, chosen)
        table = self._table(seen.layer, logits.device)
        allowed = seen.real[:, None, :] & (torch.arange(tokens, device=chosen.device) <= chosen[:, None])[None]
        prior = table[seen.position[:, chosen, None], seen.position[:, None, :]].masked_fill(~allowed, -torch.inf)
        real = seen.real[:, chosen]
        # A query that is padding may see nothing; it looks at itself instead and does not count.
        itself = torch.nn.functional.one_hot(chosen, tokens).bool()[None] & ~real[..., None]
        return logits, prior.masked_fill(itself, 0.0), real

    def _table(self, place: int, device: torch.device) -> Tensor:
        """Return the log-prior of a chosen layer, made when it is first needed."""
        name = 0 if self.source.shared else self.chosen[place]
        if name not in self._tables:
            self._tables[name] = self.source.log_prior(self.reference_tokens, name).to(device)
        return self._tables[name]


def names_of(module: nn.Module) -> tuple[str, str]:
    """Return what gives an attention module's queries and keys before their rotation."""
    return query_name(module), "k_norm" if hasattr(module, "k_norm") else "k_proj"


def attention_logits(
    module: Any, seen: Seen, chosen: Int[Tensor, " queries"]
) -> Float[Tensor, "rows heads queries tokens"]:
    """Return the scaled products of the chosen tokens' queries with all keys, as the module computes them."""
    rows, tokens = seen.keys.shape[:2]
    size = module.head_dim
    queries = (seen.queries[:, chosen] * module.scaling).view(rows, len(chosen), -1, size).transpose(1, 2)
    keys = seen.keys.view(rows, tokens, -1, size).transpose(1, 2)
    queries, keys = rotated(queries, seen.cos[:, chosen], seen.sin[:, chosen]), rotated(keys, seen.cos, seen.sin)
    grouped = queries.reshape(rows, keys.shape[1], -1, len(chosen), size)
    logits = torch.einsum("rghqd,rgkd->rghqk", grouped, keys)
    return logits.reshape(rows, -1, len(chosen), tokens).float()


def rotated(states: Float[Tensor, "rows heads tokens size"], cos: Tensor, sin: Tensor) -> Tensor:
    """Return states rotated by their positions, halves of a head as the pairs."""
    first, second = states.chunk(2, dim=-1)
    return states * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]


def _seed(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.sha256(f"attention queries {seed} {step}".encode()).digest()[:7])
