"""Group length rewards: numbers worked out by hand, groups without spread, and what must hold of all of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.algorithm.group_reward import (
    adaptive_bonus,
    difficulty_budget,
    distance_to_shortest,
    easy_length_penalty,
    efficient,
    lead,
    relative_length,
    shortest_right_share,
)
from reason_rl.errors import RecipeError
from reason_rl.rollout.batch import example_batch

RIGHT = [1, 1, 1, 0]
LENGTHS = [1000, 2000, 3000, 4000]
REWARDS = {
    "kimi": relative_length(),
    "efficient": efficient(0.4),
    "alp": easy_length_penalty(0.2, 4000),
    "shorter": distance_to_shortest(2.0, 0.001),
    "dast": difficulty_budget(4096),
    "lead": lead(0.05, 40),
    "lead_ungated": lead(0.05, 0),
    "self_rewarded": shortest_right_share(0.5, dynamic=True),
    "dr_saf": adaptive_bonus(0.05, 0.95, 0.3),
}
names = pytest.mark.parametrize("name", REWARDS)


@pytest.mark.parametrize(
    ("reward", "right", "lengths", "expected"),
    [
        (relative_length(), RIGHT, LENGTHS, [0.5, 1 / 6, -1 / 6, -0.5]),
        (relative_length(), [0] * 4, LENGTHS, [0.0, 0.0, -1 / 6, -0.5]),
        (efficient(0.1), RIGHT, LENGTHS, [0.97729, 0.95, 0.92271, 0.0]),
        (efficient(0.4), RIGHT, LENGTHS, [0.909159, 0.8, 0.690841, 0.0]),
        (efficient(0.4), [1, 0, 0, 0], LENGTHS, [0.8, 0.0, 0.0, 0.0]),
        (efficient(0.2), [1] * 3, [800, 1200, 1600], [0.954579, 0.9, 0.845421]),
        (easy_length_penalty(0.2, 4000), [1] * 4, LENGTHS, [0.95, 0.9, 0.85, 0.8]),
        (easy_length_penalty(0.2, 4000), [0] * 4, LENGTHS, [-0.0125, -0.025, -0.0375, -0.05]),
        (distance_to_shortest(2.0, 0.001), RIGHT, LENGTHS, [2.0, 1.0, 0.0, -3.0]),
        (distance_to_shortest(2.0, 0.001), [0] * 4, LENGTHS, [-1.5, -0.5, -0.5, -1.5]),
        (difficulty_budget(4096), RIGHT, LENGTHS, [0.801902, 0.603803, 0.405705, -0.1]),
        (lead(0.05, 4000), RIGHT, [5000, 6000, 7000, 8000], [1.051271, 1.0, 0.951229, -1.0]),
        (lead(0.05, 4000), RIGHT, LENGTHS, [1.0, 1.0, 1.0, -1.0]),
        (shortest_right_share(0.5, dynamic=False), RIGHT, LENGTHS, [0.5, 0.25, 1 / 6, 0.0]),
        (shortest_right_share(0.5, dynamic=True), RIGHT, LENGTHS, [0.375, 0.1875, 0.125, 0.0]),
        (adaptive_bonus(0.05, 0.95, 0.3), RIGHT, LENGTHS, [0.0] * 4),
        (adaptive_bonus(0.05, 0.95, 0.3), [1, 0, 0, 0], [1000, 2000, 3000, 900], [0.0, 0.05, 0.05, 0.0]),
    ],
)
def test_worked_numbers(reward, right, lengths, expected):
    assert reward(example_batch(right, lengths)).tolist() == pytest.approx(expected, abs=1e-5)


def test_dr_saf_pays_the_shorter_half_of_an_easy_problem():
    got = adaptive_bonus(0.05, 0.95, 0.3)(example_batch([1] * 12, range(100, 1300, 100)))
    assert got.tolist() == pytest.approx([0.05] * 6 + [0.0] * 6)


@pytest.mark.parametrize(
    ("right", "wrong", "budget"),
    [
        ([400, 800, 1600, 3200, *[566] * 8, *[568] * 4], [], 800),
        ([1399, 2798, *[1300] * 3, *[1301] * 3], [1399, 2798, 5596, 11192, *[900] * 4], 2798),
        ([5596, 1399, *[834] * 5, 835], [1399, 2798, 5596, 11192, *[900] * 4], 2798),
        ([11192, *[115] * 6, 118], [1399, 2798, 5596, 11192, *[900] * 4], 2798),
        ([], [2048, 4096, 8192, 16384, *[4096] * 12], 4096),
    ],
)
def test_dast_at_multiples_of_its_budget(right, wrong, budget):
    batch = example_batch([1] * len(right) + [0] * len(wrong), right + wrong)
    rewards = difficulty_budget(4096)(batch).tolist()
    at = {budget // 2: (0.75, -0.55), budget: (0.5, -0.1), 2 * budget: (0.1, -0.1), 4 * budget: (0.1, -0.1)}
    for verdict, lengths, got in ((0, right, rewards), (1, wrong, rewards[len(right) :])):
        for length, value in zip(lengths, got, strict=False):
            if length in at:
                assert value == pytest.approx(at[length][verdict], abs=1e-5)


def test_three_of_ten_right_are_a_hard_problem():
    got = adaptive_bonus(0.05, 0.95, 0.3)(example_batch([1] * 3 + [0] * 7, [50] * 10))
    assert got.tolist() == pytest.approx([0.0] * 3 + [0.05] * 7)


@pytest.mark.parametrize(
    "build",
    [lambda: efficient(1.0), lambda: efficient(-0.1), lambda: difficulty_budget(0), lambda: easy_length_penalty(-1, 9)],
)
def test_constants_without_meaning_are_refused(build):
    with pytest.raises(RecipeError):
        build()


@st.composite
def groups(draw, *, right=None):
    """Draw verdicts and completion tokens of one group."""
    size = draw(st.integers(1, 8))
    flags = st.lists(st.booleans(), min_size=size, max_size=size)
    verdicts = draw(flags) if right is None else [right] * size
    return [float(v) for v in verdicts], draw(st.lists(st.integers(1, 4000), min_size=size, max_size=size))


@names
@given(group=groups(), data=st.data())
def test_the_order_of_a_group_does_not_matter(name, group, data):
    right, lengths = group
    order = data.draw(st.permutations(range(len(right))))
    straight = REWARDS[name](example_batch(right, lengths))
    shuffled = REWARDS[name](example_batch([right[i] for i in order], [lengths[i] for i in order]))
    torch.testing.assert_close(shuffled, straight[list(order)])


@names
@given(first=groups(), data=st.data())
def test_groups_do_not_see_each_other(name, first, data):
    size = len(first[0])
    right = data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=size, max_size=size))
    lengths = data.draw(st.lists(st.integers(1, 4000), min_size=size, max_size=size))
    both = REWARDS[name](example_batch(first[0] + right, first[1] + lengths, group_size=size))
    torch.testing.assert_close(both[:size], REWARDS[name](example_batch(*first)))


@pytest.mark.parametrize("name", ["efficient", "dast", "lead", "self_rewarded"])
@given(group=groups())
def test_any_right_answer_beats_any_wrong_one(name, group):
    right, lengths = group
    got = REWARDS[name](example_batch(right, lengths))
    verdicts = torch.tensor(right) == 1
    if verdicts.any() and not verdicts.all():
        assert got[verdicts].min() > got[~verdicts].max()


def test_a_long_right_answer_loses_to_a_wrong_one_under_shorter_better():
    got = REWARDS["shorter"](example_batch([1, 1, 0], [100, 4000, 150]))
    assert got[1] < got[2]


@pytest.mark.parametrize("name", ["kimi", "efficient", "dast", "lead", "self_rewarded"])
@given(group=groups(right=1.0))
def test_among_right_answers_shorter_is_never_worse(name, group):
    right, lengths = group
    got = REWARDS[name](example_batch(right, lengths))[torch.tensor(lengths).argsort(stable=True)]
    assert (got.diff() <= 1e-6).all()


@pytest.mark.parametrize("name", ["kimi", "efficient", "self_rewarded", "lead_ungated"])
@given(group=groups(), factor=st.integers(2, 9))
def test_only_the_ratio_of_lengths_counts(name, group, factor):
    right, lengths = group
    longer = REWARDS[name](example_batch(right, [factor * n for n in lengths]))
    torch.testing.assert_close(longer, REWARDS[name](example_batch(right, lengths)), atol=1e-4, rtol=1e-4)


@names
@pytest.mark.parametrize("right", [[0.0] * 3, [1.0] * 3, [1.0, 0.0, 0.0]])
@pytest.mark.parametrize("length", [0, 1, 500])
def test_groups_without_spread_give_finite_numbers(name, right, length):
    assert REWARDS[name](example_batch(right, [length] * 3)).isfinite().all()
    assert REWARDS[name](example_batch(right[:1], [length])).isfinite().all()


@names
def test_a_cut_rollout_counts_as_wrong(name):
    cut = REWARDS[name](example_batch([1, 1, 0], [30, 90, 60], cut=[False, True, False]))
    torch.testing.assert_close(cut, REWARDS[name](example_batch([1, 0, 0], [30, 90, 60])))
