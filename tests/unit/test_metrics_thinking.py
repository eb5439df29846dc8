"""Over- and underthinking, reflection words, loops."""

import numpy as np
import pytest

from reason_rl.evaluate.overthinking import (
    REFLECTION_WORDS,
    intermediate_scan,
    is_loop,
    outcome_efficiency,
    reflection,
    underthinking,
)


def test_outcome_efficiency_and_underthinking_of_the_worked_examples():
    first, total = np.array([39.0, 400, 500]), np.array([901.0, 400, 1000])
    assert outcome_efficiency(first, total, np.array([True, True, False])) == pytest.approx(0.3478, abs=5e-5)
    assert underthinking(np.array([200.0, 1000]), np.array([1000.0, 1000])) == pytest.approx(0.40)


def test_a_model_that_stops_at_its_first_answer_scores_its_accuracy():
    right = np.array([True, False, True, True])
    tokens = np.array([10.0, 20, 30, 40])
    assert outcome_efficiency(tokens, tokens, right) == right.mean()


def test_what_forced_answers_say():
    right = np.array([[True, True, True, True], [False, True, True, False], [False, False, False, False]])
    scan = intermediate_scan(right, np.array([[100.0, 200, 300, 400]] * 3))
    assert scan.outcome_efficiency == pytest.approx((0.25 + 0.5 + 0) / 3)
    assert scan.flipped_to_wrong == 0.5
    assert scan.wasted == 0.75
    assert scan.underthinking == pytest.approx((0.5 + 0) / 2)


def test_shares_of_nobody_are_no_numbers():
    scan = intermediate_scan(np.array([[True]]), np.array([[10.0]]))
    assert np.isnan(scan.underthinking)
    assert (scan.wasted, scan.flipped_to_wrong) == (0.0, 0.0)


@pytest.mark.parametrize("word", REFLECTION_WORDS)
def test_each_word_counts_once(word):
    assert reflection([f"So. {word.capitalize()} - so."], [10]).per_response == 1


@pytest.mark.parametrize("text", ["The waiter waited.", "awaits", "checked", "Let me see."])
def test_parts_of_words_do_not_count(text):
    assert reflection([text], [10]).share == 0


def test_rates_of_reflection():
    result = reflection(["wait wait", "", "Let me just check that"], [500, 100, 400])
    assert result.share == pytest.approx(2 / 3)
    assert result.per_response == 1
    assert result.per_kilotoken == 3
    assert reflection([""], [0]).per_kilotoken == 0
    with pytest.raises(ValueError, match="0 texts"):
        reflection([], [])


@pytest.mark.parametrize(
    ("ids", "loop"),
    [
        ([7] * 300, True),
        ([1, 2, 3, 4] * 80, True),
        (list(range(300)), False),
        ([7] * 200, False),
        ([1, 2] * 64 + [0] + [1, 2] * 64, False),
    ],
)
def test_loops_end_with_a_short_period(ids, loop):
    assert is_loop(ids) is loop
