"""Training of head budgets: the marked-token task, distillation, sensitivity, specialists."""

import copy
import dataclasses
import itertools
import random

import pytest
import torch

from reason_rl.attention.heads import cost
from reason_rl.attention.heads_module import HeadOptions, add_heads, at_budget, at_mask
from reason_rl.attention.heads_train import (
    HeadTraining,
    adapt,
    distillation,
    recover,
    sensitivity,
    standing,
    train_heads,
)
from reason_rl.bench.marked import MarkedJob, label_accuracy, marked_tokens, train_dense
from reason_rl.bench.paired import seed_difference

GROUPS = HeadOptions()
QUICK = HeadTraining(soft_steps=2, hard_steps=2, learning_rate=1e-3, gate_rate=10.0, budgets=(0.5,))


@pytest.fixture(scope="module")
def dense():
    return train_dense(seed=0, steps=250)


def test_one_model_keeps_its_accuracy_with_fewer_heads(dense):
    job = MarkedJob(seed=0, soft_steps=120, hard_steps=0)
    training = dataclasses.replace(job.training(), gate_rate=120.0, budgets=(0.25, 0.5, 0.75, 1.0))
    start, model = label_accuracy(dense), copy.deepcopy(dense)
    assert start >= 0.99
    held = train_heads(model, marked_tokens(1), GROUPS, training)
    for budget in (0.25, 0.5, 0.75):
        assert cost(held.soft(budget)).item() <= budget + 0.02
        assert label_accuracy(model, at_budget(model, budget)) >= start - 0.01
    before = label_accuracy(model, at_budget(model, 0.5, "hard"))
    hard = dataclasses.replace(training, hard_steps=50, learning_rate=1e-3, gate_rate=1.0, budgets=(0.5, 1.0))
    adapt(model, dense, marked_tokens(1), hard, random.Random(0))
    after = label_accuracy(model, at_budget(model, 0.5, "hard"))
    assert after >= max(before, 0.95)
    assert label_accuracy(model) >= start - 0.01


def test_distillation_is_a_softened_kl():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 3, 5, generator=generator), torch.randn(2, 3, 5, generator=generator)
    learned = torch.tensor([[True, False, True], [False, False, True]])
    p, q = (theirs / 2).softmax(-1), (ours / 2).softmax(-1)
    by_hand = 4 * (p * (p / q).log()).sum(-1)[learned].mean()
    assert distillation(ours, theirs, learned, temperature=2.0).item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert distillation(ours, ours, learned).item() == pytest.approx(0.0, abs=1e-7)


def test_sensitivity_is_the_gradient_of_each_gate(dense):
    scores = sensitivity(dense, marked_tokens(3), 1, GROUPS)
    batch, twin = next(marked_tokens(3)), copy.deepcopy(dense).eval()
    with torch.no_grad():
        base = twin(**batch).loss
        step, weight = 1e-2, twin.model.layers[1].self_attn.o_proj.weight
        for head in range(4):
            columns = slice(16 * head, 16 * (head + 1))
            weight[:, columns] *= 1 - step
            difference = (base - twin(**batch).loss).abs() / step
            weight[:, columns] /= 1 - step
            assert scores[1, head].item() == pytest.approx(difference.item(), rel=0.2, abs=1e-4)
    assert not hasattr(dense.model, "head_gates")


def test_standing_keeps_the_order_and_forgets_the_scale():
    scores = torch.tensor([[3.0, 1.0, 2.0], [0.02, 0.01, 0.0]])
    assert torch.equal(standing(scores).argsort(), scores.argsort())
    assert torch.allclose(standing(scores[:1]), standing(1e6 * scores[:1]), atol=1e-5)


def test_a_specialist_leaves_its_gates_alone_and_learns_its_mask(dense):
    model, mask = copy.deepcopy(dense), torch.tensor([[True, False, False, False]] * 2)
    recover(model, mask, marked_tokens(1), GROUPS, dataclasses.replace(QUICK, soft_steps=12))
    held = model.model.head_gates
    assert len(held.offset.unique()) == len(held.slope.unique()) == 1
    untouched = copy.deepcopy(dense)
    add_heads(untouched, GROUPS)
    assert label_accuracy(model, at_mask(model, mask)) > label_accuracy(untouched, at_mask(untouched, mask)) + 0.05


def test_training_is_the_same_again(dense):
    found = []
    for _ in range(2):
        model = copy.deepcopy(dense)
        held = train_heads(model, itertools.cycle([next(marked_tokens(1))]), GROUPS, QUICK)
        found.append([held.offset, model.model.layers[1].mlp.down_proj.weight])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_budgets_outside_are_refused():
    with pytest.raises(ValueError, match="budget 0"):
        HeadTraining(budgets=(0.0,))
    with pytest.raises(ValueError, match="at least two"):
        seed_difference([1.0], [2.0])
