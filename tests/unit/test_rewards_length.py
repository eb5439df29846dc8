"""Pointwise length rewards: numbers worked out by hand."""

import pytest

from reason_rl.algorithm.length_reward import at_most_length, exact_length, short_bonus
from reason_rl.algorithm.reward import correctness, product, truncation
from reason_rl.errors import RecipeError
from reason_rl.rollout.batch import example_batch

LENGTHS = [900, 3000, 4096, 4097, 9000]


@pytest.mark.parametrize(("verdict", "expected"), [(1, [0.5, 0.5, 0.5, 0.0, 0.0]), (0, [0.0] * 5)])
def test_laser_pays_right_answers_up_to_the_target(verdict, expected):
    assert short_bonus(4096)(example_batch([verdict] * 5, LENGTHS)).tolist() == expected


@pytest.mark.parametrize(("verdict", "expected"), [(1, [1, 1, 1, 0, 0]), (0, [-0.5, -0.5, -0.5, 0, 0])])
def test_a_cut_at_the_target_of_laser_pays_right_answers_nothing_and_long_wrong_ones_more_than_short(verdict, expected):
    reward = product(correctness(wrong=-0.5), truncation())
    assert reward(example_batch([verdict] * 5, LENGTHS, cut=[n > 4096 for n in LENGTHS])).tolist() == expected


def test_laser_refuses_a_target_of_nothing():
    with pytest.raises(RecipeError, match="target_tokens 0 is not positive"):
        short_bonus(0)


def asked(correct, length, target, **more):
    return example_batch(correct, length, columns={"target_tokens": (target,) * len(correct)}, **more)


@pytest.mark.parametrize(
    ("reward", "target", "right", "length", "expected"),
    [
        (exact_length(0.0003), 1024, 1, 3000, 0.4072),
        (exact_length(0.0003), 1024, 0, 3000, -0.5928),
        (exact_length(0.0003), 3000, 1, 1024, 0.4072),
        (exact_length(0.0003), 2048, 1, 2048, 1.0),
        (at_most_length(0.0003, 0.5), 1024, 1, 3000, 0.0),
        (at_most_length(0.0003, 0.5), 1024, 0, 3000, 0.0),
        (at_most_length(0.0003, 0.5), 3000, 1, 1024, 1.0),
        (at_most_length(0.0003, 0.5), 2048, 1, 2048, 0.5),
        (exact_length(0.0003), None, 1, 3000, 1.0),
        (at_most_length(0.0003, 0.5), None, 1, 3000, 1.0),
    ],
)
def test_l1_compares_with_the_length_asked_for(reward, target, right, length, expected):
    assert reward(asked([right], [length], target)).tolist() == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize("reward", [exact_length(0.0003), at_most_length(0.0003, 0.5)])
def test_l1_needs_a_length_and_takes_cut_rollouts_for_wrong(reward):
    cut, wrong = reward(asked([1, 0], [64, 64], 64, cut=[True, False]))
    assert cut == wrong
    with pytest.raises(RecipeError, match=r"set prompt\.target_tokens"):
        reward(example_batch([1], [64]))


def test_l1_max_never_rises_with_length_and_a_finished_right_answer_is_never_below_a_wrong_one():
    lengths = list(range(0, 6000, 100))
    right = at_most_length(0.0003, 0.5)(asked([1] * 60, lengths, 2000))
    assert (right.diff() <= 0).all()
    assert right.min() >= 0


def test_a_long_right_answer_loses_to_a_wrong_one_of_the_length_asked_for_under_l1_exact():
    right, wrong = exact_length(0.0003)(asked([1, 0], [5000, 1000], 1000))
    assert right < wrong


@pytest.mark.parametrize(
    "build", [lambda: exact_length(-1.0), lambda: at_most_length(-1.0, 0.5), lambda: at_most_length(1.0, 1.5)]
)
def test_l1_refuses_constants_without_meaning(build):
    with pytest.raises(RecipeError, match="l1: token_"):
        build()
