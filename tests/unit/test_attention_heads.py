"""Head gates: tables by hand, monotone in the budget, hard masks, straight-through gradients, and gates in a model."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from reason_rl.attention.heads import (
    OFFSET_START,
    SLOPE_START,
    budget_penalty,
    cost,
    gates,
    global_mask,
    layer_mask,
    straight_through,
    thresholds,
)
from reason_rl.attention.heads_files import has_heads, load_heads, save_heads
from reason_rl.attention.heads_module import HeadGates, HeadOptions, Shape, add_heads, at_budget
from reason_rl.errors import RecipeError

GROUPS = HeadOptions()
BUDGETS = (0.01, 0.2, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


def inverse_softplus(slopes):
    return torch.expm1(torch.tensor(slopes)).log()


@pytest.fixture
def four_heads():
    return torch.tensor([[1.0, -1.0, 0.0, 0.5]]), inverse_softplus([[1.0, 1.0, 2.0, 0.5]])


@pytest.fixture
def ids():
    return torch.randint(5, 100, (3, 12), generator=torch.Generator().manual_seed(0))


def logits(model, ids, **inputs):
    with torch.no_grad():
        return model(input_ids=ids, **inputs).logits


def shaken(model, options=GROUPS):
    held = add_heads(model, options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        held.offset += torch.randn(held.offset.shape, generator=generator)
        held.slope += torch.randn(held.slope.shape, generator=generator)
    return held


def test_the_start_is_near_dense_and_an_even_head_gives_the_budget():
    start = torch.full((1, 1), OFFSET_START), torch.full((1, 1), SLOPE_START)
    values = [gates(*start, b).item() for b in (0.25, 0.5, 0.75, 0.9)]
    assert values == pytest.approx([0.711235, 0.880797, 0.956835, 0.985186], abs=1e-6)
    even = torch.zeros(1, 1), torch.full((1, 1), SLOPE_START)
    assert [gates(*even, b).item() for b in (0.1, 0.5, 0.9)] == pytest.approx([0.1, 0.5, 0.9], abs=1e-6)


@pytest.mark.parametrize(
    ("budget", "expected", "used", "order"),
    [
        (0.25, [0.4754, 0.1092, 0.1, 0.4877], 0.2931, [3, 0, 1, 2]),
        (0.5, [0.7311, 0.2689, 0.5, 0.6225], 0.5306, [0, 3, 2, 1]),
        (0.75, [0.8908, 0.5246, 0.9, 0.7406], 0.7640, [2, 0, 3, 1]),
    ],
)
def test_four_heads_by_hand(four_heads, budget, expected, used, order):
    open_gates = gates(*four_heads, budget)
    assert torch.allclose(open_gates[0], torch.tensor(expected), atol=1e-4)
    assert cost(open_gates).item() == pytest.approx(used, abs=1e-4)
    assert open_gates[0].argsort(descending=True).tolist() == order
    for kept in (1, 2, 3):
        assert global_mask(open_gates, kept)[0].nonzero()[:, 0].tolist() == sorted(order[:kept])


def test_thresholds_by_hand_and_of_flat_gates(four_heads):
    assert torch.allclose(thresholds(*four_heads), torch.tensor([[0.2689, 0.7311, 0.5, 0.2689]]), atol=1e-4)
    flat = thresholds(torch.tensor([[1.0, -1.0]]), torch.full((1, 2), -500.0))
    assert flat.tolist() == [[0.0, 1.0]]


def test_gates_costs_and_nested_masks_never_shrink_with_the_budget():
    generator = torch.Generator().manual_seed(0)
    held = HeadGates(Shape(3, 4, 4), HeadOptions(rank="threshold", layout="global"))
    for _ in range(1000):
        with torch.no_grad():
            held.offset.copy_(4 * torch.randn(3, 4, generator=generator))
            held.slope.copy_(4 * torch.randn(3, 4, generator=generator))
            opened = [held.soft(b) for b in BUDGETS]
        for i in range(len(BUDGETS) - 1):
            assert (opened[i + 1] >= opened[i]).all()
            assert cost(opened[i + 1]) >= cost(opened[i])
            assert (held.mask(BUDGETS[i + 1]) >= held.mask(BUDGETS[i])).all()


def test_the_penalty_of_the_budget_points_to_smaller_gates():
    below = torch.full((2, 4), 0.4, requires_grad=True)
    assert budget_penalty(below, 0.5, cost_weight=0.0).item() == 0.0
    above = torch.full((2, 4), 0.75, requires_grad=True)
    penalty = budget_penalty(above, 0.5)
    assert penalty.item() == pytest.approx(0.01 * 0.75 + 0.25)
    penalty.backward()
    assert (above.grad > 0).all()


@given(st.integers(1, 4), st.integers(1, 6), st.data())
def test_hard_masks_keep_exactly_what_was_asked(layers, units, data):
    scores = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=layers * units, max_size=layers * units)))
    scores = scores.float().view(layers, units)
    kept = data.draw(st.integers(layers, layers * units))
    mask = global_mask(scores, kept)
    assert mask.sum() == kept
    assert mask.any(-1).all()
    per_layer = data.draw(st.integers(1, units))
    assert (layer_mask(scores, per_layer).sum(-1) == per_layer).all()


def test_ties_are_broken_by_layer_and_head():
    same = torch.zeros(2, 3)
    assert global_mask(same, 3).tolist() == [[True, True, False], [True, False, False]]
    assert layer_mask(same, 2).tolist() == [[True, True, False]] * 2
    assert global_mask(same, 6).all()


def test_too_few_heads_and_wrong_budgets_are_refused():
    with pytest.raises(ValueError, match="at least one in each of 2 layers"):
        global_mask(torch.zeros(2, 3), 1)
    with pytest.raises(ValueError, match="at least one must stay"):
        layer_mask(torch.zeros(2, 3), 0)
    for budget in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="not above 0 and at most 1"):
            gates(torch.zeros(1, 1), torch.zeros(1, 1), budget)


def test_straight_through_is_hard_forward_and_soft_backward():
    offset = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slope, weights = torch.zeros_like(offset), torch.arange(6, dtype=torch.float64).view(2, 3)
    leaf = offset.clone().requires_grad_()
    hard = layer_mask(offset, 1)
    out = straight_through(gates(leaf, slope, 0.4), hard)
    assert torch.equal(out, hard.double())
    (out * weights).sum().backward()
    step = 1e-6
    for i in range(6):
        moved = offset.clone().flatten()
        moved[i] += step
        difference = (gates(moved.view(2, 3), slope, 0.4) - gates(offset, slope, 0.4)) * weights
        assert leaf.grad.flatten()[i].item() == pytest.approx(difference.sum().item() / step, rel=1e-4)


@pytest.mark.parametrize("unit", ["kv_group", "head"])
def test_dense_bit_by_bit_without_a_request_and_at_budget_one(make_llama, ids, unit):
    model = make_llama()
    before = logits(model, ids)
    held = shaken(model, HeadOptions(unit=unit))
    assert torch.equal(logits(model, ids), before)
    for mode in ("soft", "hard", "straight_through"):
        with at_budget(model, 1.0, mode):
            assert torch.equal(logits(model, ids), before)
    with torch.no_grad():
        held.offset.fill_(60.0)
        held.slope.fill_(SLOPE_START)
    with at_budget(model, 0.5):
        assert torch.allclose(logits(model, ids), before, atol=1e-6)


def test_a_gate_multiplies_the_output_of_its_group(make_llama, ids):
    model, seen = make_llama(), []
    held = shaken(model)
    logits(model, ids)  # after a first call the gates hold their projections, so what is hooked now sees gated outputs
    model.model.layers[1].self_attn.o_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    logits(model, ids)
    with torch.no_grad():
        held.offset[0] = 60.0  # the layer below is left dense, so that both see the same input
    with at_budget(model, 0.3):
        logits(model, ids)
    factor = held.soft(0.3)[1].repeat_interleave(2 * 8).detach()
    assert torch.allclose(seen[1], seen[0] * factor, atol=1e-5)


def test_each_row_may_have_a_budget_of_its_own(make_llama, ids):
    model = make_llama()
    shaken(model)
    with at_budget(model, (0.2, 0.6, 1.0)):
        together = logits(model, ids)
    for row, budget in enumerate((0.2, 0.6, 1.0)):
        with at_budget(model, budget):
            assert torch.allclose(logits(model, ids[row : row + 1])[0], together[row], atol=1e-6)


def test_a_hard_budget_decodes_with_a_cache_as_without(make_llama, ids):
    model = make_llama()
    shaken(model)
    with at_budget(model, 0.5, "hard"):
        cached, plain = (
            model.generate(ids, max_new_tokens=6, do_sample=False, use_cache=use, pad_token_id=0)
            for use in (True, False)
        )
    assert torch.equal(cached, plain)


def test_gradients_reach_gates_with_checkpointing_as_without(make_llama, ids):
    grads = []
    for checkpointing in (False, True):
        model = make_llama().train()
        held = shaken(model)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with at_budget(model, 0.3, "straight_through"):
            loss = model(input_ids=ids, labels=ids).loss
        # The request is over before recomputation starts.
        loss.backward()
        grads.append([held.offset.grad, held.slope.grad])
    assert all(grad.abs().max() > 0 for grad in grads[0])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads, strict=True))
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(RecipeError, match="use_reentrant: false"), at_budget(model, 0.3):
        model(input_ids=ids)


def test_lora_around_the_output_projection_is_gated_too(make_llama, ids):
    model = make_llama()
    held = shaken(model)
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["o_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    tuned = get_peft_model(model, config).eval()
    with at_budget(tuned, 0.5):
        with_adapter = logits(tuned, ids)
        merged = tuned.merge_and_unload()
        assert torch.allclose(logits(merged, ids), with_adapter, atol=1e-5)
    assert held is merged.model.head_gates


def test_saved_and_loaded(make_llama, ids, tmp_path):
    model, options = make_llama(), HeadOptions("head", "global", "threshold")
    save_heads(shaken(model, options), tmp_path)
    other = make_llama()
    assert has_heads(tmp_path)
    assert load_heads(other, tmp_path).options == options
    with at_budget(model, 0.4, "hard"), at_budget(other, 0.4, "hard"):
        assert torch.equal(logits(other, ids), logits(model, ids))
    with pytest.raises(RecipeError, match="gates of another model"):
        load_heads(make_llama(num_hidden_layers=3), tmp_path)


def test_clear_errors(make_llama, tmp_path):
    with pytest.raises(RecipeError, match="gpt2 models is not known"):
        add_heads(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=9)), HeadOptions())
    model = make_llama()
    with pytest.raises(RecipeError, match="no head gates"), at_budget(model, 0.5):
        pass
    add_heads(model, HeadOptions())
    with pytest.raises(RecipeError, match="already"):
        add_heads(model, HeadOptions())
    with pytest.raises(ValueError, match="budget 2"), at_budget(model, 2):
        pass
    with pytest.raises(RecipeError, match="cannot be read as head gates"):
        load_heads(make_llama(), tmp_path)
