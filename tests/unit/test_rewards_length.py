"""Pointwise length rewards: numbers worked out by hand."""

import pytest

from reason_rl.algorithm.length_reward import short_bonus
from reason_rl.errors import RecipeError
from reason_rl.rollout.batch import example_batch

LENGTHS = [900, 3000, 4096, 4097, 9000]


@pytest.mark.parametrize(("verdict", "expected"), [(1, [0.5, 0.5, 0.5, 0.0, 0.0]), (0, [0.0] * 5)])
def test_laser_pays_right_answers_up_to_the_target(verdict, expected):
    assert short_bonus(4096)(example_batch([verdict] * 5, LENGTHS)).tolist() == expected


def test_laser_refuses_a_target_of_nothing():
    with pytest.raises(RecipeError, match="target_tokens 0 is not positive"):
        short_bonus(0)
