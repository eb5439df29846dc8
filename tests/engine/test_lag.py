"""Rollouts that overlap with the update by one step: one version older, corrected for, and the same after a resume."""

import json
import threading

import pytest
import torch
from accelerate import Accelerator

from reason_rl.algorithm.budget import FixedBudget
from reason_rl.algorithm.reward import correctness
from reason_rl.answer.verify import ExactVerifier
from reason_rl.errors import RecipeError, RunError
from reason_rl.recipe.load import load_recipe
from reason_rl.rollout.backend import SamplingOptions
from reason_rl.rollout.grading import Grader
from reason_rl.rollout.hf import HFBackend
from reason_rl.trainer.callbacks import RunCallback, restore_algorithm_state
from reason_rl.trainer.composition import Composition
from reason_rl.trainer.grpo import ReasonGRPOTrainer
from reason_rl.world.tokenizer import END_THINK

UPDATES = 6


class Watched(HFBackend):
    """Notes the thread and the policy version of each batch that it samples."""

    seen: list

    def generate(self, requests, options, on_progress=None):
        self.seen.append((self.version, threading.current_thread() is threading.main_thread(), len(requests)))
        return super().generate(requests, options, on_progress)


@pytest.fixture
def build(tiny_tokenizer, make_llama, make_config, problems_dataset, tmp_path):
    """Return a maker of a trainer that samples from a copy of its random model, with a reward of short answers."""

    def make(folder, lag=1, seed=0, **fields):
        model = make_llama(seed)
        backend = Watched(model, [tiny_tokenizer.eos_token_id], tiny_tokenizer.pad_token_id, context_tokens=256)
        backend.seen = []
        callback = RunCallback(tmp_path / f"{folder}.jsonl")
        options = {
            "max_steps": UPDATES,
            "save_strategy": "steps",
            "save_steps": 2,
            "learning_rate": 3e-2,
            "optim": "sgd",
        }
        config = make_config(output_dir=str(tmp_path / folder), scale_rewards="none", **(options | fields))
        trainer = ReasonGRPOTrainer(
            model=model,
            args=config,
            train_dataset=problems_dataset,
            processing_class=tiny_tokenizer,
            composition=Composition(reward=short, budget=FixedBudget(12)),
            grader=Grader(tiny_tokenizer, ExactVerifier(), tiny_tokenizer.convert_tokens_to_ids(END_THINK)),
            backend=backend,
            sampling=SamplingOptions(),
            callbacks=[callback],
            lag=lag,
        )
        backend.follow(trainer.model, still=True)
        callback.trainer = trainer
        return trainer

    return make


def short(batch):
    """Pay for even token ids, so that a random model has something to learn."""
    even = [sum(token % 2 == 0 for token in ids) / len(ids) for ids in batch.completion_ids]
    return torch.tensor(even) + 0 * correctness()(batch)


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def test_the_next_batch_is_sampled_while_the_present_one_is_trained_on(build):
    trainer = build("lagged")
    trainer.train()
    # Two updates a batch: the first batch in this thread, then each while the one before it is trained on.
    assert trainer.vllm_generation.backend.seen == [(0, True, 16), (0, False, 16), (1, False, 16)]
    assert trainer.vllm_generation.sampled_version == 1
    assert trainer.vllm_generation.version == 2
    ratios = [row["sampling/importance_sampling_ratio/mean"] for row in trainer.state.log_history if "loss" in row]
    differences = [row["sampling/sampling_logp_difference/max"] for row in trainer.state.log_history if "loss" in row]
    assert ratios[0] == pytest.approx(1.0, abs=1e-5)
    assert differences[0] < 1e-4
    assert min(differences[1:]) > 1e-3
    assert all(0.5 < ratio < 2 for ratio in ratios)


def test_no_process_gets_weights_while_another_still_samples(build, monkeypatch):
    """Processes may share a server: the first one's new weights would come in the middle of another's rows."""
    done = []
    wait = Accelerator.wait_for_everyone
    monkeypatch.setattr(Accelerator, "wait_for_everyone", lambda self: done.append("met") or wait(self))
    trainer = build("together")
    backend = trainer.vllm_generation.backend
    sync, draw = backend.sync_weights, trainer.vllm_generation.draw
    monkeypatch.setattr(backend, "sync_weights", lambda version: done.append("weights") or sync(version))
    monkeypatch.setattr(trainer.vllm_generation, "draw", lambda *a: (draw(*a), done.append("sampled"))[0])
    trainer.train()
    places = [place for place, event in enumerate(done) if event == "weights"]
    assert len(places) == UPDATES // 2
    assert [done[place - 1] for place in places] == ["met"] * len(places)
    # The first batch, sampled here and now, and all that were begun in the background.
    assert [done[:place].count("sampled") for place in places] == [0, 2, 3]


def test_the_ratio_is_that_of_the_two_policies(build, monkeypatch):
    trainer = build("ratio", max_steps=4)
    outputs = []
    final = ReasonGRPOTrainer._final_batch
    monkeypatch.setattr(
        ReasonGRPOTrainer, "_final_batch", lambda self, *a: outputs.append(final(self, *a)) or outputs[-1]
    )
    samples = []
    draw = type(trainer.vllm_generation).draw
    monkeypatch.setattr(
        type(trainer.vllm_generation), "draw", lambda self, *a: samples.append(draw(self, *a)) or samples[-1]
    )
    before = weights(trainer)
    trainer.train()
    assert any(not torch.equal(before[name], value) for name, value in weights(trainer).items())
    lagged = outputs[1]
    sampled = [torch.tensor(sample.logps) for sample in samples[1]]
    for row, logps in enumerate(sampled):
        expected = (lagged["old_per_token_logps"][row, : len(logps)] - logps).exp().clamp(max=2.0)
        got = lagged["importance_sampling_ratio"][row, : len(logps)]
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert (lagged["importance_sampling_ratio"] != 1).any()


def test_a_resumed_run_trains_on_what_was_sampled_ahead(build, tmp_path):
    whole = build("whole")
    whole.train()
    checkpoint = tmp_path / "whole" / "checkpoint-4"
    saved = json.loads((checkpoint / "algorithm_state.json").read_text())["ahead"]
    assert [len(entry["samples"]) for entry in saved] == [16]
    resumed = build("whole", seed=5)
    restore_algorithm_state(resumed, checkpoint)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert [count for *_, count in resumed.vllm_generation.backend.seen] == []
    theirs = weights(whole)
    assert all(torch.equal(value, theirs[name]) for name, value in weights(resumed).items())


def test_without_lag_nothing_is_ahead_and_such_a_checkpoint_is_refused(build, tmp_path):
    build("lagged", max_steps=4).train()
    checkpoint = tmp_path / "lagged" / "checkpoint-2"
    stock = build("stock", lag=0, max_steps=4)
    with pytest.raises(RunError, match=r"rollouts made ahead by 1 processes; resume with as many and rollout.lag: 1"):
        restore_algorithm_state(stock, checkpoint)
    stock.train()
    assert stock.vllm_generation.backend.seen == [(0, True, 16), (1, True, 16)]
    state = json.loads((tmp_path / "stock" / "checkpoint-2" / "algorithm_state.json").read_text())
    assert "ahead" not in state


def test_an_error_of_the_engine_ends_the_run(build):
    trainer = build("broken")
    calls = []

    def generate(requests, options, on_progress=None):
        calls.append(1)
        if len(calls) == 2:
            raise RunError("the server is gone")
        return HFBackend.generate(trainer.vllm_generation.backend, requests, options)

    trainer.vllm_generation.backend.generate = generate
    with pytest.raises(RunError, match="the server is gone"):
        trainer.train()


def test_a_lag_needs_a_correction():
    with pytest.raises(RecipeError, match=r"rollout.lag: 1 samples from weights one update old"):
        load_recipe("tiny/dler", ["rollout.lag=1", "rollout.importance_correction=none"])
    assert load_recipe("tiny/dler", ["rollout.lag=1"]).recipe.rollout.lag == 1


@pytest.mark.parametrize(
    ("samples", "message"), [(slice(1), "returned 1 of 16 rows"), (slice(16), "16 of 16 rows without a single token")]
)
def test_missing_and_empty_rows_end_the_run(make_trainer, make_backend, samples, message):
    backend = make_backend()
    full = backend.generate
    backend.generate = lambda requests, *a: [
        type(s)((), (), "stop") if samples.stop == 16 else s for s in full(requests, *a)[samples]
    ]
    with pytest.raises(RunError, match=message):
        make_trainer(backend=backend).train()
