"""HAPO and O1-Pruner: the numbers of the sheets, and which way each reward points."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.algorithm.history_reward import against_reference, own_history
from reason_rl.algorithm.reward import load_reward
from reason_rl.content import content_roots
from reason_rl.errors import RecipeError, RunError
from reason_rl.rollout.batch import example_batch

EX = ([1, 1, 1, 0], [1000, 2000, 3000, 4000])


def reward(name, **parameters):
    return load_reward(content_roots()[-1] / "rewards" / f"{name}.py", **parameters)


def history(correct, length, h, fact="shortest_right"):
    return example_batch(correct, length, known={fact: [float(h)] * len(correct)})


def close(values, expected):
    torch.testing.assert_close(values, torch.tensor(expected), atol=1e-4, rtol=0)


def test_hapo_of_the_worked_example():
    close(own_history()(history(*EX, 2000)), [0.707107, 0.0, -0.7, -1.0])
    close(reward("hapo")(history(*EX, 2000)), [1.707107, 1.0, 0.3, -1.0])
    close(own_history()(history([0, 0], [1000, 3000], 2000)), [0.0, -0.707107])


def test_hapo_of_the_other_worked_example():
    close(own_history()(history([1] * 4, [500, 1000, 1333, 1500], 1000)), [0.7071, 0.0, -0.4995, -0.7])
    close(own_history()(history([0] * 5, [500, 1000, 1333, 1500, 2000], 1000)), [0.0, 0.0, -0.4995, -0.7071, -1.0])


def test_hapo_linear():
    values = own_history(shape="linear")(history([1, 1, 1, 0], [1000, 2100, 3000, 4000], 2000))
    close(values, [0.5, 0.0, -0.4, -0.9])


@pytest.mark.parametrize(("mode", "fact"), [("min", "shortest_right"), ("mean", "mean_right"), ("low", "low_right")])
def test_each_mode_reads_its_own_history(mode, fact):
    close(own_history(mode)(history([1], [1000], 2000, fact)), [0.707107])


def test_without_history_hapo_is_correctness_and_unscored_stays_unscored():
    assert reward("hapo")(history(*EX, math.nan)).tolist() == [1, 1, 1, 0]
    assert reward("hapo")(history([math.nan], [10], 20))[0].isnan()


@given(st.floats(10, 200), st.lists(st.integers(1, 500), min_size=2, max_size=8), st.sampled_from(["cosine", "linear"]))
def test_hapo_prefers_short_and_any_right_answer_to_any_wrong_one(h, lengths, shape):
    right, wrong = (reward("hapo", shape=shape)(history([c] * len(lengths), sorted(lengths), h)) for c in (1.0, 0.0))
    assert (right.diff() <= 1e-6).all()
    assert (wrong.diff() <= 1e-6).all()
    assert right.min() >= 0.3 - 1e-6
    assert wrong.max() <= 0


@given(st.integers(10, 200), st.lists(st.integers(1, 500), min_size=2, max_size=8), st.integers(2, 9))
def test_hapo_sees_the_ratio_of_lengths_alone(h, lengths, factor):
    for shape in ("cosine", "linear"):
        verdicts = [float(i % 2) for i in range(len(lengths))]
        one, other = history(verdicts, lengths, h), history(verdicts, [factor * n for n in lengths], factor * h)
        torch.testing.assert_close(own_history(shape=shape)(other), own_history(shape=shape)(one), atol=1e-5, rtol=1e-5)


def test_hapo_refuses_unknown_names():
    with pytest.raises(RecipeError, match="unknown mode 'max'"):
        reward("hapo", mode="max")
    with pytest.raises(RecipeError, match="unknown shape 'step'"):
        reward("hapo", shape="step")


@pytest.mark.parametrize(
    ("alpha", "expected"), [(2.0, [2.0, 0.75, 0.333333, -1.875]), (5.0, [2.75, 1.5, 1.083333, -2.0])]
)
def test_o1_pruner_of_the_worked_example(alpha, expected):
    known = {"reference_tokens": [2500.0] * 4, "reference_accuracy": [0.75] * 4}
    close(reward("o1_pruner", accuracy_weight=alpha)(example_batch(*EX, known=known)), expected)


@given(st.lists(st.integers(0, 500), min_size=2, max_size=8), st.floats(1, 400), st.floats(0, 1))
def test_o1_pruner_prefers_short_stays_in_bounds_and_takes_an_empty_answer(lengths, tokens, accuracy):
    rows = len(lengths)
    known = {"reference_tokens": [tokens] * rows, "reference_accuracy": [accuracy] * rows}
    values = against_reference(2.0)(example_batch([1.0] * rows, sorted(lengths), known=known))
    assert (values.diff() <= 1e-6).all()
    assert values.min() >= -2
    assert values.max() <= 4


def test_o1_pruner_names_the_problem_without_a_reference():
    known = {"reference_tokens": [10.0, math.nan], "reference_accuracy": [0.5, math.nan]}
    batch = example_batch([1, 1], [5, 5], group_size=1, known=known)
    with pytest.raises(RunError, match=r"problem p1 has no reference; set algorithm\.reference or difficulty\.table"):
        against_reference(2.0)(batch)
