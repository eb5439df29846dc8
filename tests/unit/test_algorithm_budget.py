"""Budgets and schedules: the numbers of the sheets, bounds, periods, milestones, tiers."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.algorithm.budget import (
    CycleBudget,
    FixedBudget,
    HistoryBudget,
    PassRateBudget,
    StairsBudget,
    make_budget,
)
from reason_rl.algorithm.reward import correctness, product
from reason_rl.algorithm.schedule import cycle, cycle_end, stairs
from reason_rl.algorithm.store import Observed, Reference, Store, after_generation
from reason_rl.algorithm.tiers import group_pass_rate, tier_tokens, within_tier
from reason_rl.errors import RecipeError
from reason_rl.rollout.batch import example_batch

LOW, HIGH, PERIOD = 8192, 16384, 640
SHAPES = ("cosine", "stair", "stair_cosine")
# rollout batch: cosine, stair, stair_cosine
WORKED = {
    0: (16384, 8192, 16384),
    80: (15184.309, 8192, 16384),
    120: (13855.471, 8192, 15184.309),
    160: (12288, 8192, 12288),
    200: (10720.529, 8192, 9391.691),
    240: (9391.691, 8192, 8192),
    320: (8192, 16384, 8192),
    400: (9391.691, 16384, 8192),
    480: (12288, 16384, 12288),
    560: (15184.309, 16384, 16384),
    640: (16384, 8192, 16384),
    1600: (8192, 16384, 8192),
}


@pytest.mark.parametrize("generation", WORKED)
def test_cycles_of_the_worked_example(generation):
    got = [cycle(generation, shape, LOW, HIGH, PERIOD) for shape in SHAPES]
    assert got == pytest.approx(WORKED[generation], abs=6e-4)


@given(st.integers(0, 5000), st.sampled_from(SHAPES), st.integers(1, 90), st.integers(0, 90), st.integers(1, 64))
def test_cycles_stay_in_bounds_and_repeat(generation, shape, low, width, period):
    value = cycle(generation, shape, low, low + width, period)
    assert low - 1e-9 <= value <= low + width + 1e-9
    assert value == pytest.approx(cycle(generation + period, shape, low, low + width, period))
    if shape != "stair":
        assert value == pytest.approx(cycle(-generation % period, shape, low, low + width, period))
        steepest = math.pi * width / period * (1 if shape == "cosine" else 2)
        assert abs(cycle(generation + 1, shape, low, low + width, period) - value) <= steepest + 1e-9


def test_the_mean_of_a_cosine_cycle_is_the_middle_and_a_stair_has_two_values():
    values = [cycle(t, "cosine", LOW, HIGH, PERIOD) for t in range(PERIOD)]
    assert sum(values) / PERIOD == pytest.approx((LOW + HIGH) / 2)
    assert {cycle(t, "stair", LOW, HIGH, PERIOD) for t in range(PERIOD)} == {LOW, HIGH}
    assert cycle(17, "cosine", 64, 64, 12) == 64


def test_models_at_the_ends_of_half_cycles_are_kept():
    kept = [cycle_end(done, PERIOD) for done in range(1921)]
    assert {done: name for done, name in enumerate(kept) if name} == {
        320: "low-1",
        640: "high-1",
        960: "low-2",
        1280: "high-2",
        1600: "low-3",
        1920: "high-3",
    }


def test_stairs_go_down_and_stay():
    budget = StairsBudget((4000, 3000, 2000), 100)
    caps = [budget.assign(["a"], {}, Store(generation=t), 0, 0.0).item() for t in (0, 99, 100, 200, 1000)]
    assert caps == [4000, 4000, 3000, 2000, 2000]
    assert budget.largest() == 4000
    kept = {done: budget.milestone(done) for done in (0, 50, 100, 200, 300, 400)}
    assert kept == {0: None, 50: None, 100: "stage-1", 200: "stage-2", 300: "stage-3", 400: None}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cycle(0, "cosine", 10, 5, 4), "low_tokens 10"),
        (lambda: cycle(0, "cosine", 0, 5, 4), "low_tokens 0"),
        (lambda: CycleBudget("cosine", 5, 10, 0), "cycle of 0"),
        (lambda: CycleBudget("saw", 5, 10, 4), "unknown shape 'saw'"),
        (lambda: stairs(0, [2000, 3000], 10), "do not fall"),
        (lambda: StairsBudget((3000, 2000), 0), "every: 0"),
        (lambda: PassRateBudget((0.5,), (4000,)), "one length more"),
        (lambda: PassRateBudget((0.5,), (2000, 4000)), "lengths that fall"),
        (lambda: within_tier([0.5, 0.2], [3, 2, 1]), "thresholds that rise"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(call, message):
    with pytest.raises(RecipeError, match=message):
        call()


def test_the_cap_of_a_cycle_is_whole_and_the_same_for_all_rows():
    budget = CycleBudget("cosine", LOW, HIGH, PERIOD)
    for t, cap in ((0, 16384), (80, 15184), (120, 13855), (200, 10721), (240, 9392)):
        assert budget.assign(["a", "b"], {}, Store(generation=t), 0, 0.0).tolist() == [cap, cap]


def test_a_right_answer_ending_at_9000_is_worth_what_the_cap_of_its_batch_allows():
    worth = []
    for t in (0, 320, 240):
        cap = round(cycle(t, "cosine", LOW, HIGH, PERIOD))
        batch = example_batch([1], [min(9000, cap)], cut=[cap < 9000], budget=cap)
        worth.append(product(correctness(), lambda b: (~b.truncated).float())(batch).item())
    assert worth == [1.0, 0.0, 1.0]


def test_tiers_of_the_worked_example():
    assert tier_tokens(torch.tensor([0.5, 0.25, 1.0]), [0.5], [4000, 2000]).tolist() == [2000, 4000, 2000]
    assert tier_tokens(torch.tensor([5 / 8]), [0.5], [4000, 2000]).tolist() == [2000]
    batch = example_batch([1, 1, 0, 1], [1500, 2000, 900, 2600])
    assert group_pass_rate(batch).tolist() == [0.75] * 4
    assert product(correctness(), within_tier([0.5], [4000, 2000]))(batch).tolist() == [1, 1, 0, 0]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 99)), min_size=8, max_size=8), st.integers(1, 59))
def test_a_lower_target_never_raises_a_reward(rows, short):
    batch = example_batch([float(r) for r, _ in rows], [n for _, n in rows], group_size=4)
    loose, tight = (product(correctness(), within_tier([0.5], [99, n]))(batch) for n in (short + 1, short))
    assert (tight <= loose).all()


def test_the_budget_follows_the_last_visit_and_before_it_the_reference():
    policy = PassRateBudget((0.5,), (4000, 2000))
    store = Store(references={"b": Reference(8, 7, 900.0)})
    assert policy.assign(["a", "b"], {}, store, 0, 0.0).tolist() == [4000, 2000]
    store = after_generation(store, [], [Observed("a", (1, 0), (9, 9)), Observed("b", (0, 0), (9, 9))])
    assert policy.assign(["a", "b", "c"], {}, store, 0, 0.0).tolist() == [2000, 4000, 4000]


def test_the_budget_follows_the_right_rollouts():
    policy = HistoryBudget(1.5, 32, 128)
    seen = [Observed("a", (1, 1, 1), (40, 50, 60)), Observed("b", (1, 0), (4, 9)), Observed("c", (1,), (120,))]
    store = after_generation(Store(), [], seen)
    # The 20th percentile of 40, 50, 60 is 44; 1.5 times it 66.
    assert policy.assign(["a", "b", "c", "d"], {}, store, 0, 0.0).tolist() == [66, 32, 128, 128]
    assert policy.largest() == 128


def test_budgets_are_made_from_their_sections():
    sections = {
        FixedBudget(9): {"use": "fixed", "tokens": 9},
        StairsBudget((9, 5), 4): {"use": "stairs", "tokens": [9, 5], "every": 4},
        CycleBudget("stair", 5, 9, 4): {
            "use": "cycle",
            "shape": "stair",
            "low_tokens": 5,
            "high_tokens": 9,
            "period": 4,
        },
        PassRateBudget((0.5,), (9, 5)): {"use": "pass_rate", "thresholds": [0.5], "tokens": [9, 5]},
        HistoryBudget(2.0, 5, 9): {"use": "history", "factor": 2.0, "smallest_tokens": 5, "largest_tokens": 9},
    }
    for policy, section in sections.items():
        assert make_budget(SimpleNamespace(**section)) == policy
        assert policy.largest() == 9
    with pytest.raises(ValueError, match="unknown budget 'free'"):
        make_budget(SimpleNamespace(use="free"))
