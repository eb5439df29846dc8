"""The marked-token task: a synthetic task that a small transformer learns in seconds, to compare budgets of heads on.

A mark stands left of the label to be named at the end; three other marks with labels of their own distract.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reason_rl.bench.jobs import Row

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from reason_rl.attention.heads_train import Batch, HeadTraining

MARK, DISTRACTOR, QUESTION = 0, 1, 31
LABELS, FILLERS = (2, 6), (6, 31)
TOKENS, DISTRACTORS = 24, 3
BUDGETS = (0.25, 0.5)
HELD_OUT_ROWS, HELD_OUT_SEED = 1000, 10_000


@dataclass(frozen=True)
class MarkedJob:
    """One seed: a dense model, one checkpoint for all budgets made of it, static pruning of it, and a specialist a budget."""

    seed: int
    dense_steps: int = 300
    soft_steps: int = 150
    hard_steps: int = 60

    @property
    def key(self) -> str:
        """Task and seed."""
        return f"heads-marked-seed{self.seed}"

    def __call__(self) -> Row:
        """Return the accuracy of each side at each budget."""
        from reason_rl.attention.heads_module import HeadOptions, Shape, add_heads, at_budget, at_mask, unit_mask
        from reason_rl.attention.heads_train import recover, sensitivity, train_heads

        dense, options, training = train_dense(self.seed, self.dense_steps), HeadOptions(), self.training()
        shared = copy.deepcopy(dense)
        held = train_heads(shared, marked_tokens(self.seed + 1), options, training)
        sides: dict[str, dict[str, float]] = {"shared": {}, "static": {}, "specialist": {}}
        scores = sensitivity(dense, marked_tokens(self.seed + 2), 4, options)
        for budget in BUDGETS:
            mask = unit_mask(scores, Shape.of(dense.config), options, budget)
            static, specialist = copy.deepcopy(dense), copy.deepcopy(dense)
            add_heads(static, options)
            recover(specialist, mask, marked_tokens(self.seed + 1), options, training)
            sides["shared"][str(budget)] = label_accuracy(shared, at_budget(shared, budget, "hard"))
            sides["static"][str(budget)] = label_accuracy(static, at_mask(static, mask))
            sides["specialist"][str(budget)] = label_accuracy(specialist, at_mask(specialist, mask))
        sides["shared"]["1.0"] = label_accuracy(shared, at_budget(shared, 1.0))
        gates = {str(budget): held.soft(budget).mean().item() for budget in BUDGETS}
        return {"side": "marked", "seed": self.seed, "dense": label_accuracy(dense), "points": sides, "gates": gates}

    def training(self) -> HeadTraining:
        """Return how the shared model and the specialists are trained, each with as many updates."""
        from reason_rl.attention.heads_train import HeadTraining

        return HeadTraining(
            soft_steps=self.soft_steps,
            hard_steps=self.hard_steps,
            learning_rate=5e-4,
            gate_rate=60.0,
            budgets=(*BUDGETS, 1.0),
            seed=self.seed,
        )


def marked_tokens(seed: int, rows: int = 64) -> Iterator[Batch]:
    """Yield batches; only the last token is learned, the label right of the mark.

    >>> batch = next(marked_tokens(0, rows=1))
    >>> ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    >>> len(ids), ids.count(MARK), ids.count(DISTRACTOR), ids[ids.index(MARK) + 1] == ids[-1] == labels[-1]
    (26, 1, 3, True)
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    while True:
        ids = torch.randint(*FILLERS, (rows, TOKENS), generator=generator)
        places = 2 * torch.rand(rows, TOKENS // 2, generator=generator).argsort(-1)[:, : 1 + DISTRACTORS]
        answers = torch.randint(*LABELS, places.shape, generator=generator)
        marks = torch.tensor([MARK] + [DISTRACTOR] * DISTRACTORS).expand(rows, -1)
        ids = ids.scatter(1, places, marks).scatter(1, places + 1, answers)
        ids = torch.cat([ids, torch.full((rows, 1), QUESTION), answers[:, :1]], dim=1)
        labels = torch.full_like(ids, -100)
        labels[:, -1] = answers[:, 0]
        yield {"input_ids": ids, "labels": labels}


def train_dense(seed: int, steps: int) -> Any:
    """Return a Llama of 2 layers with 4 heads and hidden size 64, trained on the task."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=QUESTION + 1,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=TOKENS + 2,
    )
    model, batches = LlamaForCausalLM(config), marked_tokens(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(steps):
        model(**next(batches)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def label_accuracy(model: Any, setting: AbstractContextManager[Any] | None = None) -> float:
    """Return the share of held-out rows whose label the model names."""
    from contextlib import nullcontext

    import torch

    batch = next(marked_tokens(HELD_OUT_SEED, HELD_OUT_ROWS))
    model.eval()
    with torch.no_grad(), setting or nullcontext():
        named = model(input_ids=batch["input_ids"]).logits[:, -2].argmax(dim=-1)
    return (named == batch["labels"][:, -1]).float().mean().item()
