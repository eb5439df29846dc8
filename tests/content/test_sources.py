"""Every method of the catalogue has a page that names its recipes, and every constant of its recipes a source."""

import json
import re
from pathlib import Path

import pytest

from reason_rl.content import shipped_recipes
from reason_rl.recipe.catalogue import catalogue
from reason_rl.recipe.load import load_recipe

ROOT = Path(__file__).parents[2]
PAGES = {page.stem: page.read_text() for page in sorted((ROOT / "docs" / "methods").glob("*.md"))}
ENTRIES = {entry.name: entry for entry in catalogue()}
FOLDERS = ("tiny", "r1_distill_1.5b", "r1_distill_7b", "qwen3_1.7b")


def trains(name):
    """Return whether this is a recipe of reinforcement learning, or a part of such recipes."""
    return name.endswith("base") or load_recipe(shipped_recipes()[name]).recipe.task == "train"


CATALOGUE = [name for name in shipped_recipes() if name.split("/")[0] in FOLDERS and trains(name)]
METHODS = [name for name in CATALOGUE if name.startswith("tiny/") and name in ENTRIES and ENTRIES[name].method]
PUBLISHED = (
    "dler",
    "da_dler",
    "thinkprune",
    "siri",
    "tldr",
    "laser",
    "laser_d",
    "laser_de",
    "l1_exact",
    "l1_max",
    "kimi_length",
    "o1_pruner",
    "efficient_reasoning",
    "shorter_better",
    "dast",
    "cosine",
    "soft_overlong",
    "alp",
    "hapo",
    "grpo_lead",
    "dr_saf",
    "self_rewarded_efficiency",
    "gfpo",
    "gfpo_efficiency",
    "gfpo_adaptive",
    "canon",
    "canon_entropy",
    "dr_grpo",
    "dapo",
    "bnpo",
    "gspo",
    "cispo",
    "rloo",
    "reinforce_pp",
    "anytime_brpo",
    "adaptthink",
    "cures",
)
OTHERS = ("budget_by_pass_rate", "budget_by_history", "pass_rate_band", "siri_stairs")
FILES = [
    ROOT / "recipes" / f"{name}.yaml"
    for name, path in shipped_recipes().items()
    if name.endswith("base") or load_recipe(path).recipe.task in ("train", "dpo", "sft")
]
SECTIONS = ("algorithm", "trainer", "rollout", "prompt", "update", "lora")
# The shape of a run, which plan prints and other tests compare with the papers'.
SHAPE = {
    "max_steps",
    "num_generations",
    "per_device_train_batch_size",
    "steps_per_generation",
    "gradient_accumulation_steps",
    "save_steps",
}
NUMBER = re.compile(r"(\w+): \[?-?\d")


def unsourced(text):
    """Return the lines that set a number with no comment on the line, on the line before it, or on the block it is in."""
    covered: list[tuple[int, bool]] = []
    found, section, noted = [], None, False
    for line in text.splitlines():
        code, _, comment = line.partition("#")
        indent = len(code) - len(code.lstrip())
        if not code.strip():
            noted = bool(comment)
            continue
        if indent == 0:
            section = code.split(":")[0]
        covered = [(depth, has) for depth, has in covered if depth < indent]
        has = bool(comment) or noted or any(has for _, has in covered)
        covered.append((indent, has))
        noted = False
        names = {match.group(1) for match in NUMBER.finditer(code)}
        if section in SECTIONS and names - SHAPE and not has:
            found.append(line.strip())
    return found


def test_a_number_without_a_source_is_found():
    lines = [
        "algorithm: # ours",
        "  a: 1",
        "trainer:",
        "  # paper",
        "  b: 2",
        "  c: 3",
        "  d: 4 # paper",
        "  max_steps: 9",
    ]
    assert unsourced("\n".join(lines)) == ["c: 3"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_constant_of_a_recipe_has_its_source(path):
    assert unsourced(path.read_text()) == []


def pins(recipe):
    """Yield (name, revision) of the hub repositories of a recipe's model and problems."""
    if "/" in recipe.model.path and not recipe.model.path.startswith("outputs/"):
        yield recipe.model.path, recipe.model.revision
    for data in (recipe.data, recipe.eval and recipe.eval.data):
        if data is not None and data.use == "hub":
            yield data.name, data.revision


def test_a_hub_repository_is_pinned_to_one_commit_of_its_own():
    found = {pin for name in CATALOGUE if name in ENTRIES for pin in pins(load_recipe(shipped_recipes()[name]).recipe)}
    commits = dict(found)
    assert len(commits) == len(found)
    assert {name for name, commit in commits.items() if commit is None} == {"l3lab/L1-Qwen-1.5B-Exact"}
    pinned = [commit for commit in commits.values() if commit]
    assert len(set(pinned)) == len(pinned) >= 6
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in pinned)


def test_recipes_say_measured_where_the_arena_has_them():
    cells = (ROOT / "eval" / "arena" / "cells.jsonl").read_text().splitlines()
    made = {cell["method"] for cell in map(json.loads, cells) if "method" in cell}
    said = {name for name in METHODS if ENTRIES[name].state == "measured"}
    elsewhere = {"tiny/dler_vllm", "tiny/adaptthink_at_once", "tiny/tldr_levels"}  # results/
    assert said - elsewhere == {f"tiny/{name}" for name in made}


def test_every_reward_is_used_by_a_tiny_recipe():
    used = {load_recipe(shipped_recipes()[name]).recipe.algorithm.reward.file for name in METHODS}
    assert used == {f"rewards/{path.name}" for path in (ROOT / "rewards").glob("*.py")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_method_names_its_paper(name):
    assert ENTRIES[f"tiny/{name}"].arxiv == ENTRIES[f"r1_distill_1.5b/{name}"].arxiv is not None


@pytest.mark.parametrize("name", [name for name in ENTRIES if not name.startswith("tiny/") and ENTRIES[name].arxiv])
def test_the_recipe_of_a_real_model_says_what_was_published_or_that_nothing_was(name):
    entry = ENTRIES[name]
    assert entry.published or entry.state == "measured"


@pytest.mark.parametrize("name", [*PUBLISHED, *OTHERS])
def test_every_method_has_its_recipes_for_a_real_model(name):
    assert ENTRIES[f"r1_distill_1.5b/{name}"].state == "not run"
    assert ENTRIES[f"r1_distill_1.5b/{name}_lora"].state == "not run"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_page_that_names_its_recipe(name):
    assert any(f"recipes/{name}.yaml" in text for text in PAGES.values())


@pytest.mark.parametrize("name", [name for name in METHODS if ENTRIES[name].arxiv])
def test_the_page_of_a_method_cites_its_paper(name):
    assert any(f"recipes/{name}.yaml" in text and ENTRIES[name].arxiv in text for text in PAGES.values())
