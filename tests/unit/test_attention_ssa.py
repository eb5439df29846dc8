"""Selective temperatures: closed forms, identity at the start, caches, padding, packing, LoRA, checkpointing, files."""

import copy
import itertools

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from reason_rl.attention.decoder import attentions_of, parameter_count
from reason_rl.attention.ssa import (
    SSAOptions,
    add_ssa,
    inverse_temperature,
    new_parameters,
    position_factor,
    spikiness,
    ssa_parameters,
    train_ssa_only,
    train_ssa_too,
)
from reason_rl.attention.ssa_files import has_ssa, load_ssa, save_ssa
from reason_rl.errors import RecipeError

VARIANTS = [
    SSAOptions(),
    SSAOptions(features="mlp"),
    SSAOptions(features="none"),
    SSAOptions(values=False),
    SSAOptions(gate="none"),
]


def make(kind="llama", seed=0, **fields):
    torch.manual_seed(seed)
    shape = {
        "vocab_size": 60,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 128,
    }
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**shape, **fields})).eval()


def shaken(model, options=VARIANTS[0], scale=0.02, seed=1):
    """Return the model with temperatures away from the identity."""
    add_ssa(model, options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in ssa_parameters(model):
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture
def ids():
    return torch.randint(0, 60, (3, 20), generator=torch.Generator().manual_seed(2))


def logits(model, ids, **inputs):
    with torch.no_grad():
        return model(input_ids=ids, **inputs).logits


def test_position_factors_are_those_of_the_source():
    n = torch.tensor([1, 2, 8, 2048])
    sharp = position_factor(n, torch.tensor(0.5), "linear")
    assert torch.allclose(sharp, torch.tensor([1.0, 1.3466, 2.0397, 4.8123]), atol=1e-4)
    gates = [position_factor(torch.tensor([2.718281828]), torch.tensor(b), "double_exponential") for b in (1.5, 2.0)]
    assert torch.allclose(torch.cat(gates) - 1, torch.tensor([0.0113143, 0.000617979]), atol=1e-6)
    slow = position_factor(torch.tensor([1, 10, 100, 2048]), torch.tensor(1.5), "double_exponential")
    assert torch.allclose(slow, torch.tensor([1.0, 1.02605, 1.05210, 1.08627]), atol=1e-5)


def test_temperature_and_spikiness_by_hand():
    tau = inverse_temperature(torch.tensor([0.0, 30.0, 0.0]), torch.tensor([1.0, 1.0, 0.5]))
    shares = (tau[:, None] * torch.tensor([1.0, 0.0])).softmax(-1)
    assert torch.allclose(shares[:, 0], torch.tensor([0.7311, 0.8808, 0.6225]), atol=1e-4)
    assert spikiness(shares)[1].item() == pytest.approx(0.6329, abs=1e-4)


def test_entropy_falls_with_tau_and_the_largest_stays():
    scores = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
    rows = [(tau * scores).softmax(-1) for tau in (1e-6, 0.1, 0.5, 1.0, 2.0, 10.0, 1e4)]
    entropies = [torch.special.entr(row).sum(-1) for row in rows]
    assert all((after <= before + 1e-6).all() for before, after in itertools.pairwise(entropies))
    assert all((row.argmax(-1) == scores.argmax(-1)).all() for row in rows[1:])
    assert torch.allclose(rows[0], torch.full_like(rows[0], 1 / 12), atol=1e-5)
    assert torch.allclose(rows[-1].amax(-1), torch.ones(50), atol=1e-2)


def test_tau_is_positive_whatever_was_learned():
    token, position = torch.linspace(-60, 60, 101), torch.linspace(-9, 9, 101)
    assert (inverse_temperature(token[:, None], position[None]) > 0).all()
    assert (inverse_temperature(token, 1.0)[1:] >= inverse_temperature(token, 1.0)[:-1]).all()


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_logits_do_not_change_by_a_bit_at_the_start(kind, options, ids):
    model = make(kind)
    before = logits(model, ids)
    add_ssa(model, options)
    assert torch.equal(logits(model, ids), before)


def test_bfloat16_models_do_not_change_either(ids):
    model = make().to(torch.bfloat16)
    before = logits(model, ids)
    add_ssa(model, VARIANTS[0])
    assert torch.equal(logits(model, ids), before)
    assert all(p.dtype == torch.float32 for _, p in ssa_parameters(model))


def test_the_double_exponential_gate_starts_near_the_identity(ids):
    model = make()
    before = logits(model, ids)
    add_ssa(model, SSAOptions(gate="double_exponential"))
    difference = (logits(model, ids) - before).abs().max()
    assert 0 < difference < 1e-3


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_parameter_count_is_the_formula_and_small(options):
    model = make(hidden_size=256, intermediate_size=1024)
    before = parameter_count(model)
    add_ssa(model, options)
    added = parameter_count(model) - before
    assert added == new_parameters(256, 2, options) == sum(p.numel() for _, p in ssa_parameters(model))
    assert added / before < 0.005


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_scaled_query_is_a_softmax_at_that_temperature(kind, ids):
    model = make(kind, attn_implementation="eager")
    add_ssa(model, SSAOptions(gate="none", values=False, rate=1.0))
    attention = attentions_of(model)[0]
    before = model(input_ids=ids, output_attentions=True).attentions[0]
    with torch.no_grad():
        attention.ssa.query.bias.fill_(0.5)
    after = model(input_ids=ids, output_attentions=True).attentions[0]
    tau = 1 + torch.tanh(torch.tensor(0.5))
    assert torch.allclose((tau * before.log()).softmax(-1), after, atol=1e-6)


def test_constant_value_scales_scale_the_output_and_leave_the_weights(ids):
    model = make(attn_implementation="eager")
    add_ssa(model, SSAOptions(gate="none", rate=1.0))
    attention, seen = attentions_of(model)[0], []
    attention.o_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    weights = [model(input_ids=ids, output_attentions=True).attentions[0]]
    with torch.no_grad():
        attention.ssa.value.bias.fill_(-0.3)
    weights.append(model(input_ids=ids, output_attentions=True).attentions[0])
    assert torch.equal(weights[0], weights[1])
    assert torch.allclose(seen[1], seen[0] * (1 + torch.tanh(torch.tensor(-0.3))), atol=1e-6)


def test_qwen3_feels_a_doubled_temperature(ids):
    model = make("qwen3")
    before = logits(model, ids)
    add_ssa(model, SSAOptions(gate="none", values=False, rate=1.0))
    with torch.no_grad():
        for attention in attentions_of(model):
            attention.ssa.query.bias.fill_(20.0)  # tanh 1, so tau 2
    assert (logits(model, ids) - before).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("options", VARIANTS[:2], ids=str)
def test_causal_and_the_same_token_by_token(kind, options, ids):
    model = shaken(make(kind), options)
    whole = logits(model, ids)
    other = ids.clone()
    other[:, 12:] = (other[:, 12:] + 1) % 60
    assert torch.equal(logits(model, other)[:, :12], whole[:, :12])
    cache, steps = None, []
    with torch.no_grad():
        for position in range(ids.shape[1]):
            out = model(input_ids=ids[:, position : position + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            steps.append(out.logits)
    assert torch.allclose(torch.cat(steps, 1), whole, atol=1e-5)


def test_left_padding_changes_nothing(ids):
    model = shaken(make())
    padded = torch.cat([torch.zeros(3, 7).long(), ids], 1)
    mask = (torch.arange(27) >= 7).long().expand(3, -1)
    assert torch.allclose(logits(model, padded, attention_mask=mask)[:, 7:], logits(model, ids), atol=1e-5)
    grown = model.generate(padded, attention_mask=mask, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert torch.equal(grown[:, 27:], model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)[:, 20:])


def test_packed_rows_equal_separate_ones(ids):
    model = shaken(make())
    positions = torch.cat([torch.arange(20), torch.arange(20)])[None]
    packed = logits(model, torch.cat([ids[0], ids[1]])[None], position_ids=positions, use_cache=False)
    assert torch.allclose(packed[0].view(2, 20, -1), logits(model, ids[:2]), atol=1e-5)


def test_sliding_windows_bound_the_position():
    model = make("mistral", sliding_window=4)
    add_ssa(model, SSAOptions(features="none", rate=1.0))
    layer = attentions_of(model)[0].ssa
    with torch.no_grad():
        layer.beta.fill_(1.0)
    tau, _ = layer(torch.zeros(1, 6, 64), torch.arange(1, 7)[None])
    assert torch.allclose(tau[0, :, 0], 1 + torch.tensor([1.0, 2, 3, 4, 4, 4]).log())


def test_gradients_reach_every_parameter_with_checkpointing_as_without(ids):
    grads = []
    for checkpointing in (False, True):
        model = shaken(make()).train()
        train_ssa_only(model)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        # Two forward passes before one backward: recomputation must not see the positions of the second.
        first = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
        second = model(
            input_ids=ids[:, :9], attention_mask=(torch.arange(9) > 3).long().expand(3, -1), labels=ids[:, :9]
        )
        (first + second.loss).backward()
        grads.append({name: p.grad for name, p in ssa_parameters(model)})
        assert all(p.grad is None for n, p in model.named_parameters() if ".ssa." not in n)
    assert all(grads[0][name].abs().max() > 0 for name in grads[0])
    assert all(torch.allclose(grads[0][name], grads[1][name], atol=1e-6) for name in grads[0])


@pytest.mark.parametrize("lora_first", [True, False])
def test_with_lora_before_or_after_and_merged(lora_first, ids):
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(3)
    model = make()
    if lora_first:
        tuned = get_peft_model(model, config)
        shaken(tuned)
    else:
        tuned = get_peft_model(shaken(model), config)
        train_ssa_too(tuned)
    tuned.eval()
    assert all(p.requires_grad for _, p in ssa_parameters(tuned))
    with_adapter = logits(tuned, ids)
    # Merged weights hold W + BA, so the scale must have been on the sum.
    assert torch.allclose(logits(tuned.merge_and_unload(), ids), with_adapter, atol=1e-5)


def test_a_copy_has_temperatures_of_its_own(ids):
    model = shaken(make())
    before, twin = logits(model, ids), copy.deepcopy(model)
    assert torch.equal(logits(twin, ids), before)
    with torch.no_grad():
        attentions_of(twin)[0].ssa.query.bias.fill_(3.0)
    assert torch.equal(logits(model, ids), before)
    assert not torch.equal(logits(twin, ids), before)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_saved_and_loaded(options, tmp_path, ids):
    model = shaken(make(), options)
    save_ssa(model, options, tmp_path)
    other = make()
    assert has_ssa(tmp_path)
    assert load_ssa(other, tmp_path) == options
    assert torch.equal(logits(other, ids), logits(model, ids))


def test_clear_errors(tmp_path, ids):
    with pytest.raises(RecipeError, match="gpt2 models is not known; supported: llama"):
        add_ssa(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=9)), SSAOptions())
    model = make()
    add_ssa(model, SSAOptions())
    with pytest.raises(RecipeError, match="already"):
        add_ssa(model, SSAOptions())
    with pytest.raises(RecipeError, match="cannot be read as selective temperatures"):
        load_ssa(make(), tmp_path)
    save_ssa(model, SSAOptions(), tmp_path)
    with pytest.raises(RecipeError, match="another model"):
        load_ssa(make(num_hidden_layers=3), tmp_path)
    model.train().gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(RecipeError, match="use_reentrant: false"):
        model(input_ids=ids)
    model.eval()
    with pytest.raises(ValueError, match="not 2-D"):
        model(input_ids=ids, attention_mask=torch.zeros(3, 1, 20, 20))
    with pytest.raises(ValueError, match="scale nothing"):
        SSAOptions(features="none", gate="none")


def marked_key(rows, generator, longest=256):
    """Return ids whose last token asks for the value right after the mark among n distractors, and that value."""
    n = int(torch.randint(8, longest + 1, (), generator=generator))
    ids = torch.randint(8, 60, (rows, n + 2), generator=generator)
    place, value = torch.randint(0, n, (rows,), generator=generator), torch.randint(2, 8, (rows,), generator=generator)
    at = torch.arange(rows)
    ids[at, place], ids[at, place + 1], ids[:, -1] = 0, value, 1
    return ids, value


def learn_marked_keys(model, parameters, rate, steps, generator, longest):
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        marked_loss(model, *marked_key(16, generator, longest)).backward()
        optimizer.step()


def marked_loss(model, ids, value):
    return torch.nn.functional.cross_entropy(model(input_ids=ids).logits[:, -1], value)


@pytest.mark.parametrize("trained", [False, True], ids=["random", "trained on short rows"])
def test_temperatures_alone_help_a_frozen_model_to_find_a_marked_key(trained):
    model, generator = make(max_position_embeddings=300), torch.Generator().manual_seed(0)
    if trained:
        learn_marked_keys(model, model.parameters(), 3e-3, 80, generator, longest=24)
    add_ssa(model, SSAOptions(features="none", values=False) if trained else SSAOptions())
    held_out = [marked_key(32, generator) for _ in range(4)]

    def validation():
        with torch.no_grad():
            return sum(marked_loss(model, *batch).item() for batch in held_out) / len(held_out)

    train_ssa_only(model)
    frozen = validation()
    learn_marked_keys(model, [p for _, p in ssa_parameters(model)], 1e-2, 50, generator, longest=256)
    gates = [attention.ssa.beta.item() for attention in attentions_of(model)]
    assert validation() < frozen - (0.0 if trained else 0.05)
    # Where a key is found already, longer rows dilute its attention: the gate opens.
    assert min(gates) > 0 if trained else 0.0 not in gates
