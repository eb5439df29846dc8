"""Prompts in variants: what is asked, under which ids, and that grouping is by prompt."""

from types import SimpleNamespace

import pytest

from reason_rl.algorithm.curriculum import Cures, PassRateBand
from reason_rl.algorithm.store import Reference, facts, start_store
from reason_rl.evaluate.difficulty import references
from reason_rl.problem.prompt import longest_variant, messages, render_prompts, to_dataset, variants_of
from reason_rl.problem.record import Problem, variant_id, variant_of
from reason_rl.recipe.load import load_recipe
from reason_rl.recipe.schema import PromptSection
from reason_rl.run_folder import RunFolder
from reason_rl.trainer import train
from reason_rl.trainer.config import composition
from reason_rl.trainer.reference import by_prompt
from reason_rl.trainer.reward_trial import trial_batch
from reason_rl.world.tokenizer import build_tokenizer

PROBLEMS = [Problem(f"p{i}", f"chain {i} + 1", "7", 1) for i in range(40)]
SPEC = PromptSection(variants={"short": " ; no wait", "long": " ; wait again"}, plain_share=0.25)


class Built(Exception):
    """Ends the building of a trainer where all of its parts are there."""


def test_each_problem_is_asked_once_in_each_variant_and_some_plainly():
    dataset = to_dataset(PROBLEMS, SPEC)
    asked = list(zip(dataset["problem_id"], dataset["variant"], strict=True))
    assert len(set(asked)) == len(asked)
    assert {variant for _, variant in asked} == {"short", "long", "plain"}
    assert sum(variant == "short" for _, variant in asked) == 40
    assert 4 <= sum(variant == "plain" for _, variant in asked) <= 16
    assert all(variant_of(name) == variant for name, variant in asked)
    first = {
        variant: prompt[0]["content"] for prompt, variant in zip(dataset["prompt"][:2], ("short", "long"), strict=True)
    }
    assert first == {"short": "chain 0 + 1 ; no wait", "long": "chain 0 + 1 ; wait again"}


def test_a_variant_stands_where_the_template_has_a_place_for_it():
    spec = PromptSection(template="{variant}{prompt}", variants={"short": "10 "})
    assert messages(PROBLEMS[0], spec, "short")[0]["content"] == "10 chain 0 + 1"
    assert messages(PROBLEMS[0], spec)[0]["content"] == "chain 0 + 1"


def test_which_problems_are_asked_plainly_depends_on_their_ids_alone():
    chosen = [problem.id for problem in PROBLEMS if "plain" in variants_of(problem, SPEC)]
    again = [problem.id for problem in reversed(PROBLEMS) if "plain" in variants_of(problem, SPEC)]
    assert chosen == again[::-1]
    assert all(variants_of(problem, PromptSection()) == ["plain"] for problem in PROBLEMS)


def test_without_variants_nothing_changes():
    dataset = to_dataset(PROBLEMS, PromptSection())
    assert "variant" not in dataset.column_names
    assert dataset["problem_id"] == [problem.id for problem in PROBLEMS]


def test_ids_of_variants_go_there_and_back():
    assert variant_of(variant_id("mail@home", "short")) == "short"
    assert variant_id("p1", "plain") == "p1"


def test_evaluation_asks_for_one_variant_and_the_longest_is_checked_to_fit():
    tokenizer = build_tokenizer()
    plain, long = (
        render_prompts(PROBLEMS[:1], tokenizer, spec)[0] for spec in (SPEC, SPEC.model_copy(update={"ask": "long"}))
    )
    assert len(long) == len(plain) + 3
    assert longest_variant(SPEC).ask == "long"
    assert longest_variant(PromptSection()).ask is None
    assert messages(PROBLEMS[0], SPEC)[0]["content"] == "chain 0 + 1"


def test_the_tiny_levels_are_words_of_the_tiny_tokenizer():
    recipe = load_recipe("tiny/tldr").recipe
    tokenizer = build_tokenizer()
    texts = list(recipe.prompt.variants.values())
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert all(tokenizer.unk_token_id not in row for row in ids)
    assert len({tuple(row) for row in ids}) == 3
    assert composition(recipe, recipe.reward_file()).variants == ("short", "medium", "long", "plain")


def test_all_variants_of_a_prompt_have_the_reference_of_their_problem():
    measured = {"p0": Reference(4, 4, 50.0), "p1": Reference(4, 0, 90.0), "gone": Reference(4, 2, 70.0)}
    found = by_prompt(measured, PROBLEMS[:3], PromptSection(variants=SPEC.variants, plain_share=1.0))
    assert set(found) == {"p0", "p0@short", "p0@long", "p1", "p1@short", "p1@long"}
    cures = Cures(0.1, 0.9, 4)
    store = start_store([cures], found)
    assert facts(store, ["p0@short", "p1"])["reference_accuracy"].tolist() == [1.0, 0.0]
    assert PassRateBand(0.1, 1.0, 0.05).weights(store, ["p0@long", "p1@long"]).tolist() == [1.0, 0.05]
    assert cures.probe(store, [*found, "p2@short"]).problem_ids == ("p2@short",)
    assert by_prompt(measured, PROBLEMS, PromptSection()) is measured


def test_every_row_that_is_trained_on_has_its_reference(tmp_path, monkeypatch):
    changes = ["prompt.template='{variant}{prompt}'", "prompt.variants={short: '10 '}", "prompt.plain_share=0.25"]
    recipe = load_recipe("tiny/o1_pruner", [*changes, "data.count=40"]).recipe
    inputs = train.training_inputs(recipe)
    assert set(to_dataset(inputs.problems, recipe.prompt)["problem_id"]) - set(references(recipe))
    tried = trial_batch(inputs.method, recipe, inputs.problems, inputs.tokenizer)
    assert any("@" in name for name in tried.problem_id)
    assert not tried.known["reference_accuracy"].isnan().any()

    def build(**given):
        assert set(given["train_dataset"]["problem_id"]) == set(given["references"])
        raise Built

    monkeypatch.setattr(train, "ReasonGRPOTrainer", build)
    with pytest.raises(Built):
        train._build(recipe, RunFolder(tmp_path), SimpleNamespace(), None, None)
