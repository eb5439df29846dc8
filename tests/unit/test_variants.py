"""Prompts in variants: what is asked, under which ids, and that grouping is by prompt."""

from reason_rl.problem.prompt import longest_variant, messages, render_prompts, to_dataset, variants_of
from reason_rl.problem.record import Problem, variant_id, variant_of
from reason_rl.recipe.load import load_recipe
from reason_rl.recipe.schema import PromptSection
from reason_rl.trainer.config import composition
from reason_rl.world.tokenizer import build_tokenizer

PROBLEMS = [Problem(f"p{i}", f"chain {i} + 1", "7", 1) for i in range(40)]
SPEC = PromptSection(variants={"short": " ; no wait", "long": " ; wait again"}, plain_share=0.25)


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
