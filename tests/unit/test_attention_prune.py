"""Pruned and folded models give the outputs of the mask, as standard models that load from disk."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from reason_rl.attention.decoder import parameter_count
from reason_rl.attention.heads_module import HeadOptions, Shape, add_heads, at_budget
from reason_rl.attention.prune import choose_heads, fold, kept_counts, norm_scores, prune
from reason_rl.attention.ssa import SSAOptions, add_ssa
from reason_rl.errors import RecipeError

KINDS = ("llama", "mistral", "qwen2", "qwen3")


def make(kind, **fields):
    torch.manual_seed(0)
    shape = {
        "vocab_size": 60,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 12,
        "max_position_embeddings": 128,
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**shape, **fields})).eval()
    with torch.no_grad():  # biases start at zero, where a forgotten one would not show
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return model


def gated(model, unit, seed=1):
    held = add_heads(model, HeadOptions(unit=unit))
    with torch.no_grad():
        held.offset += torch.randn(held.offset.shape, generator=torch.Generator().manual_seed(seed))
    return held


@pytest.fixture
def ids():
    return torch.randint(0, 60, (2, 15), generator=torch.Generator().manual_seed(2))


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", ["kv_group", "head"])
def test_pruned_equals_hard_gated_and_loads_as_a_standard_model(kind, unit, ids, tmp_path):
    model = make(kind)
    held = gated(model, unit)
    choice = choose_heads(held.scores(0.5), model.config, held.options, 0.5)
    assert choice.kept == 0.5
    with at_budget(model, 0.5, "hard"):
        expected = logits(model, ids)
    assert not torch.allclose(logits(model, ids), expected, atol=1e-3)
    smaller = prune(model, choice.mask)
    assert torch.allclose(logits(smaller, ids), expected, atol=1e-5)
    assert smaller.config.num_attention_heads == 4
    assert smaller.config.num_key_value_heads == (2 if unit == "kv_group" else 4)
    smaller.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, ids), logits(smaller, ids))
    assert parameter_count(loaded) < parameter_count(model)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_folded_equals_soft_gated(kind, ids):
    model = make(kind)
    held = gated(model, "kv_group")
    with at_budget(model, 0.4):
        expected = logits(model, ids)
        factor = held()[0].detach()
    fold(model, factor)
    assert torch.allclose(logits(model, ids), expected, atol=1e-6)


def test_the_cache_shrinks_with_the_groups_and_decoding_agrees(ids):
    model = make("llama")
    held = gated(model, "kv_group")
    smaller = prune(model, choose_heads(held.scores(0.25), model.config, held.options, 0.25).mask)
    sizes = [m(input_ids=ids, use_cache=True).past_key_values.layers[0].keys.numel() for m in (smaller, model)]
    assert sizes[0] / sizes[1] == 0.25
    cached, plain = (
        smaller.generate(ids, max_new_tokens=6, do_sample=False, use_cache=use, pad_token_id=0) for use in (True, False)
    )
    assert torch.equal(cached, plain)


def test_the_original_is_left_alone(ids):
    model = make("qwen2", tie_word_embeddings=True)
    before = logits(model, ids)
    smaller = prune(model, choose_heads(norm_scores(model, HeadOptions()), model.config, HeadOptions(), 0.5).mask)
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.zero_()
    assert torch.equal(logits(model, ids), before)
    assert smaller.lm_head.weight is smaller.model.embed_tokens.weight


def test_everything_kept_is_the_same_model(ids):
    model = make("llama")
    assert torch.equal(logits(prune(model, torch.ones(3, 8, dtype=torch.bool)), ids), logits(model, ids))


def test_norms_rank_a_silenced_head_last():
    model = make("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight[:, 24:48] = 0  # heads 2 and 3, group 1
    assert norm_scores(model, HeadOptions())[1].argmin() == 1
    assert norm_scores(model, HeadOptions(unit="head"))[1].argsort()[:2].sort().values.tolist() == [2, 3]


def test_heads_that_share_nothing_go_with_their_key_value_heads(ids):
    model = make("llama", num_key_value_heads=8)
    held = gated(model, "head")
    choice = choose_heads(held.scores(0.5), model.config, held.options, 0.5)
    assert choice.kept == 0.5
    with at_budget(model, 0.5, "hard"):
        expected = logits(model, ids)
    smaller = prune(model, choice.mask)
    assert (smaller.config.num_attention_heads, smaller.config.num_key_value_heads) == (4, 4)
    assert torch.allclose(logits(smaller, ids), expected, atol=1e-5)


def test_counts_that_a_configuration_refuses_are_passed_over():
    model = make("llama", num_attention_heads=5, num_key_value_heads=5, hidden_size=160)
    choice = choose_heads(norm_scores(model, HeadOptions()), model.config, HeadOptions(), 0.6)
    assert (choice.kept, choice.mask.sum(-1).tolist()) == (0.8, [4, 4, 4])
    with pytest.raises(RecipeError, match="takes no 3 heads a layer"):
        prune(model, torch.tensor([[True, True, True, False, False]] * 3))


def test_masks_that_no_configuration_can_say_are_refused():
    uneven = torch.ones(3, 8, dtype=torch.bool)
    uneven[0, :2] = False
    with pytest.raises(RecipeError, match="layout layer"):
        prune(make("llama"), uneven)
    halved = torch.ones(1, 8, dtype=torch.bool)
    halved[0, 0] = False
    with pytest.raises(RecipeError, match="different numbers of heads"):
        kept_counts(halved, Shape(1, 8, 4))


def test_adapters_and_temperatures_come_off_first():
    everything = torch.ones(3, 8, dtype=torch.bool)
    tuned = get_peft_model(make("llama"), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with pytest.raises(RecipeError, match="merge it first"):
        prune(tuned, everything)
    model = make("llama")
    add_ssa(model, SSAOptions())
    with pytest.raises(RecipeError, match="prune first"):
        prune(model, everything)
