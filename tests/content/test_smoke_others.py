"""Every recipe of the other folders that trains makes its two smoke steps."""

import pytest

from reason_rl.content import shipped_recipes
from reason_rl.recipe.load import load_recipe

NAMES = [
    name
    for name, path in sorted(shipped_recipes().items())
    if not name.startswith("r1_distill_1.5b/")
    and not name.endswith("base")
    and load_recipe(path).recipe.task in ("train", "dpo", "sft")
]


def test_every_folder_is_among_them():
    assert {name.split("/")[0] for name in NAMES} == {"qwen3_1.7b", "r1_distill_7b", "smollm", "tiny"}
    assert {"tiny/dler_rpa", "tiny/dler_rpa_guardian", "tiny/probe_exit"} <= set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_its_two_steps_are_made(name, smoke_run):
    smoke_run(name)
