"""What training refuses before anything is sampled: batches that do not fit the updates or the data, rooms too small."""

import pytest

from reason_rl.errors import RecipeError
from reason_rl.problem.sources import load_problems
from reason_rl.recipe.load import load_recipe
from reason_rl.trainer.train import check_enough, training_inputs

SHAPE = ["trainer.per_device_train_batch_size=8", "trainer.steps_per_generation=2", "trainer.num_generations=4"]


def enough(*changes):
    recipe = load_recipe("tiny/dler", [*SHAPE, *changes]).recipe
    check_enough(recipe, load_problems(recipe.data))


@pytest.mark.parametrize(
    ("steps", "iterations", "accumulation", "fine"),
    [(3, 1, 2, False), (2, 1, 3, False), (3, 1, 3, True), (4, 1, 2, True), (2, 1, 4, True), (3, 2, 2, True)],
)
def test_updates_end_where_rollout_batches_do(steps, iterations, accumulation, fine):
    shape = {"steps_per_generation": steps, "num_iterations": iterations, "gradient_accumulation_steps": accumulation}
    changes = [f"trainer.{key}={value}" for key, value in shape.items()]
    if fine:
        assert load_recipe("tiny/dler", changes).recipe.trainer["gradient_accumulation_steps"] == accumulation
        return
    message = rf"trainer\.gradient_accumulation_steps: is {accumulation}, but a rollout batch comes in {steps} parts"
    with pytest.raises(RecipeError, match=message):
        load_recipe("tiny/dler", changes)


def test_each_process_takes_prompts_of_its_own(monkeypatch):
    enough("data.count=4")
    monkeypatch.setenv("WORLD_SIZE", "2")
    enough("data.count=8")
    with pytest.raises(
        RecipeError, match=r"^data: 7 prompts, but a rollout batch takes 8; take more problems or lower "
    ):
        enough("data.count=7")


def test_a_problem_is_a_prompt_in_each_variant():
    variants = "prompt.variants={short: ' ; no wait', long: ' ; wait again'}"
    enough("data.count=2", variants)
    with pytest.raises(RecipeError, match=r"^data: 2 prompts, but a rollout batch takes 4"):
        enough("data.count=1", variants)


def test_a_curriculum_takes_its_turns_from_whole_batches():
    few = "algorithm.curriculum={use: cures, problems: 2}"
    with pytest.raises(RecipeError, match=r"^data: 3 prompts, but a rollout batch takes 4"):
        enough("algorithm.filter={keep: all, refill: false}", few, "data.count=3")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "tiny/dler_vllm",
            ["rollout.vllm={max_model_len: 81}"],
            r"rollout\.vllm\.max_model_len: is 81, but the longest prompt and its budget are 1\d\d tokens",
        ),
        (
            "tiny/anytime_brpo",
            ["algorithm.summaries.tokens=300"],
            r"a budget of 192 with a summary of 301 do not fit into the model's context of 512",
        ),
        (
            "tiny/anytime_brpo",
            ["rollout.engine=vllm", "rollout.vllm={max_model_len: 250}"],
            r"max_model_len: is 250, but the longest prompt and its budget, with a summary, are 2[5-9]\d tokens",
        ),
    ],
)
def test_rooms_hold_the_longest_sequence(name, changes, message):
    with pytest.raises(RecipeError, match=message):
        training_inputs(load_recipe(name, ["data.count=64", *changes]).recipe)


def test_rooms_that_vllm_finds_by_itself_are_not_compared():
    found = training_inputs(load_recipe("tiny/dler_vllm", ["data.count=64", "rollout.vllm={max_model_len: -1}"]).recipe)
    assert 80 < found.longest < 512
