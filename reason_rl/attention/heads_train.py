"""Teach a trained model to work at several head budgets: it is distilled from itself, first soft, then hard."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import kl_div

from reason_rl.attention.heads import budget_penalty, check_budget, cost
from reason_rl.attention.heads_module import HeadGates, HeadOptions, add_heads, at_budget, at_mask, gates_of

Batch = dict[str, Tensor]
Logits = Float[Tensor, "rows tokens vocab"]
NOT_LEARNED = -100


@dataclass(frozen=True)
class HeadTraining:
    """How long and how fast; every value is our choice, the paper's are not public.

    Args:
        soft_steps: updates with soft gates at a budget drawn from [lowest_budget, 1].
        hard_steps: updates with hard gates at one of ``budgets``, gradients straight through.
        learning_rate: of the weights, with linear decay in each phase.
        gate_rate: how many times that the gates learn.
        lowest_budget: of the soft phase.
        budgets: the operating points of the hard phase.
        cost_weight, overshoot_weight: of the penalty on gates.
        distillation_weight: of the KL to the frozen model with soft gates, in the hard phase.
        temperature: of that KL.
        seed: of the budgets drawn.

    Raises:
        ValueError: for a budget outside (0, 1].
    """

    soft_steps: int = 400
    hard_steps: int = 200
    learning_rate: float = 2e-5
    gate_rate: float = 10.0
    lowest_budget: float = 0.2
    budgets: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    cost_weight: float = 0.01
    overshoot_weight: float = 1.0
    distillation_weight: float = 1.0
    temperature: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        for budget in (self.lowest_budget, *self.budgets):
            check_budget(budget)


def distillation(
    student: Logits, teacher: Logits, learned: Bool[Tensor, "rows tokens"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """Return ``T^2 KL(teacher || student)`` in nats, the mean over learned tokens, both softened by T.

    >>> same = torch.tensor([[[1.0, 0.0], [2.0, 5.0]]])
    >>> distillation(same, same, torch.tensor([[True, False]])).item()
    0.0
    """
    ours = (student[learned] / temperature).log_softmax(dim=-1)
    theirs = (teacher[learned] / temperature).log_softmax(dim=-1)
    return temperature**2 * kl_div(ours, theirs, reduction="batchmean", log_target=True)


def train_heads(
    model: nn.Module,
    batches: Iterator[Batch],
    options: HeadOptions,
    training: HeadTraining,
    say: Callable[[str], None] = lambda line: None,
    scores: Float[Tensor, "layers units"] | None = None,
) -> HeadGates:
    """Put gates on a trained model and train both, in place; return the gates.

    Soft phase: ``KL(dense || soft at b) + penalty(b)``; hard phase: ``KL(dense || hard at b) + w T^2 KL(soft || hard)``, with
    the dense model and, then, the soft one frozen. Budget 1 is trained too, so that the model stays near the dense one there.

    Args:
        model: trained before without gates; a start from scratch may collapse.
        batches: ``input_ids`` and ``labels``, -100 where nothing is learned; rows padded on the right.
        options: what has a gate.
        training: how long and how fast.
        say: is told now and then.
        scores: positive importance of each unit, such as ``sensitivity``; gates then start by their standing in the layer
            instead of all alike, which a short training needs.

    Source: Budgeted Attention Allocation (arXiv 2605.05697): warm start, soft phase, hard adaptation. Losses are ours where
    the audit that we have gives none.
    """
    dense = copy.deepcopy(model).eval().requires_grad_(False)
    held = add_heads(model, options)
    if scores is not None:
        with torch.no_grad():
            held.offset.add_(standing(scores).to(held.offset))
    rng = random.Random(training.seed)
    model.train()
    for step, rate in _steps(model, held, training, training.soft_steps):
        batch, budget = next(batches), rng.uniform(training.lowest_budget, 1.0)
        goal = _logits(dense, batch)
        with at_budget(model, budget):
            loss = distillation(_logits(model, batch), goal, _learned(batch))
        opened = held.soft(budget)
        loss = loss + budget_penalty(opened, budget, training.cost_weight, training.overshoot_weight)
        rate(loss)
        if step % 50 == 0:
            say(f"soft step {step}: loss {loss.item():.4f} at budget {budget:.2f}, gates {cost(opened).item():.2f}")
    adapt(model, dense, batches, training, rng, say)
    return held


def standing(scores: Float[Tensor, "layers units"]) -> Float[Tensor, "layers units"]:
    """Return the logarithms of positive scores, standardised within each layer; 0 for the only one of a layer.

    >>> standing(torch.tensor([[1.0, 10.0, 100.0]]))
    tensor([[-1.,  0.,  1.]])
    >>> standing(torch.tensor([[2.0]]))
    tensor([[0.]])
    """
    logs = scores.clamp(min=torch.finfo(scores.dtype).tiny).log()
    spread = logs.std(-1, keepdim=True, correction=min(1, logs.shape[-1] - 1))
    return (logs - logs.mean(-1, keepdim=True)) / spread.clamp(min=1e-6)


def adapt(
    model: nn.Module,
    dense: nn.Module,
    batches: Iterator[Batch],
    training: HeadTraining,
    rng: random.Random,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Make the hard phase on a model with gates, in place; ``dense`` is the frozen model from before."""
    soft = copy.deepcopy(model).eval().requires_grad_(False)
    for step, rate in _steps(model, gates_of(model), training, training.hard_steps):
        batch, budget = next(batches), rng.choice(training.budgets)
        with at_budget(soft, budget):
            kept = _logits(soft, batch)
        with at_budget(model, budget, "straight_through"):
            ours = _logits(model, batch)
        loss = distillation(ours, _logits(dense, batch), _learned(batch))
        if training.distillation_weight:
            loss = loss + training.distillation_weight * distillation(ours, kept, _learned(batch), training.temperature)
        rate(loss)
        if step % 50 == 0:
            say(f"hard step {step}: loss {loss.item():.4f} at budget {budget:.2f}")


def recover(
    model: nn.Module,
    mask: Bool[Tensor, "layers units"],
    batches: Iterator[Batch],
    options: HeadOptions,
    training: HeadTraining,
) -> None:
    """Train a model for one fixed mask, in place: the specialist that a shared model is compared with.

    ``KL(dense || masked)``, for as many updates as both phases of ``train_heads`` have. Gates are put on and left alone.
    """
    dense = copy.deepcopy(model).eval().requires_grad_(False)
    held = add_heads(model, options)
    model.train()
    for _, rate in _steps(model, held, training, training.soft_steps + training.hard_steps):
        batch = next(batches)
        with at_mask(model, mask):
            ours = _logits(model, batch)
        rate(distillation(ours, _logits(dense, batch), _learned(batch)))


def _steps(
    model: nn.Module, held: HeadGates, training: HeadTraining, steps: int
) -> Iterator[tuple[int, Callable[[Tensor], None]]]:
    """Yield the number of each update and what makes it from a loss."""
    of_gates = {id(parameter) for parameter in held.parameters()}
    weights = [p for p in model.parameters() if p.requires_grad and id(p) not in of_gates]
    groups: list[dict[str, Any]] = [
        {"params": weights, "lr": training.learning_rate, "weight_decay": 0.01},
        {"params": list(held.parameters()), "lr": training.learning_rate * training.gate_rate, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / max(1, steps))

    def update(loss: Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        decay.step()
        optimizer.zero_grad()

    for step in range(steps):
        yield step, update


def _logits(model: Any, batch: Batch) -> Logits:
    frozen = not next(model.parameters()).requires_grad
    with torch.set_grad_enabled(not frozen):
        return model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1].float()


def _learned(batch: Batch) -> Bool[Tensor, "rows tokens"]:
    return batch["labels"][:, 1:] != NOT_LEARNED


def sensitivity(
    model: Any, batches: Iterator[Batch], steps: int, options: HeadOptions
) -> Float[Tensor, "layers units"]:
    """Return how much the loss depends on each head of a dense model: ``E |d loss / d gate|`` at open gates.

    What static pruning ranks heads by. The model itself is left alone.

    Args:
        model: without gates.
        batches: with labels, as for training.
        steps: batches to average over.
        options: what has a gate.

    Source: Are Sixteen Heads Really Better than One? (arXiv 1905.10650), head importance; there a mean over examples, here
    over batches.
    """
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    shape = add_heads(twin, options).offset.shape
    total = torch.zeros(shape)
    for _ in range(steps):
        batch, opened = next(batches), torch.ones(shape, requires_grad=True)
        with at_mask(twin, opened):
            loss = twin(input_ids=batch["input_ids"], labels=batch["labels"], use_cache=False).loss
        total += torch.autograd.grad(loss, opened)[0].abs()
    return total / steps
