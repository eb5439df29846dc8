"""Of the other folders, one recipe for each composition that R1-Distill-Qwen-1.5B has none of makes its two smoke steps."""

import pytest

from reason_rl.content import shipped_recipes
from reason_rl.recipe.load import load_recipe

FIRST = "r1_distill_1.5b/"
ADVANTAGE = ("baseline", "select", "halves_by")
PARTS = ("targets", "curriculum", "openings", "summaries", "prices", "reference")


def composition(recipe):
    """Return what a recipe is made of, without its numbers and its model."""
    attention = recipe.attention.model_dump(exclude_none=True) if recipe.attention else {}
    inside = sorted(attention) + sorted(key for part in attention.values() for key in part if key == "guardian")
    made = [recipe.task, recipe.lora is not None, *inside]
    if (algorithm := recipe.algorithm) is not None:
        advantage = algorithm.advantage
        made += [algorithm.reward.file, algorithm.budget.use, algorithm.filter.keep, algorithm.filter.refill]
        made += [getattr(advantage, name) for name in ADVANTAGE] + [advantage.select_by_difficulty is None]
        made += [name for name in PARTS if getattr(algorithm, name)]
        made += [algorithm.curriculum.use] if algorithm.curriculum else []
    return tuple(made)


def chosen():
    seen, found = set(), []
    for name, path in sorted(shipped_recipes().items(), key=lambda item: (not item[0].startswith(FIRST), item[0])):
        if name.endswith("base"):
            continue
        recipe = load_recipe(path).recipe
        if recipe.task in ("train", "dpo", "sft") and (made := composition(recipe)) not in seen:
            seen.add(made)
            found.append(name)
    return [name for name in found if not name.startswith(FIRST)]


NAMES = chosen()


def test_attention_and_probes_are_among_them():
    assert {"tiny/dler_rpa", "tiny/dler_rpa_guardian", "tiny/probe_exit"} <= set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_its_two_steps_are_made(name, smoke_run):
    smoke_run(name)
