"""Log-probabilities before the update, taken over from the sampler instead of computed again."""

import pytest
import torch
from trl import GRPOTrainer

from reason_rl.errors import RecipeError
from reason_rl.recipe.load import load_recipe
from reason_rl.rollout.hf import HFBackend


def trained(make_trainer, make_llama, make_config, tokenizer, monkeypatch, sampled):
    """Train on the model's own rollouts; return weights, generation outputs and the number of passes without gradient."""
    model = make_llama(seed=1)
    backend = HFBackend(model, (tokenizer.eos_token_id,), tokenizer.pad_token_id)
    config = make_config(scale_rewards="none", learning_rate=1e-5)
    trainer = make_trainer(backend=backend, model=model, config=config, sampled_logps=sampled)
    outputs, passes = [], []
    generate = trainer._generate_and_score_completions
    stock = GRPOTrainer._get_per_token_logps_and_entropies

    def counted(self, *args, **kwargs):
        passes.append(torch.is_grad_enabled())
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", counted)

    def generating(inputs):
        outputs.append(generate(inputs))
        return outputs[-1]

    trainer._generate_and_score_completions = generating
    trainer.train()
    weights = [p.detach().clone() for p in trainer.accelerator.unwrap_model(trainer.model).parameters()]
    return weights, outputs, passes.count(False)


def test_the_samplers_are_those_of_the_policy(make_trainer, make_llama, make_config, tiny_tokenizer, monkeypatch):
    common = (make_trainer, make_llama, make_config, tiny_tokenizer, monkeypatch)
    recomputed, stock_outputs, stock_passes = trained(*common, sampled=False)
    monkeypatch.undo()
    sampled, outputs, passes = trained(*common, sampled=True)
    assert (stock_passes, passes) == (len(stock_outputs), 0)
    for one, two in zip(stock_outputs, outputs, strict=True):
        mask = one["completion_mask"].bool()
        assert torch.equal(one["completion_ids"], two["completion_ids"])
        old = (output["old_per_token_logps"][mask] for output in (one, two))
        torch.testing.assert_close(*old, atol=1e-4, rtol=0)
        assert (two["importance_sampling_ratio"] == 1).all()
    for one, two in zip(recomputed, sampled, strict=True):
        torch.testing.assert_close(one, two, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("recipe", "override", "obstacle"),
    [
        ("tiny/dler", "rollout.engine=vllm", "rollout.engine vllm"),
        ("tiny/dler", "rollout.lag=1", "rollout.lag 1"),
        ("tiny/dler", "rollout.importance_correction=none", "importance_correction none"),
        ("tiny/dler", "rollout.stop={strength: 1.5}", "rollout.stop"),
        ("tiny/adaptthink", "seed=0", "algorithm.openings"),
        ("tiny/anytime_brpo", "seed=0", "algorithm.summaries"),
    ],
)
def test_what_it_does_not_go_with_is_refused(recipe, override, obstacle):
    with pytest.raises(RecipeError, match=rf"old_logps.*{obstacle}"):
        load_recipe(recipe, ["update.old_logps=sampled", override])
