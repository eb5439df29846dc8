"""Preference pairs: the published numbers worked out by hand, limits, and that a draw depends on seed and problem alone."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.algorithm.preference import (
    PairRule,
    Solution,
    gain,
    group_pairs,
    instance_pairs,
    pairs_of,
    prefers_long,
)

K = 12


def solutions(right, tokens=100, mark=""):
    return [Solution(f"{mark}{i}", tokens, i < right) for i in range(K)]


@pytest.mark.parametrize(("long", "short", "wanted"), [(11, 10, True), (10, 10, False), (8, 11, False)])
def test_the_style_of_the_papers_examples(long, short, wanted):
    assert prefers_long(solutions(long), solutions(short), 1 / 24) is wanted


def test_one_more_right_solution_of_twelve_is_enough_for_long():
    margin = PairRule().margin_of(K)
    assert margin == 1 / 24
    for long in range(K + 1):
        for short in range(K + 1):
            assert prefers_long(solutions(long), solutions(short), margin) == (long - short >= 1)


def test_exactly_the_margin_prefers_short():
    assert not prefers_long(solutions(6), solutions(6), 0.0)
    assert not prefers_long(solutions(9), solutions(6), 0.25)
    assert prefers_long(solutions(10), solutions(6), 0.25)


@pytest.mark.parametrize(("long", "short", "wanted"), [(11, 10, 0.0083), (10, 10, -0.0208), (8, 11, -0.1458)])
def test_the_gain_of_the_released_code(long, short, wanted):
    assert gain(solutions(long, 3000), solutions(short, 500), 1 / 24) == pytest.approx(wanted, abs=5e-5)


def test_group_pairs_take_right_ones_over_wrong_ones():
    preferred, other = solutions(2, mark="p"), solutions(10, mark="o")
    pairs = group_pairs("q", preferred, other, 100, random.Random(0))
    assert {(pair.chosen.text, pair.rejected.text) for pair in pairs} == {
        (f"p{i}", f"o{j}") for i in range(2) for j in (10, 11)
    }
    assert all(pair.kind == "group" for pair in pairs)


def test_a_style_that_is_never_wrong_may_be_rejected_all_the_same():
    pairs = group_pairs("q", solutions(1, mark="p"), solutions(K, mark="o"), 100, random.Random(0))
    assert len(pairs) == K
    assert all(pair.rejected.correct for pair in pairs)


def test_equal_texts_are_no_pair():
    assert group_pairs("q", solutions(K), solutions(K), 1000, random.Random(0)) != []
    same = [Solution("x", 5, True)] * 3
    assert group_pairs("q", same, same, 10, random.Random(0)) == []
    assert instance_pairs("q", same, 2, 0.0) == []


def test_instance_pairs_are_the_shortest_against_the_longest_right_ones():
    lengths = {"a": 50, "b": 40, "c": 90, "d": 44, "e": 300}
    some = [Solution(text, tokens, text != "e") for text, tokens in lengths.items()]
    found = [(pair.chosen.text, pair.rejected.text) for pair in instance_pairs("q", some, 2, 0.1)]
    assert found == [("b", "c"), ("b", "a")]
    # 44 against 40 tokens differ by less than a tenth of 44.
    assert len(instance_pairs("q", some, 9, 0.1)) == 2
    assert len(instance_pairs("q", some, 9, 0.0)) == 3


def test_a_preferred_style_without_a_right_solution_gives_nothing():
    assert pairs_of("q", solutions(0, mark="l"), solutions(0, mark="s"), PairRule(), 0) == []
    # A wide margin can prefer a short style that is never right.
    assert pairs_of("q", solutions(3, mark="l"), solutions(0, mark="s"), PairRule(margin=0.5), 0) == []


@given(st.integers(0, K), st.integers(0, K), st.lists(st.integers(1, 500), min_size=2 * K, max_size=2 * K))
def test_limits_and_sides(long_right, short_right, lengths):
    long = [Solution(f"l{i}", lengths[i], i < long_right) for i in range(K)]
    short = [Solution(f"s{i}", lengths[K + i], i < short_right) for i in range(K)]
    pairs = pairs_of("q", long, short, PairRule(), 7)
    kinds = [pair.kind for pair in pairs]
    assert kinds.count("group") <= 4
    assert kinds.count("instance") <= 2
    style = "l" if long_right > short_right else "s"
    for pair in pairs:
        assert pair.chosen.correct
        assert pair.chosen.text.startswith(style)
        assert pair.rejected.text.startswith(style) == (pair.kind == "instance")
        if pair.kind == "instance":
            assert pair.chosen.tokens < pair.rejected.tokens
            assert pair.rejected.correct


def test_a_draw_depends_on_seed_and_problem_alone():
    long, short = solutions(12, mark="l"), solutions(6, mark="s")
    first = pairs_of("q", long, short, PairRule(), 0)
    random.seed(5)
    assert pairs_of("q", long, short, PairRule(), 0) == first
    assert pairs_of("q", long, short, PairRule(), 1) != first
    other = pairs_of("r", long, short, PairRule(), 0)
    assert [pair.chosen for pair in other] != [pair.chosen for pair in first]
