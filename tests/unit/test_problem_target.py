"""Prompts that ask for a length: drawn once a problem, written into the prompt, told to the reward."""

import pytest
from pydantic import ValidationError

from reason_rl.problem.prompt import messages, target_tokens, to_dataset
from reason_rl.problem.record import Problem
from reason_rl.recipe.schema import PromptSection, TargetTokensSpec

SPEC = PromptSection(template="{prompt} Think for {tokens} tokens.", target_tokens=TargetTokensSpec(low=100, high=4000))
PROBLEMS = [Problem(f"p{number}", f"{number} + {{tokens}}", "1") for number in range(400)]


def test_the_prompt_and_the_reward_hear_the_same_length():
    rows = to_dataset(PROBLEMS[:5], SPEC)
    for problem, row in zip(PROBLEMS, rows, strict=False):
        assert row["prompt"][0]["content"] == f"{problem.prompt} Think for {row['target_tokens']} tokens."


def test_lengths_are_fixed_by_the_problem_and_spread_over_the_range():
    drawn = [target_tokens(problem, SPEC) for problem in PROBLEMS]
    assert drawn == [target_tokens(problem, SPEC) for problem in PROBLEMS]
    assert min(drawn) >= 100
    assert max(drawn) <= 4000
    assert sum(drawn) / len(drawn) == pytest.approx(2050, abs=250)
    assert sum(tokens < 1075 for tokens in drawn) / len(drawn) == pytest.approx(0.25, abs=0.1)


def test_one_length_for_all():
    spec = PromptSection(template="{tokens} {prompt}", target_tokens=TargetTokensSpec(low=512, high=512))
    assert messages(PROBLEMS[0], spec)[0]["content"] == "512 0 + {tokens}"


def test_without_a_range_there_is_no_column():
    assert "target_tokens" not in to_dataset(PROBLEMS[:1], PromptSection()).column_names


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"template": "{prompt} Think for {tokens} tokens."}, "belong together"),
        ({"target_tokens": TargetTokensSpec(low=1, high=2)}, "belong together"),
        ({"template": "Solve it."}, r"has no \{prompt\}"),
        ({"template": "{variant}{prompt}"}, "no variants"),
    ],
)
def test_a_template_that_lacks_what_it_needs_is_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        PromptSection(**keys)


def test_a_range_that_ends_before_it_begins_is_refused():
    with pytest.raises(ValidationError, match="low 9 is above high 3"):
        TargetTokensSpec(low=9, high=3)
