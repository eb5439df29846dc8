"""Traces in turns: parsing, cutting, and the reward's numbers worked out by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.algorithm.reward import load_reward
from reason_rl.algorithm.turns import Turn, format_turns, parse_turns, several_attempts, split_units
from reason_rl.errors import RecipeError
from reason_rl.rollout.batch import example_batch

MIND = Path(__file__).parents[2] / "rewards" / "mind.py"
T, E = "<think>", "</think>"
TINY_CUT, TINY_CANDIDATE = "(?=wait again)", "[0-9]"
words = st.text("ab \n", min_size=1, max_size=8).filter(lambda text: text.strip())


@given(st.lists(st.tuples(words, words), min_size=1, max_size=5), st.booleans())
def test_what_is_written_is_read_back(pairs, thinks_at_once):
    turns = [Turn(*pair) for pair in pairs]
    if thinks_at_once:
        turns[0] = Turn("", turns[0].answer)
    assert parse_turns(format_turns(turns)) == turns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        f"a{E}",
        f"a{E} ",
        f"a{E}b{T}",
        f"a{E}b{T}c",
        f"a{E}b{T}c{E}",
        f"a{E}b{T}c{E}\n",
        f"{T}a{E}b",
        f"{T}a{E}b{T}c{E}d",
        f"a{T}b{E}c",
        f"a{E}b{E}c",
        f"a{E}{E}c",
        f"a{E}{T}b{E}c",
        f"a{E} {T}b{E}c",
        f"a{E}b{T}{E}c",
        f"a{E}b{T} {E}c",
        f"{E}b{T}{E}c",
        f"a{E}b{T}{T}c{E}d",
        f"a{E}b{T}c{T}d{E}e",
        f"{E}",
    ],
)
def test_malformed_texts_are_no_turns(text):
    assert parse_turns(text) is None


@given(st.text("ab=1 \n", max_size=40), st.integers(0, 3))
def test_units_put_together_are_the_text(text, marks):
    text = "\nWait".join([text] * (marks + 1))
    units = split_units(text)
    assert "".join(units) == text
    assert len(units) <= marks + 1


def test_a_unit_has_to_reach_something_before_the_next_begins():
    assert split_units("so x = 3\nWait, y = 4\nAlternatively z") == ["so x = 3\n", "Wait, y = 4\n", "Alternatively z"]
    assert split_units("Let me think\nWait, y = 4\nBut z") == ["Let me think\nWait, y = 4\n", "But z"]
    assert split_units("x = 1, but Wait is no opening here") == ["x = 1, but Wait is no opening here"]
    passes = "7 12 no 12 30 yes wait 12 30 yes wait again 7 12 no wait again 12 30 yes"
    assert len(split_units(passes, TINY_CUT, TINY_CANDIDATE)) == 3


def test_several_attempts_in_one_thinking():
    assert several_attempts([Turn("a = 1\n", "1"), Turn("b = 2\nWait, b = 3", "3")])
    assert not several_attempts([Turn("a = 1\n", "1"), Turn("Wait, b = 3", "3")])


def scored(texts, correct, cut=None, **params):
    batch = replace(example_batch(correct, [400, 1000, 900, 600][: len(texts)], cut=cut), text=tuple(texts))
    return load_reward(MIND, **params)(batch)


def test_the_reward_and_its_advantages_by_hand():
    good, several = f"x = 1{E}1", f"x = 1\nWait, x = 2{E}2"
    rewards = scored([good, good, several, "x = 1"], [1, 1, 1, 1])
    torch.testing.assert_close(rewards, torch.tensor([2.0, 2.0, 1.7, 0.0]))
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    torch.testing.assert_close(advantages, torch.tensor([0.5986, 0.5986, 0.2863, -1.4835]), atol=5e-5, rtol=0)
    # Averaged over each response, the token of the short right answer weighs most.
    weights = advantages / torch.tensor([400.0, 1000.0, 900.0, 600.0])
    torch.testing.assert_close(weights, torch.tensor([0.0015, 0.0006, 0.0003, -0.0025]), atol=5e-5, rtol=0)
    assert weights[0] / weights[1] == pytest.approx(2.5)


def test_a_cut_rollout_has_no_form_and_turns_cost_only_where_asked():
    text = f"x = 1{E}1{T}y = 1{E}1"
    assert scored([text, text], [1, 1], cut=[False, True]).tolist() == [2.0, 0.0]
    assert scored([text, text], [1, 0], turn_weight=0.9, max_turns=10).tolist() == pytest.approx([1.9, 1.0])


def test_one_turn_at_most_is_no_scale():
    with pytest.raises(RecipeError, match="max_turns 1 is below 2"):
        load_reward(MIND, max_turns=1)


def test_only_the_flags_matter_not_the_words():
    one = scored([f"x = 1{E}1{T}y = 2{E}2"], [1])
    assert torch.equal(one, scored([f"no{E}5{T}so q = 77, i think{E}so 6"], [1]))
