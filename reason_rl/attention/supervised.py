"""The prior in a supervised loop, from scratch or from given weights: as a bias or as a term of the loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from reason_rl.attention.decoder import attentions_of
from reason_rl.attention.guardian import Guardian, decision
from reason_rl.attention.inject import AttentionBias
from reason_rl.attention.memberships import calibrate
from reason_rl.attention.prior_files import save_prior
from reason_rl.attention.regulariser import layers_of, make_guardian, make_source, make_strength, make_watch
from reason_rl.attention.source import chosen_layers

if TYPE_CHECKING:
    from reason_rl.recipe.attention_specs import PriorSpec

EVERY_UPDATES = 50

Batch = Mapping[str, Tensor]


@dataclass
class SupervisedPrior:
    """What a loop calls before an update, around its forward pass, and at its end.

    As a bias that falls, the model ends as stock; one that stays is saved with it. With Guardian, every so many updates the
    cross-entropy of held-out batches is taken and the temperature decided; the weight is divided by it. After the last update
    nothing decides any more.

    Args:
        model: it is changed in place.
        spec: the recipe's section.
        calibration: gives batches that content memberships are calibrated on, when the schedule begins.
        held_out: batches with labels, and a mask where rows are padded, that Guardian's metric is the negative cross-entropy
            of.
        seed: of sampled queries and of Guardian.

    Raises:
        RecipeError: for a model whose attention is not known or takes no bias.

    >>> from reason_rl.recipe.attention_specs import PriorSpec
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = dict(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    >>> model = LlamaForCausalLM(LlamaConfig(**sizes, attn_implementation="sdpa"))
    >>> prior = SupervisedPrior(model, PriorSpec(reference_tokens=8, mode="bias"), list, [], 0)
    >>> [prior.before(step, share) or prior.weight for step, share in enumerate((0.0, 0.3, 0.95))]
    [0.0, 0.5, 0.0]
    """

    model: Any
    spec: PriorSpec
    calibration: Callable[[], Iterable[Batch]]
    held_out: Sequence[Batch]
    seed: int
    weight: float = 0.0
    state: dict[str, Any] | None = None
    decisions: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        spec = self.spec
        layers = chosen_layers(layers_of(spec), len(attentions_of(self.model)))
        self.schedule = make_strength(spec)
        source = make_source(spec)
        heads = None if spec.heads is None else tuple(spec.heads)
        self.bias = self.watch = None
        if spec.mode == "bias":
            self.bias = AttentionBias(self.model, source, spec.reference_tokens, layers, heads)
        if spec.mode == "kl" or spec.guardian is not None:
            watched = layers if spec.mode == "kl" else layers[-1:]
            self.watch = make_watch(spec, self.model, source, watched, self.seed)
        self.guardian: Guardian | None = make_guardian(spec, 1, self.seed)
        self.state = None if self.guardian is None else self.guardian.initial_state()
        self.every = EVERY_UPDATES if spec.guardian is None else spec.guardian.every or EVERY_UPDATES
        self._calibrated = spec.variant != "content"
        self.layers = layers

    def before(self, step: int, share: float) -> None:
        """Set the strength for the coming update.

        Args:
            step: updates made.
            share: of the run that is done, in [0, 1].
        """
        if share >= self.spec.begin and not self._calibrated:
            self._calibrate()
        if self.guardian is not None and step and step % self.every == 0 and self.weight:
            self._decide(self.guardian, step)
        tau = 1.0 if self.state is None else float(self.state["knobs"]["tau"])
        self.weight = self.schedule(share) / tau
        if self.bias is not None:
            self.bias.strength = self.weight

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the forward pass of the block, where the prior is a term of the loss."""
        on = self.watch.collecting() if self.watch and self.spec.mode == "kl" and self.weight else None
        with on or contextlib.nullcontext():
            yield

    def term(self, step: int) -> Tensor | float:
        """Return what is added to the loss: 0 for a bias."""
        if self.watch is None or self.spec.mode != "kl" or not self.weight:
            return 0.0
        return self.weight * self.watch.term(step)

    def end(self) -> None:
        """Set the strength that the trained model keeps: none where the schedule falls or the prior is a term of the loss."""
        self.before(0, 1.0)

    def save(self, folder: Path) -> None:
        """Write a bias that stays beside the model."""
        if self.bias is not None and self.schedule.fall is None:
            save_prior(self.bias, folder)

    def figures(self) -> dict[str, float]:
        """Return what a log shows: the weight, and what Guardian decided last."""
        found = {"prior_weight": round(self.weight, 5)}
        return found if self.state is None else found | {k: round(v, 5) for k, v in decision(self.state).items()}

    def _calibrate(self) -> None:
        frozen = calibrate(self.model, self.calibration(), self.layers, self.spec.reference_tokens, self.spec.regimes)
        source = make_source(self.spec, frozen)
        for part in (self.bias, self.watch):
            if part is not None:
                part.source = source
        self._calibrated = True

    def _decide(self, guardian: Guardian, step: int) -> None:
        loss, saturated = self._held_out()
        assert self.state is not None
        state = {**self.state, "generations": self.state["generations"] + 1}
        self.state = guardian.decide(state, -loss, saturated)
        self.decisions.append({"step": step, "cross_entropy": loss, "saturated": saturated, **decision(self.state)})

    @torch.no_grad()
    def _held_out(self) -> tuple[float, float]:
        """Return the cross-entropy of the held-out batches, and the share of saturated attention in the first of them."""
        assert self.watch is not None
        losses, saturated, training = [], 0.0, self.model.training
        self.model.eval()
        for number, batch in enumerate(self.held_out):
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}
            with self.watch.collecting() if number == 0 else contextlib.nullcontext():
                logits = self.model(**inputs, use_cache=False).logits[:, :-1].float()
            if number == 0:
                saturated = self.watch.saturation(self.weight if self.bias is not None else 0.0)
            goal = batch["labels"][:, 1:]
            losses.append(cross_entropy(logits.transpose(1, 2), goal, reduction="none")[goal != -100])
        self.model.train(training)
        return torch.cat(losses).mean().item(), saturated
