"""LASER-D and -DE: tiers, candidates, expected right responses, and the rewards worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.algorithm.advantage import advantages
from reason_rl.algorithm.reward import load_reward
from reason_rl.algorithm.store import Observed, Store, after_probe, start_store
from reason_rl.algorithm.targets import (
    MonitoredTargets,
    candidates,
    least_right,
    monitoring_tier,
    repetitive,
    row_targets,
    smallest_sufficient,
    target_lengths,
    training_tier,
)
from reason_rl.content import content_roots
from reason_rl.errors import RecipeError
from reason_rl.rollout.batch import example_batch

LENGTHS = (1024, 2048, 3072, 4096, 8192, 16384)
COVERAGE = {
    "high": (0.10, 0.18, 0.35, 0.60, 0.97, 1.0),
    "medium": (0.01, 0.05, 0.20, 0.34, 0.55, 1.0),
    "low": (0.0, 0.02, 0.05, 0.10, 0.40, 0.90),
}
BUDGETS = range(4096, 8193, 1024)
OTHER = {"high": (0.05, 0.15, 0.22, 0.35, 0.6), "medium": (0.1, 0.3, 0.45, 0.55, 0.7), "low": (0.1, 0.2, 0.3, 0.4, 0.5)}


def reward(name, **parameters):
    return load_reward(content_roots()[-1] / "rewards" / f"{name}.py", **parameters)


def known(high, rows, medium=8192.0, low=math.inf):
    return {"target_high": [float(high)] * rows, "target_medium": [medium] * rows, "target_low": [low] * rows}


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [("floor", {"high": 3072, "medium": 8192, "low": None}), ("ceil", {"high": 2048, "medium": 4096, "low": None})],
)
def test_targets_of_the_worked_example(rounding, expected):
    least = least_right(8, rounding)
    got = {tier: smallest_sufficient(dict(zip(LENGTHS, c, strict=True)), least[tier]) for tier, c in COVERAGE.items()}
    assert got == expected


def test_targets_of_the_other_worked_example():
    least = least_right(8, "floor")
    got = {tier: smallest_sufficient(dict(zip(BUDGETS, c, strict=True)), least[tier]) for tier, c in OTHER.items()}
    assert got == {"high": 6144, "medium": 7168, "low": None}


def test_least_right_of_eight():
    assert list(least_right(8, "floor").values()) == [5, 2, 1]
    assert list(least_right(8, "ceil").values()) == [6, 3, 1]
    assert list(least_right(2, "floor").values()) == [1, 1, 1]


def test_tiers_have_other_edges_in_training_than_in_monitoring():
    assert [training_tier(*c) for c in ((2, 3), (1, 3), (8, 25))] == ["high", "medium", "low"]
    assert [monitoring_tier(*c) for c in ((3, 3), (2, 3), (1, 3))] == ["high", "medium", "low"]


def test_candidates():
    assert len(candidates(4096, 16384, 1024)) == 13
    assert candidates(512, 4096, 1024) == [512, 1024, 2048, 3072, 4096]
    with pytest.raises(RecipeError, match="from 9 to 5"):
        candidates(9, 5, 1)


@given(st.lists(st.integers(1, 99), min_size=8, max_size=8))
def test_an_easier_tier_has_no_longer_target_for_the_same_lengths(lengths):
    groups = [Observed(str(r), (1.0,) * r + (0.0,) * (8 - r), tuple(lengths)) for r in (8, 4, 1)]
    found = target_lengths(groups, range(10, 100, 10), "floor")
    high, medium, low = (math.inf if found[tier] is None else found[tier] for tier in ("high", "medium", "low"))
    assert high <= medium <= low


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6), st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_more_coverage_never_asks_for_a_longer_target(one, two):
    less, more = ({n: pick(a, b) for n, a, b in zip(LENGTHS, one, two, strict=True)} for pick in (min, max))
    small, large = (smallest_sufficient(coverage, 3) or math.inf for coverage in (more, less))
    assert small <= large


def test_the_group_of_the_worked_example():
    batch = example_batch(
        [1, 1, 1, 1, 1, 1, 0, 0], [800, 1500, 2500, 3000, 3100, 7000, 2000, 9000], budget=16384, known=known(3072, 8)
    )
    got = reward("laser_d")(batch)
    assert got.tolist() == [1.5, 1.5, 1.5, 1.5, 1, 1, -0.5, -0.5]
    expected = torch.tensor([0.713246] * 4 + [0.142649] * 2 + [-1.569141] * 2)
    scaled = advantages(got, 8, baseline="group_mean", scale="group_std")
    # The sheet's epsilon is 1e-6; TRL's, and ours, is 1e-4.
    torch.testing.assert_close(scaled, expected, atol=2e-4, rtol=0)
    assert reward("laser_de")(batch).tolist() == [1.5, 1.5, 1.5, 1.5, 1, 1, -0.5, 0]


def test_all_wrong_rewards_exploration_only_in_de():
    lengths = [900, 3000, 4096, 4097, 9000]
    batch = example_batch([0] * 5, lengths, budget=16384, known=known(4096, 5, low=4096.0))
    assert reward("laser_d")(batch).tolist() == [-0.5] * 5
    assert reward("laser_de")(batch).tolist() == [-0.5, -0.5, -0.5, 0, 0]
    right = example_batch([1] * 5, lengths, budget=16384, known=known(4096, 5))
    assert reward("laser_d")(right).tolist() == reward("laser_de")(right).tolist() == [1.5, 1.5, 1.5, 1, 1]


def test_without_a_bonus_both_are_the_base_score_and_cut_rollouts_explore_nothing():
    batch = example_batch([1, 0, 0], [10, 90, 95], cut=[False, False, True], budget=95, known=known(20, 3, 20.0, 20.0))
    for name in ("laser_d", "laser_de"):
        assert reward(name, bonus=0.0)(batch).tolist() == [1, -0.5, -0.5]
    assert reward("laser_de")(batch).tolist() == [1.5, 0, -0.5]


def test_loops_explore_nothing():
    assert repetitive([1, 2, 3, 4] * 5)
    assert not repetitive(range(20))
    assert not repetitive([1, 2])


def test_each_group_has_the_target_of_its_own_tier():
    batch = example_batch([1, 1, 1, 0, 0, 0], [9] * 6, group_size=2, known=known(10, 6, 20.0, 30.0))
    assert row_targets(batch).tolist() == [10, 10, 20, 20, 30, 30]
    with pytest.raises(RecipeError, match=r"algorithm\.targets: is missing"):
        row_targets(example_batch([1], [9]))


def test_the_monitoring_set_is_fixed_and_measured_every_so_often():
    policy = MonitoredTargets((16, 32, 64), 5, 8, 10, "floor", seed=3)
    names = [f"p{i}" for i in range(40)]
    first, later = (policy.probe(Store(generation=t), names) for t in (0, 20))
    assert first == later
    assert (len(set(first.problem_ids)), first.rollouts) == (5, 8)
    assert policy.probe(Store(generation=5), names) is None


def test_rewards_are_told_the_measured_targets():
    policy = MonitoredTargets((16, 32, 64), 2, 4, 10, "floor", seed=0)
    store = start_store([policy])
    assert policy.known(store, ["a"])["target_low"].tolist() == [16]
    groups = [Observed("a", (1, 1, 1, 1), (10, 20, 30, 40)), Observed("b", (0, 0, 0, 0), (50, 60, 70, 80))]
    store = after_probe(store, policy, groups)
    assert store.states["targets"] == {"high": 32, "medium": None, "low": None}
    assert policy.known(store, ["a", "b"])["target_low"].tolist() == [math.inf, math.inf]
