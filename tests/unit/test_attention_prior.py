"""The RPA prior: numbers worked out by hand, what holds for every length, and what it does to attention."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.models.gpt2 import GPT2Config, GPT2LMHeadModel

from reason_rl.attention.inject import AttentionBias
from reason_rl.attention.kl import AttentionKL, kl_to_prior
from reason_rl.attention.prior import (
    Prior,
    sinkhorn,
    soft_blocks,
    static_memberships,
)
from reason_rl.attention.published import published_alignment, published_bias, published_mass, published_raw
from reason_rl.attention.schedule import Strength
from reason_rl.attention.source import PriorSource
from reason_rl.errors import RecipeError, RunError

SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "attn_implementation": "sdpa",
}
PLACES = 32
SOURCE = PriorSource()


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


def qwen3():
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**SIZES)).eval()


@pytest.fixture(params=[llama, qwen3], ids=["llama", "qwen3"])
def model(request):
    return request.param()


def prior(tokens=PLACES, regimes=4, **options):
    return Prior(static_memberships(tokens, regimes), regimes, **options)


def ids(rows=2, tokens=12, seed=1):
    return torch.randint(2, 32, (rows, tokens), generator=torch.Generator().manual_seed(seed))


# The construction


def test_the_papers_listing_worked_out_by_hand():
    mu = torch.tensor([[[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.1, 0.9]]])
    assert soft_blocks(4, 2).tolist() == [pytest.approx(row) for row in ([1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1])]
    mass, raw = published_mass(mu), published_raw(mu)
    assert mass.tolist() == [pytest.approx([1.45, 0.55]), pytest.approx([0.55, 1.45])]
    assert raw[0].tolist() == pytest.approx([0.7267, 0.6134, 0.3866, 0.2733], abs=5e-5)
    assert raw[1].tolist() == pytest.approx([0.5567, 0.5283, 0.4717, 0.4433], abs=5e-5)
    assert torch.allclose(raw.flip(0, 1), raw)
    assert raw.sum(dim=1).tolist() == pytest.approx([2.0] * 4)
    assert (raw.mean().item(), raw.std().item()) == pytest.approx((0.5, 0.1349), abs=5e-5)
    assert published_bias(mu)[0].tolist() == pytest.approx([1.6803, 0.8402, -0.8402, -1.6803], abs=5e-5)
    plan = sinkhorn(mass / 0.7)
    assert plan[0].tolist() == pytest.approx([0.7834, 0.2166], abs=1e-4)
    bias = published_bias(mu) / 0.68
    causal = torch.softmax(bias.masked_fill(~torch.ones(4, 4).tril().bool(), -math.inf), dim=1)
    assert causal[1, :2].tolist() == pytest.approx([0.5766, 0.4234], abs=1e-4)
    assert causal[3].tolist() == pytest.approx([0.0054, 0.0186, 0.2198, 0.7562], abs=1e-4)


def test_the_papers_alignment_saturates_with_the_length():
    draw = torch.Generator().manual_seed(0)
    plans = [published_alignment(torch.softmax(torch.randn(1, n, 4, generator=draw), dim=-1)) for n in (16, 512)]
    assert plans[0].max() > 0.3
    assert torch.allclose(plans[1], torch.full((4, 4), 0.25).double())


def test_the_papers_listing_couples_rows_and_looks_ahead():
    mu = torch.softmax(torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    other, later = mu.clone(), mu.clone()
    other[1] = mu[1].roll(1, 0)
    later[:, -1] = mu[:, -1].roll(1, 1)
    assert not torch.allclose(published_bias(mu), published_bias(other))
    assert not torch.allclose(published_bias(mu)[:8, :8], published_bias(later)[:8, :8])


@pytest.mark.parametrize("tokens", [1, 2, 7, 64, 513])
def test_rows_of_the_prior_are_distributions_over_what_came_before(tokens):
    log_prior = prior(tokens).log_prior
    assert torch.allclose(log_prior.exp().sum(dim=1), torch.ones(tokens), atol=1e-6)
    assert torch.isinf(log_prior.triu(1)[torch.ones(tokens, tokens).triu(1).bool()]).all()
    assert torch.isfinite(log_prior[torch.ones(tokens, tokens).tril().bool()]).all()


@settings(max_examples=30, deadline=None)
@given(regimes=st.integers(2, 8), tokens=st.integers(32, 4096), align=st.floats(0.4, 2.0))
def test_the_alignment_is_doubly_stochastic_at_any_length(regimes, tokens, align):
    mu, phi = static_memberships(tokens, regimes), soft_blocks(tokens, regimes)
    mass = regimes * regimes / tokens * mu.T @ phi
    assert mass.mean().item() == pytest.approx(1)
    plan = sinkhorn(mass / align)
    assert torch.allclose(plan.sum(dim=0), torch.ones(regimes).double(), atol=1e-5)
    assert torch.allclose(plan.sum(dim=1), torch.ones(regimes).double(), atol=1e-5)


@pytest.mark.parametrize(("regimes", "align"), [(5, 0.3), (6, 0.35), (7, 0.4), (8, 0.45)])
def test_the_alignment_settles_also_where_it_takes_long(regimes, align):
    log_prior = Prior(static_memberships(160, regimes), regimes, align=align).log_prior
    assert torch.allclose(log_prior.exp().sum(dim=1), torch.ones(160), atol=1e-6)


def test_an_alignment_that_does_not_settle_is_one_clear_line(monkeypatch):
    monkeypatch.setattr("reason_rl.attention.prior.SINKHORN_ROUNDS", 9)
    with pytest.raises(RecipeError, match="5 regimes and 5 blocks did not settle; use a higher align or fewer regimes"):
        _ = Prior(static_memberships(160, 5), 5, align=0.3).queries


def test_sharper_with_a_lower_temperature():
    entropy = [
        -(p.exp() * p.masked_fill(torch.isinf(p), 0)).sum(dim=1).mean()
        for p in (prior(tau=t).log_prior for t in (0.6, 1, 1.6))
    ]
    assert entropy[0] < entropy[1] < entropy[2]


def test_low_rank_factors_are_the_dense_bias():
    some = prior(64)
    queries, keys = some.factors()
    logits = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(64, 64).masked_fill(torch.ones(64, 64).triu(1).bool(), -math.inf)
    dense = torch.softmax(logits + 0.5 * some.log_prior.nan_to_num(neginf=0.0) + mask, dim=1)
    assert torch.allclose(dense, torch.softmax(logits + 0.5 * queries @ keys.T + mask, dim=1), atol=1e-5)


def test_attention_with_a_prior_is_the_best_trade_between_score_and_divergence():
    z, pi = torch.tensor([1.0, 0.0, -0.5]), torch.tensor([0.2, 0.5, 0.3])
    best = torch.softmax(z + pi.log(), dim=0)
    assert best.tolist() == pytest.approx([0.4436, 0.4080, 0.1485], abs=1e-4)
    value = best @ z - kl_to_prior((z + pi.log())[None, None, None], pi.log()[None, None]).squeeze()
    assert value.item() == pytest.approx(torch.logsumexp(z + pi.log(), dim=0).item(), abs=1e-6)
    assert value.item() == pytest.approx(0.2034, abs=5e-5)
    others = torch.distributions.Dirichlet(torch.ones(3)).sample((2000,))
    assert (others @ z - (others * (others / pi).log()).sum(dim=1)).max() <= value


# As a bias


def test_strength_zero_is_stock_attention_to_the_bit(model):
    stock = model(input_ids=ids()).logits
    bias = AttentionBias(model, SOURCE, PLACES)
    assert torch.equal(model(input_ids=ids()).logits, stock)
    bias.strength = 1.0
    assert not torch.allclose(model(input_ids=ids()).logits, stock)
    bias.strength = 0.0
    assert torch.equal(model(input_ids=ids()).logits, stock)
    bias.strength = 1.0
    bias.remove()
    assert torch.equal(model(input_ids=ids()).logits, stock)


def test_a_constant_of_a_row_changes_nothing(model):
    bias = AttentionBias(model, SOURCE, PLACES, strength=1.0)
    before = model(input_ids=ids()).logits
    (name, (table,)) = next(iter(bias._cache.items()))
    bias._cache[name] = (table + torch.randn(PLACES, 1, generator=torch.Generator().manual_seed(0)),)
    assert torch.allclose(model(input_ids=ids()).logits, before, atol=1e-5)


def test_causal_and_one_row_by_itself(model):
    AttentionBias(model, SOURCE, PLACES, strength=1.0)
    tokens = ids()
    before = model(input_ids=tokens).logits
    changed = tokens.clone()
    changed[0, 8] = 2 + (changed[0, 8] - 1) % 30
    after = model(input_ids=changed).logits
    assert torch.equal(after[0, :8], before[0, :8])
    assert torch.equal(after[1], before[1])
    assert not torch.allclose(after[0, 8:], before[0, 8:])


def test_decoding_token_by_token_is_the_full_forward_pass(model):
    AttentionBias(model, SOURCE, PLACES, strength=1.0)
    tokens = ids(rows=1)
    full = model(input_ids=tokens).logits
    cache, steps = None, []
    for place in range(tokens.shape[1]):
        out = model(input_ids=tokens[:, place : place + 1], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        steps.append(out.logits)
    assert torch.allclose(torch.cat(steps, dim=1), full, atol=1e-5)


def test_left_padding_changes_nothing(model):
    AttentionBias(model, SOURCE, PLACES, strength=1.0)
    tokens = ids(rows=1, tokens=6)
    padded = torch.cat([torch.zeros(1, 3).long(), tokens], dim=1)
    mask = torch.cat([torch.zeros(1, 3).long(), torch.ones(1, 6).long()], dim=1)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    inside = model(input_ids=padded, attention_mask=mask, position_ids=position).logits[:, 3:]
    assert torch.allclose(inside, model(input_ids=tokens).logits, atol=1e-5)


def test_what_takes_no_bias_is_refused():
    eager = LlamaForCausalLM(LlamaConfig(**{**SIZES, "attn_implementation": "eager"}))
    with pytest.raises(RecipeError, match=r"eager attention takes no bias; set model.attn_implementation: sdpa"):
        AttentionBias(eager, SOURCE, PLACES)
    with pytest.raises(RecipeError, match="attention of gpt2 models is not known"):
        AttentionBias(GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=8)), SOURCE, PLACES)
    with pytest.raises(RecipeError, match=r"layers: \[5\]; the model has 2 layers"):
        AttentionBias(llama(), SOURCE, PLACES, layers=(5,))
    model = llama()
    AttentionBias(model, SOURCE, 8, strength=1.0)
    with pytest.raises(RunError, match="12 tokens, the prior 8; raise reference_tokens"):
        model(input_ids=ids())


# As a loss term


def collected(model, term, step=0, **inputs):
    with term.collecting():
        logits = model(**inputs).logits
    return term.term(step), logits


def test_divergence_is_zero_at_the_prior_and_else_positive():
    log_prior = prior(8).log_prior[None]
    assert kl_to_prior(log_prior.nan_to_num(neginf=0.0)[:, None], log_prior).abs().max() < 1e-6
    logits = torch.randn(1, 3, 8, 8)
    assert (kl_to_prior(logits, log_prior)[..., 1:] > 0).all()


def test_the_term_is_the_divergence_of_the_models_own_attention(model):
    term = AttentionKL(model, SOURCE, PLACES, layers=(0, -1), queries=100)
    mask = torch.ones(2, 12).long()
    mask[0, :3] = 0
    position = (mask.cumsum(1) - 1).clamp(min=0)
    value, _ = collected(model, term, input_ids=ids(), attention_mask=mask, position_ids=position)
    eager = type(model)(type(model.config)(**{**SIZES, "attn_implementation": "eager"})).eval()
    eager.load_state_dict(model.state_dict())
    weights = eager(input_ids=ids(), attention_mask=mask, position_ids=position, output_attentions=True).attentions
    table, total, count = prior().log_prior, 0.0, 0
    for layer in weights:
        for row in range(2):
            for query in range(12):
                if mask[row, query]:
                    seen = [key for key in range(query + 1) if mask[row, key]]
                    a = layer[row, :, query, seen]
                    pi = table[position[row, query], position[row, seen]]
                    total += (a * (a.log() - pi)).sum().item()
                    count += a.shape[0]
    assert value.item() == pytest.approx(total / count, rel=1e-4)


def test_the_forward_pass_is_untouched_and_the_gradient_reaches_queries_and_keys(model):
    stock = model(input_ids=ids()).logits
    term = AttentionKL(model, SOURCE, PLACES, layers=(1,), queries=4)
    value, logits = collected(model, term, input_ids=ids())
    assert torch.equal(logits, stock)
    value.backward()
    last = model.model.layers[1].self_attn
    assert last.q_proj.weight.grad.abs().sum() > 0
    assert last.k_proj.weight.grad.abs().sum() > 0
    assert model.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_gradients_are_the_same_with_checkpointing(model):
    gradients = []
    for checkpointing in (False, True):
        model.train()
        model.zero_grad()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        term = AttentionKL(model, SOURCE, PLACES, layers=(0, 1), queries=5)
        value, logits = collected(model, term, input_ids=ids())
        (value + logits.logsumexp(-1).mean()).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_reentrant_checkpointing_is_refused(model):
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    term = AttentionKL(model, SOURCE, PLACES, layers=(0,), queries=5)
    with pytest.raises(RecipeError, match="use_reentrant: false"), term.collecting():
        model(input_ids=ids())


def test_queries_are_sampled_by_step_alone(model):
    term = AttentionKL(model, SOURCE, PLACES, layers=(0,), queries=3)
    values = [collected(model, term, step, input_ids=ids())[0].item() for step in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


def test_steps_towards_the_prior_bring_attention_there(model):
    term = AttentionKL(model, SOURCE, PLACES, layers=(0, 1), queries=12)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = None
    for step in range(30):
        value, _ = collected(model, term, step, input_ids=ids())
        first = first or value.item()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    assert value.item() < 0.5 * first


def test_the_strength_ends_at_nothing():
    strength = Strength(0.5)
    values = [strength(p / 100) for p in range(101)]
    assert values[0] == 0
    assert values[90:] == [0.0] * 11
    assert max(values) == 0.5
    assert Strength(0.5, fall=None)(1.0) == 0.5
