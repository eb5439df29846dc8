"""Every recipe for R1-Distill-Qwen-1.5B that trains all weights makes its two smoke steps."""

import pytest

from reason_rl.content import shipped_recipes
from reason_rl.recipe.load import load_recipe

NAMES = [
    name
    for name, path in sorted(shipped_recipes().items())
    if name.startswith("r1_distill_1.5b/")
    and not name.endswith("base")
    and not name.endswith("_lora")
    and load_recipe(path).recipe.task in ("train", "dpo", "sft")
]


def test_there_are_some():
    assert len(NAMES) > 30


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_its_two_steps_are_made(name, smoke_run):
    smoke_run(name)
