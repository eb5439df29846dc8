"""Recipes of the tasks without rollouts: what each needs, does not read, and refuses."""

import pytest

from reason_rl.errors import RecipeError
from reason_rl.recipe.load import load_recipe

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
