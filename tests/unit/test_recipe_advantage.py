"""Advantage settings that would fail, or silently mean something else, are refused with their key."""

import pytest

from reason_rl.errors import RecipeError
from reason_rl.recipe.load import load_recipe


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("tiny/grpo", ["select_rows=4"], "select_rows: select: shortest or token_efficiency goes together with"),
        ("tiny/grpo", ["select=shortest"], "goes together with either select_rows or select_by_difficulty"),
        ("tiny/gfpo", ["select_by_difficulty=[4, 4, 3, 2]"], "goes together with either"),
        ("tiny/gfpo", ["select_rows=8"], "8 of 8 rollouts a problem selects nothing"),
        ("tiny/gfpo_adaptive", ["select_by_difficulty=[9, 8, 8, 8]"], "selects nothing of 8 rollouts"),
        ("tiny/canon", ["scale=group_std"], "scale: group_std is not for baseline halves"),
        ("tiny/bnpo", ["baseline=boundary"], "baseline: boundary is not for scale beta"),
        ("tiny/canon", ["correct_bonus=0.1"], "correct_bonus: is not for baseline halves"),
        ("tiny/canon", ["select=shortest", "select_rows=4"], "select: shortest leaves no halves"),
        ("tiny/grpo", ["long_half_weight=0.9"], "long_half_weight: is for baseline halves only"),
        ("tiny/grpo", ["between_halves=accuracy"], "between_halves: is for baseline halves only"),
        ("tiny/grpo", ["halves_by=surprise"], "halves_by: is for baseline halves only"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(recipe, changes, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, [f"algorithm.advantage.{change}" for change in changes])
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["gfpo", "gfpo_efficiency", "gfpo_adaptive", "canon", "canon_entropy"])
def test_the_shipped_ones_are_not(name):
    assert load_recipe(f"tiny/{name}").recipe.algorithm is not None
