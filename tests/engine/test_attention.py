"""The prior on attention in a training run: a term of the loss, with LoRA, and a controller that follows the run."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from reason_rl.algorithm.store import after_generation
from reason_rl.attention.guardian import Guardian
from reason_rl.attention.kl import AttentionKL
from reason_rl.attention.regulariser import PriorLoss, make_guardian, make_prior_loss
from reason_rl.attention.rollout_memberships import rollout_memberships
from reason_rl.attention.schedule import Strength
from reason_rl.attention.source import PriorSource
from reason_rl.errors import RecipeError
from reason_rl.models import PRIOR_ATTENTION
from reason_rl.recipe.load import load_recipe
from reason_rl.rollout.engines import make_backend
from reason_rl.trainer.train import extra_loss, training_inputs


def prior_loss(trainer, weight):
    model = trainer.accelerator.unwrap_model(trainer.model)
    watch = AttentionKL(model, PriorSource(), 64, (-1,), queries=64)
    return PriorLoss(watch, Strength(weight, warm=0.0, fall=None))


def weights(trainer):
    return [p.detach().clone() for p in trainer.accelerator.unwrap_model(trainer.model).parameters()]


@pytest.mark.parametrize("chunk_rows", [None, 4])
def test_the_term_is_logged_and_draws_attention_to_the_prior(make_trainer, make_config, chunk_rows):
    results = []
    for weight in (None, 0.0, 10.0):
        config = make_config(scale_rewards="none", learning_rate=1e-2, max_steps=8)
        trainer = make_trainer(config=config, chunk_rows=chunk_rows)
        if weight is not None:
            trainer.extra_loss = prior_loss(trainer, weight)
        trainer.train()
        results.append((weights(trainer), [row for row in trainer.state.log_history if "reason/attention_kl" in row]))
    (plain, no_rows), (off, off_rows), (_, on_rows) = results
    assert all(torch.equal(a, b) for a, b in zip(plain, off, strict=True))
    assert not no_rows
    assert not off_rows
    assert on_rows[0]["reason/attention_kl"] > 0
    assert on_rows[0]["reason/attention_kl_weight"] == 10.0
    values = [row["reason/attention_kl"] for row in on_rows]
    assert values[-1] < 0.9 * values[0], values


def test_it_watches_through_an_adapter(make_trainer, make_llama):
    torch.manual_seed(0)
    model = get_peft_model(make_llama(), LoraConfig(r=4, target_modules=["q_proj", "k_proj"]))
    spec = load_recipe("tiny/dler_rpa").recipe.attention.prior
    watch = make_prior_loss(spec, model, seed=0).watch
    with watch.collecting():
        model(input_ids=torch.arange(5, 29)[None])
    watch.term(0).backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    assert any("k_proj.lora_B" in name and grad.abs().sum() > 0 for name, grad in grads.items())


def test_guardian_turns_the_weight(make_trainer):
    recipe = load_recipe("tiny/dler_rpa_guardian").recipe
    guardian = make_guardian(recipe.attention.prior, 80, seed=0)
    trainer = make_trainer(controller=guardian)
    loss = prior_loss(trainer, 1.0)
    assert loss.factor(0.5, trainer.store) == 1.0
    trainer.train()
    state = trainer.store.states[Guardian.name]
    assert state["generations"] == trainer.store.generation > 0
    colder = {**state, "knobs": {**state["knobs"], "tau": 0.5}}
    store = after_generation(trainer.store, [], [])
    assert loss.factor(0.5, type(store)(states={Guardian.name: colder})) == 2.0


def test_sharded_weights_are_refused(make_llama):
    recipe = load_recipe("tiny/dler_rpa").recipe
    with pytest.raises(RecipeError, match=r"attention\.prior: .* FSDP shards; use DDP"):
        extra_loss(recipe, make_llama(), sharded=True)
    assert extra_loss(load_recipe("tiny/dler").recipe, make_llama(), sharded=True) is None
    kept = make_llama()
    kept.config._attn_implementation = PRIOR_ATTENTION
    with pytest.raises(RecipeError, match="keeps a prior"):
        extra_loss(load_recipe("tiny/dler").recipe, kept, sharded=False)


def test_rows_that_do_not_fit_are_refused_before_anything_is_loaded():
    recipe = load_recipe("tiny/dler_rpa", ["attention.prior.reference_tokens=100", "data.count=200"]).recipe
    with pytest.raises(RecipeError, match=r"is 100, but the longest prompt and its budget are 1\d\d tokens"):
        training_inputs(recipe)


def test_engines_that_cannot_follow_a_prior_are_refused(make_llama, tiny_tokenizer):
    model = make_llama()
    model.config._attn_implementation = PRIOR_ATTENTION
    recipe = load_recipe("tiny/dler_vllm").recipe
    with pytest.raises(RecipeError, match=r"rollout\.engine: vllm cannot follow the model's attention prior; use hf"):
        make_backend(recipe, model, tiny_tokenizer, engine=object())


def test_content_memberships_are_those_of_the_starting_models_rollouts(make_llama, tiny_tokenizer):
    overrides = ["attention.prior.variant=content", "attention.prior.calibration_traces=6", "data.count=20"]
    recipe = load_recipe("tiny/dler_rpa", overrides).recipe
    found = [rollout_memberships(recipe, recipe.attention.prior, make_llama(), 30) for _ in range(2)]
    assert set(found[0]) == {0, 1}
    assert found[0][1].shape == (160, 4)
    assert torch.equal(found[0][1], found[1][1])
    loss = extra_loss(recipe, make_llama(), sharded=False)
    assert loss.watch.source.frozen[0].shape == (160, 4)


def test_two_ranks_have_the_gradient_of_one():
    script = Path(__file__).with_name("attention_on_ranks.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
