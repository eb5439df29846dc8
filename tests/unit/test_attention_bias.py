"""The prior as a bias beyond static places: content memberships, low-rank factors, heads, files, and supervised runs."""

import json
import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from reason_rl.attention.inject import AttentionBias
from reason_rl.attention.kl import AttentionKL, kl_to_prior
from reason_rl.attention.memberships import calibrate, fit_regimes
from reason_rl.attention.positions import places
from reason_rl.attention.pretrain_run import prior_of
from reason_rl.attention.prior import CLIP, Prior, sinkhorn, soft_blocks, static_memberships
from reason_rl.attention.prior_files import load_prior, save_prior
from reason_rl.attention.source import PriorSource
from reason_rl.attention.supervised import SupervisedPrior
from reason_rl.errors import RecipeError, RunError
from reason_rl.models import load_model
from reason_rl.pipeline import run
from reason_rl.recipe.attention_checks import COMPLETION_TOKENS, PROMPT_TOKENS
from reason_rl.recipe.attention_specs import PriorSpec
from reason_rl.recipe.load import load_recipe
from reason_rl.recipe.schema import ModelSection
from reason_rl.rollout.backend import SamplingOptions, SamplingRequest
from reason_rl.rollout.hf import HFBackend
from reason_rl.run_folder import RunFolder
from reason_rl.world.families import CHAIN_OPERATIONS, LEVELS, PAIR_NUMBERS
from reason_rl.world.pretrain import PretrainConfig, pretrain
from reason_rl.world.tokenizer import build_tokenizer

PLACES = 64
SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def llama(attention="sdpa"):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    model.set_attn_implementation(attention)
    return model


def ids(rows=2, tokens=12, seed=1):
    return torch.randint(2, 32, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def batch(seed=1):
    return {"input_ids": ids(8, 12, seed), "labels": ids(8, 12, seed)}


def calibrated(model, places=PLACES):
    frozen = calibrate(model, [batch(5), batch(6)], (0, 1), places, 4)
    return PriorSource("content", frozen=frozen)


# The construction


@pytest.mark.parametrize("tokens", [1, 2, 7, 513])
def test_running_sums_give_the_moments_of_the_square(tokens):
    prior = Prior(static_memberships(tokens, 4), 4)
    raw = prior.queries @ prior.keys.T
    causal = raw[torch.ones(tokens, tokens).tril().bool()]
    assert prior.moments[0] == pytest.approx(float(causal.mean()), abs=1e-12)
    if tokens > 1:
        assert prior.moments[1] == pytest.approx(float(causal.std(unbiased=False)), rel=1e-9)
        assert float(((raw - prior.moments[0]) / prior.moments[1]).abs().max()) <= prior.reach + 1e-9
    assert torch.allclose(soft_blocks(tokens, 4).sum(dim=1), torch.ones(tokens).double())


@pytest.mark.parametrize("regimes", [2, 3, 4, 8])
@pytest.mark.parametrize("tokens", [2, 64, 32768])
def test_alignment_and_clip_at_the_ends_of_the_range(regimes, tokens):
    prior = Prior(static_memberships(tokens, regimes), regimes)
    mass = regimes * regimes / tokens * prior.memberships.T @ prior.keys
    plan = sinkhorn(mass / 0.7)
    assert mass.mean().item() == pytest.approx(1)
    for axis in (0, 1):
        assert torch.allclose(plan.sum(dim=axis), torch.ones(regimes).double(), atol=1e-5)
    assert prior.reach < CLIP
    assert all(torch.isfinite(part).all() for part in prior.factors())


def test_a_transport_plan_makes_rows_of_its_square_sum_alike():
    plan = sinkhorn(torch.randn(6, 3, generator=torch.Generator().manual_seed(0))) / 3
    assert torch.allclose(plan.sum(dim=1), torch.full((6,), 1 / 6).double(), atol=1e-6)
    assert torch.allclose((plan @ plan.T).sum(dim=1), torch.full((6,), 1 / 18).double(), atol=1e-6)


def test_a_prior_that_is_clipped_has_no_factors():
    mu = torch.tensor([[0.5, 0.5]] * 100 + [[0.0, 1.0]])
    prior = Prior(mu, 2)
    assert prior.reach > CLIP
    assert prior.factors() is None
    assert prior.log_prior[-1].exp().sum().item() == pytest.approx(1, abs=1e-5)


# Content memberships


def test_regimes_are_found_where_states_lie_apart():
    draw = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    states = (centres[:, None] + 0.3 * torch.randn(3, 50, 2, generator=draw)).view(-1, 2)
    mu = fit_regimes(states, 3).memberships(states)
    assert torch.allclose(mu.sum(dim=1), torch.ones(150).double())
    assert mu.max(dim=1).values.min() > 0.99
    assert all(len(set(part.argmax(dim=1).tolist())) == 1 for part in mu.split(50))
    assert len(set(mu[::50].argmax(dim=1).tolist())) == 3


def test_memberships_are_means_of_a_place_over_real_tokens():
    model = llama()
    rows = ids(3, 6)
    left = torch.cat([torch.zeros(3, 2).long(), rows], dim=1)
    mask = torch.cat([torch.zeros(3, 2).long(), torch.ones(3, 6).long()], dim=1)
    plain = calibrate(model, [{"input_ids": rows}], (1,), 8, 4)[1]
    padded = calibrate(model, [{"input_ids": left, "attention_mask": mask}], (1,), 8, 4)[1]
    assert plain.shape == (8, 4)
    assert torch.allclose(plain.sum(dim=1), torch.ones(8).double())
    assert torch.allclose(plain, padded, atol=1e-4)
    assert torch.equal(plain[6], plain[5])
    assert not torch.allclose(plain[1], plain[5])
    with pytest.raises(RunError, match="nothing to calibrate"):
        calibrate(model, [], (1,), 8, 4)


def test_frozen_memberships_make_a_causal_bias_of_each_layers_own():
    model = llama()
    source = calibrated(model)
    assert not torch.allclose(source.log_prior(PLACES, 0), source.log_prior(PLACES, 1))
    AttentionBias(model, source, PLACES, strength=1.0)
    before, changed = model(input_ids=ids()).logits, ids()
    changed[0, 8] = 2 + (changed[0, 8] - 1) % 30
    after = model(input_ids=changed).logits
    assert torch.equal(after[0, :8], before[0, :8])
    assert torch.equal(after[1], before[1])
    with pytest.raises(RunError, match="layer 3 are not calibrated"):
        source.log_prior(PLACES, 3)
    with pytest.raises(RunError, match="memberships of 64 places, the reference has 128 tokens"):
        source.log_prior(128, 0)


# The bias


@pytest.mark.parametrize("variant", ["static", "content", "published"])
@pytest.mark.parametrize("heads", [None, (1.0, 0.0, 0.5, 1.0)])
def test_the_bias_is_a_mask_that_eager_attention_gets(variant, heads):
    model, eager = llama(), llama("eager")
    source = calibrated(model) if variant == "content" else PriorSource(variant, tau=0.68)
    AttentionBias(model, source, PLACES, heads=heads, strength=0.7)
    tables = [source.log_prior(PLACES, layer)[:12, :12] for layer in range(2)]
    masks = [
        0.7 * torch.tensor(heads or (1.0,) * 4)[:, None, None] * table.masked_fill(torch.isinf(table), 0.0)
        + torch.zeros(12, 12).masked_fill(torch.ones(12, 12).triu(1).bool(), -math.inf)
        for table in tables
    ]
    for layer, mask in zip(eager.model.layers, masks, strict=True):
        layer.self_attn.register_forward_pre_hook(
            lambda _m, args, given, mask=mask: (args, {**given, "attention_mask": mask[None]}), with_kwargs=True
        )
    assert torch.allclose(model(input_ids=ids()).logits, eager(input_ids=ids()).logits, atol=1e-5)


@pytest.mark.parametrize("heads", [None, (1.0, 0.0, 0.5, 1.0)])
def test_factors_are_the_dense_bias_padded_and_token_by_token(heads):
    found = {}
    mask = torch.ones(2, 12).long()
    mask[0, :4] = 0
    for by_factors in (False, True):
        model = llama()
        bias = AttentionBias(model, PriorSource(), PLACES, heads=heads, strength=1.0, by_factors=by_factors)
        whole = model(input_ids=ids(), attention_mask=mask).logits
        first = model(input_ids=ids()[:, :11], attention_mask=mask[:, :11], use_cache=True)
        last = model(input_ids=ids()[:, 11:], attention_mask=mask, past_key_values=first.past_key_values).logits
        assert torch.allclose(last[:, 0], whole[:, 11], atol=1e-5)
        assert len(next(iter(bias._cache.values()))) == (2 if by_factors else 1)
        found[by_factors] = whole[mask.bool()]
    assert torch.allclose(found[False], found[True], atol=1e-5)


def test_what_is_made_of_a_prior_is_kept_by_length_layer_type_and_device():
    model = llama()
    bias = AttentionBias(model, calibrated(model), PLACES, strength=1.0)
    model(input_ids=ids())
    kept = dict(bias._cache)
    assert set(kept) == {(PLACES, layer, torch.float32, torch.device("cpu")) for layer in (0, 1)}
    model(input_ids=ids())
    assert all(bias._cache[key] is parts for key, parts in kept.items())
    model.bfloat16()(input_ids=ids())
    assert {key[2] for key in bias._cache} == {torch.float32, torch.bfloat16}


def test_layers_that_are_not_chosen_are_stock():
    model = llama()
    stock = model.model.layers[0](model.model.embed_tokens(ids()), position_embeddings=rotation(model, 12))
    bias = AttentionBias(model, PriorSource(), PLACES, layers=(-1,), strength=1.0)
    bias._places = places({"input_ids": ids()})
    same = model.model.layers[0](model.model.embed_tokens(ids()), position_embeddings=rotation(model, 12))
    assert torch.equal(stock, same)


def rotation(model, tokens):
    return model.model.rotary_emb(torch.zeros(1, tokens, 32), torch.arange(tokens)[None])


def test_rollouts_of_engine_hf_sample_from_the_biased_model():
    model = llama()
    AttentionBias(model, PriorSource(), PLACES, strength=2.0)
    requests = [SamplingRequest(tuple(ids(1, n, n)[0].tolist()), 9, n) for n in (3, 7)]
    samples = HFBackend(model, [0], 1, context_tokens=PLACES).generate(requests, SamplingOptions(1.0))
    for request, sample in zip(requests, samples, strict=True):
        whole = torch.tensor([[*request.prompt_ids, *sample.token_ids]])
        logps = model(input_ids=whole).logits.log_softmax(-1)[0, len(request.prompt_ids) - 1 : -1]
        own = logps.gather(1, torch.tensor(sample.token_ids)[:, None])[:, 0]
        assert own.tolist() == pytest.approx(list(sample.logps), abs=1e-4)


def test_clear_errors():
    flash = llama()
    flash.config._attn_implementation = "flash_attention_2"
    with pytest.raises(RecipeError, match="flash_attention_2 attention takes no bias"):
        AttentionBias(flash, PriorSource(), PLACES)
    with pytest.raises(RecipeError, match="heads: 3 weights; the model has 4 attention heads"):
        AttentionBias(llama(), PriorSource(), PLACES, heads=(1.0, 1.0, 1.0))
    model = llama().train()
    AttentionBias(model, PriorSource(), PLACES, strength=1.0)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(RecipeError, match="use_reentrant: false"):
        model(input_ids=ids())
    model = llama()
    AttentionBias(model, PriorSource(), PLACES, strength=1.0)
    with pytest.raises(RunError, match="cache of fixed size is not known"):
        model(input_ids=ids(), past_key_values=StaticCache(model.config, max_cache_len=40))


def test_checkpointing_gives_the_gradients_of_a_biased_model():
    gradients = []
    for checkpointing in (False, True):
        model = llama().train()
        AttentionBias(model, PriorSource(), PLACES, strength=1.0)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**batch()).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_a_kept_prior_comes_back_with_its_model(tmp_path):
    model = llama()
    source = calibrated(model)
    bias = AttentionBias(model, source, PLACES, heads=(1.0, 0.0, 0.5, 1.0), strength=0.8)
    biased = model(input_ids=ids()).logits
    model.save_pretrained(tmp_path)
    save_prior(bias, tmp_path)
    again = load_model(ModelSection(path=str(tmp_path)))
    assert torch.allclose(again(input_ids=ids()).logits, biased, atol=1e-6)
    bias.remove()
    assert not torch.allclose(model(input_ids=ids()).logits, biased)
    (tmp_path / "attention_prior.json").write_text('{"format": 1}')
    with pytest.raises(RecipeError, match="cannot be read as an attention prior"):
        load_prior(llama(), tmp_path)


# The loss term


def test_the_written_gradient_is_that_of_the_divergence():
    table = PriorSource().log_prior(6, 0)[None].double().expand(2, -1, -1)
    logits = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: kl_to_prior(x, table), logits)


def test_heads_count_by_their_weights():
    model = llama()
    values = []
    for heads in (None, (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0)):
        term = AttentionKL(model, PriorSource(), PLACES, (1,), heads=heads)
        with term.collecting():
            model(input_ids=ids())
        values.append(term.term(0).item())
    assert values[3] == pytest.approx((values[1] + values[2]) / 2)
    assert values[0] != pytest.approx(values[3])


# Supervised runs


def supervised(model, **options):
    spec = PriorSpec(**{"reference_tokens": PLACES, "mode": "bias", **options})
    return SupervisedPrior(model, spec, lambda: [batch(5)], [batch(0)], seed=0)


def trained(model, prior, updates=20):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for step in range(updates):
        prior.before(step, step / updates)
        with prior.watching():
            loss = model(**batch(step % 3), use_cache=False).loss
        (loss + prior.term(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    prior.end()
    return model.eval()


def test_a_bias_that_falls_ends_as_stock(tmp_path):
    prior = supervised(model := llama())
    trained(model, prior)
    stock = llama()
    stock.load_state_dict(model.state_dict())
    assert torch.equal(model(input_ids=ids()).logits, stock(input_ids=ids()).logits)
    prior.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_content_is_calibrated_once_when_the_schedule_begins():
    model = llama()
    prior = supervised(model, variant="content", begin=0.5, fall=None)
    prior.before(0, 0.4)
    assert model(input_ids=ids()).logits.isfinite().all()
    assert (prior.weight, prior.bias.source.frozen) == (0.0, {})
    prior.before(1, 0.6)
    frozen = prior.bias.source.frozen
    assert set(frozen) == {0, 1}
    assert prior.weight == 0.5
    prior.before(2, 0.7)
    assert prior.bias.source.frozen is frozen


def test_guardian_decides_every_so_many_updates_and_its_temperature_divides_the_weight():
    model = llama()
    prior = supervised(model, fall=None, warm=0.0, guardian={"every": 2, "window": 1, "least_gain": 0.0})
    trained(model, prior)
    assert [one["step"] for one in prior.decisions] == list(range(2, 20, 2))
    assert any(one["guardian_acted"] for one in prior.decisions)
    assert all(0 <= one["saturated"] <= 1 for one in prior.decisions)
    tau = prior.decisions[-1]["guardian_tau"]
    assert tau != 1.0
    assert prior.bias.strength == pytest.approx(0.5 / tau)


def test_the_term_draws_attention_to_the_prior_in_a_supervised_run():
    distances = {}
    for weight in (1e-9, 1.0):
        model = llama()
        prior = supervised(model, mode="kl", layers=[0, 1], weight=weight, warm=0.0, fall=None)
        trained(model, prior)
        with prior.watch.collecting():
            model(input_ids=ids())
        distances[weight] = prior.watch.term(0).item()
    assert distances[1.0] < 0.7 * distances[1e-9]


# Recipes


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["attention.prior.mode=bias"],
            "bias is for task pretrain and sft, for rollout engines could not follow it; use kl",
        ),
        (
            ["attention.prior.begin=0.5"],
            "is for task pretrain and sft; what RL starts from has learned already, use warm",
        ),
        (["attention.prior.fall=0.95"], "0.95 is after end 0.9"),
        (["attention.prior.heads=[2]"], "less than or equal to 1"),
        (["attention.prior.varient=content"], "did you mean variant"),
        (
            ["trainer.gradient_checkpointing=true", "trainer.gradient_checkpointing_kwargs={use_reentrant: true}"],
            "the prior needs use_reentrant: false",
        ),
    ],
)
def test_what_a_recipe_of_rl_may_not_say(overrides, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("tiny/dler_rpa", overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "set compile: false"),
        (["pretrain.compile=false", "attention.prior.variant=content"], "random weights; try 0.1"),
        (
            ["pretrain.compile=false", "pretrain.max_completion_tokens=600"],
            "512 is less than a prompt and its completion may have, 669",
        ),
        (
            ["pretrain.compile=false", "pretrain.max_completion_tokens=444"],
            "512 is less than a prompt and its completion may have, 513",
        ),
        (
            ["pretrain.compile=false", "model.attn_implementation=eager"],
            r"model\.attn_implementation: eager takes no bias",
        ),
        (
            ["pretrain.compile=false", "attention.prior.guardian.token_weight=0.1"],
            r"guardian\.token_weight: task pretrain does not read it",
        ),
        (["pretrain.compile=false", "attention.heads={}"], "is for reason-rl heads; task pretrain does not read it"),
    ],
)
def test_what_a_recipe_of_pretraining_may_not_say(overrides, message):
    prior = "attention={prior: {reference_tokens: 512, mode: bias}}"
    with pytest.raises(RecipeError, match=message):
        load_recipe("tiny/pretrain", [prior, *overrides])
    load_recipe("tiny/pretrain", [prior, "pretrain.compile=false"])


def test_the_default_that_a_check_knows_is_that_of_pretraining():
    assert PretrainConfig().max_completion_tokens == COMPLETION_TOKENS


def test_the_longest_prompt_that_a_check_knows_is_that_of_the_world():
    words = max(2 + 2 * CHAIN_OPERATIONS[LEVELS[-1]][1], 3 + PAIR_NUMBERS[LEVELS[-1]][1])
    chat = [{"role": "user", "content": "7 " * words}]
    prompt = build_tokenizer().apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert len(prompt.split()) == PROMPT_TOKENS


@pytest.mark.parametrize("mode", ["kl", "bias"])
def test_padding_is_no_content_when_a_prior_is_pretrained_with(mode, tmp_path):
    sizes = {"hidden_size": 32, "layers": 2, "heads": 2, "intermediate_size": 48, "max_completion_tokens": 96}
    config = PretrainConfig(**sizes, traces=60, tokens_per_batch=2048, curriculum_share=0.0, bf16=False, compile=False)
    guardian = {"every": 2, "window": 1, "held_out_traces": 8}
    spec = PriorSpec(
        reference_tokens=165, mode=mode, variant="content", begin=0.1, calibration_traces=4, guardian=guardian
    )
    seen = []

    def look(module, args, inputs):
        seen.append((inputs["input_ids"] != 0, inputs.get("attention_mask"), module.training))

    def attach(model):
        model.model.register_forward_pre_hook(look, with_kwargs=True)
        return prior_of(spec, config)(model)

    pretrain(config, tmp_path, attach=attach)
    assert {training for _, _, training in seen} == {True, False}
    assert all(mask is not None and torch.equal(mask.bool(), real) for real, mask, _ in seen)
    assert not all(real.all() for real, _, _ in seen)


def test_a_recipe_pretrains_with_a_prior_that_stays(tmp_path):
    overrides = [
        "pretrain={hidden_size: 32, layers: 2, heads: 2, intermediate_size: 48, traces: 120, tokens_per_batch: 2048, "
        "compile: false, bf16: false, curriculum_share: 0.0, max_completion_tokens: 96}",
        "attention={prior: {reference_tokens: 256, mode: bias, variant: content, begin: 0.2, fall: null, "
        "calibration_traces: 8, guardian: {every: 2, window: 1, held_out_traces: 4}}}",
        f"output={tmp_path}",
    ]
    recipe = load_recipe("tiny/pretrain", overrides).recipe
    run(recipe, RunFolder(tmp_path), resume=False, say=lambda text: None)
    model = load_model(ModelSection(path=str(tmp_path / "model")))
    tokens = torch.arange(5, 25)[None]
    biased = model(input_ids=tokens).logits
    card = json.loads((tmp_path / "model" / "attention_prior.json").read_text())
    assert (card["variant"], card["layers"], card["strength"] > 0) == ("content", [0, 1], True)
    model.model.layers[0].self_attn.attention_bias.remove()
    assert not torch.allclose(model(input_ids=tokens).logits, biased)
