"""Recipes of the tasks without rollouts: what each needs, does not read, and refuses."""

import pytest

from reason_rl.errors import RecipeError
from reason_rl.recipe.load import load_recipe
from reason_rl.recipe.plan import plan
from reason_rl.trainer.offline import check_models

OFFLINE = """\
task: dpo
output: out
data: {use: world, count: 10}
pairs: {short: other, max_tokens: 64}
eval:
  data: {use: world, split: test, count: 10}
  max_tokens: 64
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("trainer.bta=0.1", "trainer.bta: unknown key; did you mean beta?"),
        ("trainer.num_generations=8", "trainer.num_generations: unknown key"),
        ("trainer.seed=1", "trainer.seed: is set by seed; move it there"),
        ("trainer.use_cpu=true", "trainer.use_cpu: is decided by the machine"),
        ("trainer.logging_strategy=epoch", "trainer.logging_strategy: is always steps; set logging_steps"),
        ("update.chunk_rows=4", "update: is for task train; task dpo does not read it"),
        ("rollout.lag=1", "rollout.lag: is for task train; task dpo does not read it"),
        ("rollout.allowance_tokens=7", "rollout.allowance_tokens: is for task train"),
        ("pretrain.seed=4", "pretrain: is for task pretrain; task dpo does not read it"),
        ("~pairs", "pairs: is missing; task dpo needs it"),
        ("algorithm={budget: {use: fixed, tokens: 9}}", "algorithm: is for task train; task dpo does not read it"),
        ("pairs.margin=0.2", "pairs.margin: 0.2 is not below 1 / 12"),
        ("pairs={short: x, max_tokens: 9, group_pairs: 0, instance_pairs: 0}", "nothing to learn from"),
        ("merge={method: ties, models: [a]}", "merge: method ties needs a base"),
        ("merge={method: linear, models: [a, b], weight: [1]}", "merge.weight: unknown key; did you mean weights?"),
        ("task=merge", "merge: is missing; task merge needs it"),
        ("task=sft", "turns: is missing; task sft needs it"),
        ("turns={max_tokens: 9, cut: '('}", "turns.cut: is no regular expression"),
        ("task=train", "pairs: is for task dpo; task train does not read it"),
    ],
)
def test_each_mistake_is_one_clear_line(tmp_path, change, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(OFFLINE)
    load_recipe(path, ["trainer.beta=0.1"])
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, [change])
    assert message in str(caught.value)


def test_a_resolved_recipe_loads_to_itself(tmp_path):
    (tmp_path / "recipe.yaml").write_text(OFFLINE)
    loaded = load_recipe(tmp_path / "recipe.yaml")
    (tmp_path / "again.yaml").write_text(loaded.resolved())
    assert load_recipe(tmp_path / "again.yaml").recipe == loaded.recipe


def test_the_plan_says_what_the_task_does(tmp_path):
    (tmp_path / "recipe.yaml").write_text(OFFLINE)
    recipe = load_recipe(tmp_path / "recipe.yaml", ["trainer.max_steps=40"]).recipe
    assert plan(recipe, None) == {"task": "dpo", "updates": 40}
    assert plan(load_recipe("tiny/merge_selective").recipe, None) == {"task": "merge"}
    assert "pretrain" in plan(load_recipe("tiny/pretrain").recipe, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("trainer.hub_strategy=soon", "trainer: soon is not a valid HubStrategy"),
        ("lora={r: 4, task_type: FOO}", "lora: Invalid task type: 'FOO'"),
    ],
)
@pytest.mark.parametrize("task", ["adar1", "mind_sft"])
def test_what_trl_and_peft_refuse_is_refused_before_sampling(task, change, message):
    with pytest.raises(RecipeError, match=message):
        check_models(load_recipe(f"tiny/{task}", [change]).recipe)
