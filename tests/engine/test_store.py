"""Policies with a state in the trainer: a resumed run goes on exactly, on one process and on two."""

import json
import os
import subprocess

import numpy as np
import pytest
import torch

from reason_rl.algorithm.budget import CycleBudget, FixedBudget, HistoryBudget, PassRateBudget, StairsBudget
from reason_rl.algorithm.curriculum import Cures, PassRateBand
from reason_rl.algorithm.history_reward import against_reference, own_history
from reason_rl.algorithm.price import GuardedPrices, priced
from reason_rl.algorithm.quartiles import QuartileCounts
from reason_rl.algorithm.reward import correctness, product, total
from reason_rl.algorithm.store import Reference, start_store, to_json
from reason_rl.algorithm.targets import MonitoredTargets, long_wrong_bonus, short_right_bonus
from reason_rl.algorithm.tiers import within_tier
from reason_rl.attention.guardian import Guardian
from reason_rl.attention.kl import AttentionKL
from reason_rl.attention.regulariser import PriorLoss
from reason_rl.attention.schedule import Strength
from reason_rl.attention.source import PriorSource
from reason_rl.rollout.backend import Sample, sampling_seed
from reason_rl.trainer.callbacks import MilestoneCallback, RunCallback, restore_algorithm_state
from reason_rl.trainer.composition import AdvantageRule, FilterRule
from reason_rl.world.tokenizer import END_THINK

PROBLEMS = tuple(f"p{i}" for i in range(24))
MONITORED = MonitoredTargets((6, 9, 12, 16), problems=3, rollouts=4, every=2, rounding="floor", seed=0)
POLICIES = {
    "by_pass_rate": {"budget": PassRateBudget((0.5,), (16, 10))},
    "by_history": {"budget": HistoryBudget(1.2, 8, 16)},
    "stairs": {"budget": StairsBudget((16, 12, 9), 1)},
    "cycle": {"budget": CycleBudget("cosine", 8, 16, 4)},
    "tiers": {
        "reward": product(correctness(), within_tier([0.5], [16, 9])),
        "filter": FilterRule("non_zero_std", refill=True),
    },
    "targets": {
        "reward": total(correctness(wrong=-0.5), short_right_bonus(), long_wrong_bonus()),
        "targets": MONITORED,
    },
    "history": {"reward": total(correctness(), own_history())},
    "prices": {
        "reward": product(correctness(), priced(16)),
        "prices": GuardedPrices({"plain": 0.5}, warmup_generations=1, accuracy_loss=0.0),
    },
    "reference": {"reward": against_reference(2.0)},
    "band": {"curriculum": PassRateBand(0.3, 0.7, 0.05)},
    "cures": {"curriculum": Cures(0.1, 0.9, 2), "filter": FilterRule("non_zero_std", refill=True, max_rounds=2)},
    "counts": {"curriculum": Cures(0.1, 0.9, 2, problems=3)},
    "selection": {
        "advantage": AdvantageRule(select="shortest", scale="group_std_population"),
        "selection": QuartileCounts((4, 3, 2, 2), warm_groups=4),
    },
    "guardian": {"controller": Guardian(max_tokens=16, entropy=1.0, window=1, least_gain=-1.0)},
}


@pytest.fixture
def backend(make_backend):
    """Return a maker of scripted backends whose rows depend on the request's seed alone, so that they resume."""

    def make():
        scripted = make_backend()
        tokenizer = scripted.tokenizer

        def write(request):
            rng = np.random.default_rng(sampling_seed(*request.prompt_ids, request.seed))
            words = [str(rng.integers(100)) for _ in range(rng.integers(2, 9))]
            answer = "7" if rng.random() < 0.5 else "8"
            ids = tokenizer(" ".join([*words, END_THINK, "\\boxed{", answer, "}", "<eos>"])).input_ids
            ids = ids[: request.max_tokens]
            return Sample(tuple(ids), (-4.0,) * len(ids), "stop" if ids[-1] == tokenizer.eos_token_id else "length")

        scripted.write = write
        return scripted

    return make


@pytest.fixture
def learner(make_trainer, make_config, backend, tmp_path):
    """Return a maker of trainers of four generations that save after each second one."""

    def make(policies, folder="out"):
        config = make_config(
            scale_rewards="none",
            max_steps=8,
            save_strategy="steps",
            save_steps=4,
            output_dir=str(tmp_path / folder),
        )
        trainer = make_trainer(backend=backend(), config=config, **policies)
        if "controller" in policies:  # what it turns is part of the loss
            watch = AttentionKL(trainer.model, PriorSource(), 64, (-1,), queries=64)
            trainer.extra_loss = PriorLoss(watch, Strength(10.0, warm=0.0, fall=None))
        trainer.store = start_store(trainer.composition.policies, {name: Reference(4, 2, 9.0) for name in PROBLEMS})
        callback = RunCallback(tmp_path / f"{folder}.jsonl")
        callback.trainer = trainer
        trainer.add_callback(callback)
        return trainer

    return make


@pytest.mark.parametrize("name", POLICIES)
def test_a_resumed_run_is_the_uninterrupted_one(learner, tmp_path, name):
    whole = learner(POLICIES[name])
    whole.train()
    assert whole.store.generation == 4
    assert len(whole.store.histories) > 4
    checkpoint = tmp_path / "out" / "checkpoint-4"
    resumed = learner(POLICIES[name], "again")
    restore_algorithm_state(resumed, checkpoint)
    assert resumed.store.generation == 2
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.store == whole.store
    assert resumed.algorithm_state == whole.algorithm_state
    assert resumed.refill.position == whole.refill.position
    for one, two in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, two)
    saved = json.loads((tmp_path / "again" / "checkpoint-8" / "algorithm_state.json").read_text())
    assert saved["store"] == json.loads(json.dumps(to_json(whole.store)))


def test_guardian_learns_and_its_weights_decide_after_a_resume(learner, tmp_path):
    trainer = learner(POLICIES["guardian"])
    trainer.train()
    saved = json.loads((tmp_path / "out" / "checkpoint-4" / "algorithm_state.json").read_text())["store"]["states"]
    before, after = saved["guardian"], trainer.store.states["guardian"]
    # What it did before the checkpoint is what it learns from first after it.
    assert before["acted"] is not None
    assert after["updates"] == 2
    assert before["weights"] != after["weights"]
    assert len({1.0, before["knobs"]["tau"], after["knobs"]["tau"]}) == 3


def test_the_cap_follows_the_schedule_and_milestones_are_kept(learner, tmp_path):
    trainer = learner({"budget": StairsBudget((16, 12, 9), 1)})
    trainer.add_callback(MilestoneCallback(trainer, tmp_path / "kept", 2))
    trainer.train()
    caps = [{request.max_tokens for request in requests} for requests in trainer.vllm_generation.backend.requests]
    assert caps == [{16}, {12}, {9}, {9}]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["stage-1", "stage-2", "stage-3"]
    assert all((path / "model.safetensors").is_file() for path in (tmp_path / "kept").iterdir())


def test_a_probe_is_paid_for_and_not_trained_on(learner):
    trainer = learner(POLICIES["targets"])
    trainer.train()
    rounds = trainer.vllm_generation.backend.requests
    assert [len(requests) for requests in rounds] == [12, 16, 16, 12, 16, 16]
    assert trainer.vllm_generation.backend.versions == [0, 1, 2, 3]
    trained = sum(len(h.recent_right) for h in trainer.store.histories.values())
    assert trained <= 4 * 16
    assert sum(h.rollouts for h in trainer.store.histories.values()) == 4 * 16
    first, second = (rounds[i] for i in (0, 3))
    assert {r.prompt_ids for r in first} == {r.prompt_ids for r in second}
    assert {r.seed for r in first}.isdisjoint({r.seed for r in second})
    assert {r.max_tokens for r in first} == {16}


def test_a_curriculum_decides_what_is_rolled_out(learner):
    class OnlyFour(PassRateBand):
        def weights(self, store, problem_ids):
            return np.array([1.0 if name in ("p1", "p5", "p8", "p20") else 0.0 for name in problem_ids])

    trainer = learner({"budget": FixedBudget(16), "curriculum": OnlyFour(0, 1, 0)})
    trainer.train()
    assert set(trainer.store.histories) == {"p1", "p5", "p8", "p20"}
    assert all(history.visits == 4 for history in trainer.store.histories.values())


def test_rollouts_of_a_problem_are_one_group_whatever_their_number(learner):
    trainer = learner({"budget": FixedBudget(16), "curriculum": Cures(0.1, 1.0, 0, problems=3)})
    seen = []
    rule = trainer.composition.advantages

    def spy(rewards, *others):
        seen.append((rewards, others[-1], rule(rewards, *others)))
        return seen[-1][2]

    object.__setattr__(trainer.composition, "advantages", spy)
    trainer.train()
    assert len(seen) == 4
    for rewards, sizes, values in seen:
        assert len(sizes) == 3
        assert len(set(sizes)) > 1
        assert sum(sizes) == len(rewards) == 16
        for group, value in zip(rewards.split(sizes), values.split(sizes), strict=True):
            torch.testing.assert_close(value, (group - group.mean()) / (group.std() + 1e-4))
    assert sum(history.visits for history in trainer.store.histories.values()) == 4 * 3
    assert sum(history.rollouts for history in trainer.store.histories.values()) == 4 * 16


SMALL = (
    "trainer.per_device_train_batch_size=8",
    "trainer.steps_per_generation=2",
    "trainer.num_generations=4",
    "trainer.max_steps=8",
    "trainer.save_steps=4",
    "trainer.logging_steps=2",
    "data.count=48",
    "eval.data.count=8",
)
TOGETHER = {
    "monitored": (
        "tiny/laser_de",
        "algorithm.budget={use: history, factor: 1.5, smallest_tokens: 48, largest_tokens: 96}",
        "algorithm.targets={smallest_tokens: 16, largest_tokens: 96, interval_tokens: 8, problems: 5, rollouts: 2, every: 2}",
        "algorithm.curriculum={use: cures, probe_rollouts: 2}",
    ),
    "scheduled": (
        "tiny/hapo",
        "algorithm.budget={use: cycle, low_tokens: 64, high_tokens: 96, period: 4}",
        "algorithm.curriculum={use: band, low: 0.1, high: 0.9}",
    ),
    "priced": (
        "tiny/tldr",
        "algorithm.budget={use: stairs, tokens: [32, 24], every: 2}",
        "algorithm.advantage.scale=none",
    ),
    "selected": (
        "tiny/gfpo_adaptive",
        "algorithm.budget={use: pass_rate, thresholds: [0.5], tokens: [48, 32]}",
    ),
    "counted": (
        "tiny/cures",
        "trainer.num_generations=2",
        "algorithm.curriculum.problems=4",
        "algorithm.budget.tokens=48",
    ),
    "summarised": ("tiny/anytime_brpo", "algorithm.budget.tokens=24", "algorithm.summaries.budgets=[12, 24]"),
    "opened": (
        "tiny/adaptthink",
        "algorithm.budget.tokens=32",
        "algorithm.reference.samples=1",
        "algorithm.reference.max_tokens=32",
    ),
    "ahead": ("tiny/grpo", "rollout.lag=1", "algorithm.budget.tokens=48"),
    "guarded": (
        "tiny/dler_rpa_guardian",
        "algorithm.budget.tokens=48",
        "algorithm.filter.max_rounds=2",
        "attention.prior.weight=1.0",
        "attention.prior.guardian={window: 1, least_gain: 0}",
    ),
}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", TOGETHER)
def test_two_processes_resume_exactly(in_two_processes, tmp_path, name):
    recipe, *policies = TOGETHER[name]
    folder = tmp_path / "two"
    train = ["-m", "reason_rl.cli", "train", recipe, *SMALL, *policies, f"output={folder}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    middle, last = (folder / "checkpoints" / f"checkpoint-{step}" for step in (4, 8))

    def run(*more):
        command = [*in_two_processes, *train, *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        state = json.loads((last / "algorithm_state.json").read_text())
        return state, (folder / "model" / "model.safetensors").read_bytes()

    whole = run()
    assert whole[0]["store"]["generation"] == 4
    assert {path.name for path in middle.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    saved = (middle / "algorithm_state.json").stat().st_mtime_ns
    # As if the run had been stopped before its end.
    last.rename(tmp_path / "gone")
    (folder / "trained.json").unlink()
    assert run("--resume") == whole
    # A run that began anew would end alike, and would have written this again.
    assert (middle / "algorithm_state.json").stat().st_mtime_ns == saved
