"""Training ends when its rollout tokens are spent, and leaves checkpoints at shares of them."""

import json

import pytest

from reason_rl.bench.arena import Conditions, MethodCell
from reason_rl.bench.jobs import read_results
from reason_rl.recipe.load import load_recipe
from reason_rl.run_folder import RunFolder
from reason_rl.trainer.callbacks import complete_checkpoints
from reason_rl.trainer.train import train

ALLOWANCE = 2000
SMALL = (
    "trainer.per_device_train_batch_size=8",
    "trainer.steps_per_generation=2",
    "trainer.num_generations=4",
    "trainer.max_steps=1000",
    "trainer.save_steps=1000",
    "algorithm.budget.tokens=32",
    "algorithm.filter.max_rounds=2",
    "data.count=200",
    f"rollout.allowance_tokens={ALLOWANCE}",
)


def spend(folder, save_at, resume=False):
    loaded = load_recipe("tiny/dler", [*SMALL, f"output={folder}"])
    run = RunFolder(folder)
    run.prepare(loaded.resolved(), resume=resume)
    return run, train(loaded.recipe, run, resume=resume, save_at=save_at)


@pytest.fixture(scope="module")
def spent(tmp_path_factory):
    return spend(tmp_path_factory.mktemp("allowance") / "run", (0.5,))


def test_training_ends_after_the_rollouts_that_reach_the_allowance(spent):
    run, result = spent
    tokens = [row["rollout_tokens"] for row in read_results(run.metrics)]
    assert tokens == sorted(tokens)
    assert tokens[-2] < ALLOWANCE <= tokens[-1]
    assert result.steps == 2 * len(tokens)


def test_rollout_tokens_count_every_row_that_was_drawn(spent):
    run, _ = spent
    rows = read_results(run.metrics)
    drawn = sum(row["completion_tokens"] * row["groups_drawn"] * 4 for row in rows)
    assert rows[-1]["rollout_tokens"] == pytest.approx(drawn, rel=1e-6)


def test_a_checkpoint_lies_where_the_share_was_reached(spent):
    run, result = spent
    by_step = {row["step"]: row["rollout_tokens"] for row in read_results(run.metrics)}
    first = int(complete_checkpoints(run.checkpoints)[0].name.split("-")[1])
    assert by_step[first] >= ALLOWANCE / 2 > by_step.get(first - 2, 0)
    assert first < result.steps
    state = json.loads((run.checkpoints / f"checkpoint-{first}" / "algorithm_state.json").read_text())
    assert state["rollout_tokens"] == by_step[first]


def test_a_cell_of_the_arena_is_trained_and_evaluated_at_each_point(tmp_path):
    cell = MethodCell("grpo_cap80", 0, Conditions(allowance_tokens=15_000, problems=6, samples=1), tmp_path)
    row = cell()
    assert row["method"] == "grpo_cap80"
    assert [point["point"] for point in row["points"]] == sorted(point["point"] for point in row["points"])
    assert row["points"][-1]["point"] >= 1
    assert all(point["completion_tokens"] > 0 and 0 <= point["accuracy"] <= 1 for point in row["points"])
    assert ["problems" in point for point in row["points"]] == [False] * (len(row["points"]) - 1) + [True]
    assert len(row["points"][-1]["problems"]) == 6
