"""Contract with TRL: what we rely on, and that nothing changes when every policy is neutral."""

import pytest
import torch
from transformers import LlamaForCausalLM
from trl import GRPOTrainer

from reason_rl.algorithm.budget import FixedBudget
from reason_rl.algorithm.reward import correctness, product, truncation
from reason_rl.errors import RunError
from reason_rl.rollout.hf import HFBackend
from reason_rl.trainer import compat
from reason_rl.trainer.callbacks import RunCallback, restore_algorithm_state
from reason_rl.trainer.composition import AdvantageRule, FilterRule
from reason_rl.world.tokenizer import END_THINK

OUTPUT = {
    "prompt_ids": (2, torch.int64),
    "prompt_mask": (2, torch.int64),
    "completion_ids": (2, torch.int64),
    "completion_mask": (2, torch.int64),
    "advantages": (1, torch.float32),
    "num_items_in_batch": (0, torch.int64),
    "old_per_token_logps": (2, torch.float32),
    "importance_sampling_ratio": (2, torch.float32),
    "sampling_per_token_logps": (2, torch.float32),
}


class StockSeam:
    """The scripted rollouts in the place of stock TRL's vLLM engine."""

    def __init__(self, backend, max_tokens):
        self.backend, self.max_tokens = backend, max_tokens

    def sync_weights(self):
        pass

    def generate(self, prompts, images, num_generations, profiler=None):
        from reason_rl.rollout.backend import SamplingRequest

        requests = [SamplingRequest(tuple(prompt), self.max_tokens, 0) for prompt in prompts]
        samples = self.backend.generate(requests, None)
        return None, [list(s.token_ids) for s in samples], [[[p] for p in s.logps] for s in samples], None


def stock_reward(tokenizer):
    def correct(completion_ids, **_):
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in completion_ids]
        return [float(text.partition(END_THINK)[2].strip() == "\\boxed{ 7 }") for text in texts]

    return correct


def seeded(backend):
    """Make the scripted rollouts a function of the row's seed instead of how often it was asked."""
    write = backend.write

    def from_seed(request):
        backend.asked = {request.prompt_ids: request.seed % 9973}
        return write(request)

    backend.write = from_seed
    return backend


def record(trainer):
    """Keep what each generation step returns and each micro-batch's loss."""
    kept = {"outputs": [], "losses": []}
    generate, step = trainer._generate_and_score_completions, trainer.training_step

    def generating(inputs):
        kept["outputs"].append(generate(inputs))
        return kept["outputs"][-1]

    def stepping(*args, **kwargs):
        kept["losses"].append(step(*args, **kwargs))
        return kept["losses"][-1]

    trainer._generate_and_score_completions, trainer.training_step = generating, stepping
    return kept


@pytest.mark.parametrize(
    ("stock_scale", "our_scale", "loss_type"),
    [("group", "group_std", "dapo"), ("batch", "batch_std_rewards", "grpo"), ("none", "none", "dr_grpo")],
)
def test_neutral_policies_are_stock_trl(
    tiny_tokenizer,
    make_llama,
    make_backend,
    make_config,
    make_trainer,
    problems_dataset,
    stock_scale,
    our_scale,
    loss_type,
):
    stock = GRPOTrainer(
        model=make_llama(),
        reward_funcs=[stock_reward(tiny_tokenizer)],
        args=make_config(scale_rewards=stock_scale, loss_type=loss_type),
        train_dataset=problems_dataset,
        processing_class=tiny_tokenizer,
    )
    stock.use_vllm, stock.vllm_mode, stock._last_loaded_step = True, "external", -1
    stock.vllm_generation = StockSeam(make_backend(), 16)
    expected = record(stock)
    stock.train()
    # Built after the other has trained: both draw the order of rows from torch's global generator, seeded when built.
    ours = make_trainer(
        config=make_config(scale_rewards="none", loss_type=loss_type), advantage=AdvantageRule(scale=our_scale)
    )
    got = record(ours)
    ours.train()
    assert len(expected["outputs"]) == 2
    for one, two in zip(expected["outputs"], got["outputs"], strict=True):
        assert one.keys() == two.keys()
        for key in one:
            assert torch.equal(one[key], two[key]), key
    assert any(output["advantages"].abs().sum() > 0 for output in got["outputs"])
    assert torch.equal(torch.stack(expected["losses"]), torch.stack(got["losses"]))
    for (name, one), two in zip(stock.model.named_parameters(), ours.model.parameters(), strict=True):
        assert torch.equal(one, two), name


def test_wrapped_signatures_are_the_recorded_ones(monkeypatch):
    compat.check_trl()
    monkeypatch.setattr(GRPOTrainer, "log", lambda self, logs: None)
    with pytest.raises(RunError, match=r"GRPOTrainer\.log"):
        compat.check_trl()


def test_an_optimizer_is_loaded_to_the_cpu_that_accelerate_numbers(tmp_path):
    torch.save({"step": torch.ones(2)}, tmp_path / "optimizer.pt")
    loaded = torch.load(tmp_path / "optimizer.pt", map_location=torch.device("cpu", 1), weights_only=True)
    assert torch.equal(loaded["step"], torch.ones(2))


def test_output_keys_shapes_and_types(make_trainer):
    trainer = make_trainer()
    kept = record(trainer)
    trainer.train()
    for output in kept["outputs"]:
        assert {key: (value.ndim, value.dtype) for key, value in output.items()} == OUTPUT
        assert all(value.ndim == 0 or len(value) == 16 for value in output.values())


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo"])
def test_constant_token_advantages_give_the_loss_of_row_advantages(make_trainer, make_config, loss_type):
    trainer = make_trainer(config=make_config(scale_rewards="none", loss_type=loss_type, epsilon_high=0.3))
    kept = record(trainer)
    trainer.train()
    batch = dict(kept["outputs"][0])
    trainer.current_gradient_accumulation_steps = 1
    per_row = trainer.compute_loss(trainer.model, batch)
    batch["advantages"] = batch["advantages"][:, None].expand_as(batch["completion_ids"])
    assert torch.equal(trainer.compute_loss(trainer.model, batch), per_row)


def dler(**filter_fields):
    return {
        "reward": product(correctness(), truncation(0.0)),
        "budget": FixedBudget(12),
        "filter": FilterRule(keep="non_zero_std", **filter_fields),
        "advantage": AdvantageRule(scale="batch_token"),
    }


def test_refilled_batch_is_full_of_groups_with_signal(make_trainer, make_backend):
    trainer = make_trainer(backend=make_backend(right_share=0.15), **dler(refill=True, max_rounds=20))
    kept = record(trainer)
    trainer.train()
    for output in kept["outputs"]:
        assert "tool_mask" not in output
        assert len(output["advantages"]) == 16
        groups = output["advantages"].view(-1, 4)
        assert (groups.max(dim=1).values > groups.min(dim=1).values).all()
        weights = output["completion_mask"].sum(dim=1).float()
        assert (output["advantages"] * weights).sum().abs() < 1e-3
        assert output["num_items_in_batch"] == weights.sum()
    assert trainer.refill.position > 0


def test_without_refill_flat_groups_leave_the_loss(make_trainer, make_backend):
    trainer = make_trainer(backend=make_backend(right_share=0.1), **dler())
    kept = record(trainer)
    trainer.train()
    trained = [output["tool_mask"].any(dim=1).view(-1, 4) for output in kept["outputs"] if "tool_mask" in output]
    assert trained
    for output, rows in zip(kept["outputs"], trained, strict=True):
        assert (rows.all(dim=1) | ~rows.any(dim=1)).all()
        assert (output["advantages"].view(-1, 4)[~rows.any(dim=1)] == 0).all()
        assert output["num_items_in_batch"] == (output["completion_mask"] * output["tool_mask"]).sum()


def test_nothing_kept_ends_after_the_last_round_with_zero_loss(make_trainer, make_backend):
    trainer = make_trainer(backend=make_backend(right_share=0.0), **dler(refill=True, max_rounds=3))
    before = [p.clone() for p in trainer.model.parameters()]
    kept = record(trainer)
    trainer.train()
    assert torch.stack(kept["losses"]).abs().sum() == 0
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert len(trainer.vllm_generation.backend.requests) == 2 * 3


def test_overlong_mask_takes_cut_rows_out_of_the_loss(make_trainer, make_backend):
    trainer = make_trainer(backend=make_backend(cut_share=0.5), overlong="mask")
    kept = record(trainer)
    trainer.train()
    eos = trainer.processing_class.eos_token_id
    for output in kept["outputs"]:
        cut = ~(output["completion_ids"] == eos).any(dim=1)
        assert torch.equal(output["tool_mask"].any(dim=1), ~cut)


def test_rows_have_their_own_budgets_and_seeds(make_trainer, make_backend):
    class ByLevel(FixedBudget):
        def assign(self, problem_ids, columns, state, step, progress):
            return torch.tensor([4 + 3 * level for level in columns["level"]])

    backend = make_backend()
    trainer = make_trainer(backend=backend, budget=ByLevel(16))
    trainer.train()
    for round_requests in backend.requests:
        assert {request.max_tokens for request in round_requests} <= {7, 10, 13}
        assert len({request.max_tokens for request in round_requests}) > 1
        assert len({request.seed for request in round_requests}) == len(round_requests)
    assert backend.versions == [0, 1]


def test_a_sampler_that_is_the_policy_has_ratio_one(make_trainer, make_llama, tiny_tokenizer):
    model = make_llama()
    backend = HFBackend(model, [tiny_tokenizer.eos_token_id], tiny_tokenizer.pad_token_id)
    trainer = make_trainer(model=model, backend=backend)
    kept = record(trainer)
    trainer.train()
    for output in kept["outputs"]:
        ratio = output["importance_sampling_ratio"][output["completion_mask"].bool()]
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-4, rtol=0)


def test_a_run_resumed_in_any_epoch_is_the_uninterrupted_one(make_trainer, make_config, make_backend, tmp_path):
    """24 problems, 4 a rollout batch, 2 updates on each: an epoch is 12 steps."""
    config = {"scale_rewards": "none", "max_steps": 16, "save_strategy": "steps", "save_steps": 2, "logging_steps": 2}

    def run(resume=None):
        config["output_dir"] = str(tmp_path / f"from-{resume}")
        trainer = make_trainer(
            backend=seeded(make_backend()), config=make_config(**config), **dler(refill=True, max_rounds=2)
        )
        callback = RunCallback(tmp_path / f"from-{resume}.jsonl", resume or 0)
        callback.trainer = trainer
        trainer.add_callback(callback)
        if resume:
            restore_algorithm_state(trainer, tmp_path / "from-None" / f"checkpoint-{resume}")
        trainer.train(resume_from_checkpoint=str(tmp_path / "from-None" / f"checkpoint-{resume}") if resume else None)
        return [p.detach().clone() for p in trainer.model.parameters()]

    whole = run()
    for step in (10, 14):
        assert all(torch.equal(a, b) for a, b in zip(whole, run(step), strict=True)), step


def test_k2_penalty_pulls_to_the_start_and_is_no_k3(make_trainer, make_config, make_llama, tmp_path):
    make_llama().save_pretrained(tmp_path / "start")
    weights = {}
    for kind, coefficient in (("k3", 0.0), ("k2", 5.0), ("k3", 5.0)):
        config = make_config(scale_rewards="none", beta=coefficient, use_bias_correction_kl=False, max_steps=8)
        # TRL loads the reference model from where the policy came from.
        model = LlamaForCausalLM.from_pretrained(tmp_path / "start")
        trainer = make_trainer(model=model, config=config, kl_type=kind)
        start = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
        trainer.train()
        end = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
        weights[kind, coefficient] = (end - start).norm().item()
    assert weights["k2", 5.0] < weights["k3", 0.0]
    assert weights["k2", 5.0] != weights["k3", 5.0]


def test_a_loss_that_is_not_finite_stops_before_the_update(make_trainer):
    trainer = make_trainer()
    trainer.create_optimizer()
    with torch.no_grad():
        trainer.model.lm_head.weight[0, 0] = float("nan")
    before = trainer.model.model.layers[0].mlp.up_proj.weight.clone()
    with pytest.raises(RunError, match=r"loss is nan at step 1; .*problems of the batch: p\d+"):
        trainer.train()
    assert torch.equal(trainer.model.model.layers[0].mlp.up_proj.weight, before)
