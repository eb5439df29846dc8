"""Curricula: CurES's numbers, the allocation, and what is drawn."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from reason_rl.algorithm.curriculum import (
    Cures,
    PassRateBand,
    allocate,
    draw,
    gradient_noise,
    make_curriculum,
    posterior_mean,
    prompt_weights,
    shares,
)
from reason_rl.algorithm.filter import keep_groups
from reason_rl.algorithm.store import Observed, Reference, Store, after_generation, after_probe, start_store
from reason_rl.errors import RecipeError

SUCCESS = posterior_mean(np.arange(5.0), np.full(5, 4.0))


def test_posterior_of_the_worked_example():
    assert pytest.approx([1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6]) == SUCCESS
    assert posterior_mean(np.array([4.0]), np.array([12.0])) == pytest.approx(5 / 14)
    assert np.sqrt(SUCCESS * (1 - SUCCESS)).round(4).tolist() == [0.3727, 0.4714, 0.5, 0.4714, 0.3727]


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (0.1, [0.0914, 0.2453, 0.3265, 0.2453, 0.0914]),
        (0.5, [0.1746, 0.2127, 0.2253, 0.2127, 0.1746]),
    ],
)
def test_weights_of_the_worked_example(temperature, expected):
    assert prompt_weights(SUCCESS, temperature).round(4).tolist() == expected


def test_weights_are_uniform_when_hot_and_all_on_the_middle_when_cold():
    assert prompt_weights(SUCCESS, 1e6) == pytest.approx([0.2] * 5, abs=1e-6)
    assert prompt_weights(SUCCESS, 1e-4) == pytest.approx([0, 0, 1, 0, 0])


def test_allocation_of_the_worked_example():
    noise = np.sqrt(SUCCESS * (1 - SUCCESS))
    assert shares(noise, 40, 2) == pytest.approx([6.81, 8.62, 9.14, 8.62, 6.81], abs=5e-3)
    assert allocate(noise, 40, 2).tolist() == [7, 9, 9, 8, 7]


@pytest.mark.parametrize(("success", "flat"), [(0.05, 0.8145), (0.25, 0.3203), (0.5, 0.125), (0.9, 0.6562)])
def test_how_often_a_group_of_four_carries_no_signal(success, flat):
    groups = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
    chances = torch.where(groups == 1, success, 1 - success).prod(dim=1)
    dropped = ~keep_groups(groups.flatten(), 4, "non_zero_std")
    assert chances[dropped].sum().item() == pytest.approx(flat, abs=5e-5)


@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=9), st.integers(0, 60), st.integers(1, 3))
def test_allocation_adds_up_keeps_the_floor_and_is_no_worse_than_equal_counts(noise, more, smallest):
    noise = np.array(noise)
    rollouts = smallest * len(noise) + more
    counts = allocate(noise, rollouts, smallest)
    assert counts.sum() == rollouts
    assert counts.min() >= smallest
    shares = rollouts * noise / noise.sum()
    if shares.min() >= smallest:
        assert np.abs(counts - shares).max() < 1
    if rollouts % len(noise) == 0 and shares.min() >= 4:
        variance, equal = ((noise**2 / n).sum() for n in (counts, np.full(len(noise), rollouts / len(noise))))
        # Rounding can cost what one rollout more or less is worth.
        assert variance <= equal * (1 + 1 / shares.min() ** 2)


def test_too_few_rollouts_are_refused():
    with pytest.raises(RecipeError, match="3 rollouts for 2 problems: fewer than 2 each"):
        allocate(np.ones(2), 3, 2)


@pytest.mark.parametrize(
    ("logits", "right", "expected"),
    [
        ([0.3, -0.2, 0.5, 0.1], [1.0, 0.0, 1.0, 0.0], None),
        (np.random.default_rng(1).normal(size=4), [1.0, 0.0, 0.0, 1.0], 0.109202),
    ],
    ids=["ours", "worked"],
)
def test_gradient_noise_is_the_variance_of_a_softmax_policy(logits, right, expected):
    policy, right = np.exp(logits) / np.exp(logits).sum(), np.array(right)
    gradients = np.eye(4) - policy
    success = (policy * right).sum()
    centred = (right - success)[:, None] * gradients
    mean = (policy[:, None] * centred).sum(axis=0)
    variance = (policy * (centred**2).sum(axis=1)).sum() - (mean**2).sum()

    def under(verdict):
        weights = policy * (right == verdict) / (policy * (right == verdict)).sum()
        return (weights * (gradients**2).sum(axis=1)).sum(), (weights[:, None] * gradients).sum(axis=0)

    (norm_right, mean_right), (norm_wrong, mean_wrong) = under(1), under(0)
    # With E[r g] = p E1 g and E[g] = 0 the mean of (r - p) g is p (1 - p) (E1 g - E0 g).
    noise = gradient_noise(success, norm_right, norm_wrong, ((mean_right - mean_wrong) ** 2).sum())
    assert noise == pytest.approx(variance, abs=1e-12)
    assert expected is None or noise == pytest.approx(expected, abs=5e-7)
    assert gradient_noise(0.5, 0.0, 0.0, 1.0) == 0


def test_draws_follow_the_weights_do_not_repeat_and_are_seeded():
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    firsts = np.bincount([draw(weights, 1, seed)[0] for seed in range(4000)], minlength=4)
    assert chisquare(firsts, 4000 * weights).pvalue > 0.01
    assert sorted(draw(weights, 4, 1)) == [0, 1, 2, 3]
    assert draw(weights, 3, 5) == draw(weights, 3, 5)
    assert draw(np.array([0.0, 1.0, 0.0]), 1, 9) == [1]
    with pytest.raises(RecipeError, match="2 problems, 3 are to be drawn"):
        draw(np.ones(2), 3, 0)


def test_a_band_prefers_what_is_in_it_and_what_is_unknown():
    store = start_store([], {"d": Reference(4, 4, 9.0)})
    seen = [Observed("a", (1, 0), (9, 9)), Observed("b", (0, 0), (9, 9))]
    band = PassRateBand(0.1, 0.9, 0.05)
    store = after_generation(store, [], seen)
    assert band.weights(store, ["a", "b", "c", "d"]).tolist() == [1, 0.05, 1, 0.05]


def test_cures_asks_for_every_problem_once_but_for_those_of_a_table():
    policy = Cures(0.1, 0.9, 4)
    store = start_store([policy], {"b": Reference(4, 2, 9.0)})
    assert policy.probe(store, ["a", "b", "c"]).problem_ids == ("a", "c")
    assert policy.probe(start_store([policy], {"a": Reference(4, 2, 9.0)}), ["a"]) is None
    assert policy.probe(after_generation(store, [policy], []), ["a", "b", "c"]) is None
    assert Cures(0.1, 0.9, 0).probe(store, ["a"]) is None


def test_cures_counts_the_probe_the_generations_and_forgets():
    policy = Cures(0.1, 1.0, 4)
    store = start_store([policy], {"b": Reference(4, 2, 9.0)})
    store = after_probe(store, policy, [Observed("a", (1, 0, 0, 0), (9,) * 4)])
    assert policy.success(store, ["a", "b", "c"]) == pytest.approx([1 / 3, 1 / 2, 1 / 2])
    store = after_generation(store, [policy], [Observed("a", (1, 1, 1, 0, 0, 0, 0, 0), (9,) * 8)])
    assert policy.success(store, ["a"]) == pytest.approx([5 / 14])
    assert Cures(0.1, 0.5, 4).after_generation({"a": [4.0, 8.0]}, []) == {"a": [2.0, 4.0]}


def test_a_problem_of_a_table_goes_on_from_its_reference():
    policy = Cures(0.1, 1.0, 4)
    store = after_generation(
        start_store([policy], {"b": Reference(4, 2, 9.0)}), [policy], [Observed("b", (1, 1), (9, 9))]
    )
    assert policy.success(store, ["b"]) == pytest.approx([(4 + 1) / (6 + 2)])


def test_curricula_are_made_from_their_sections():
    assert make_curriculum(None) is None
    band = SimpleNamespace(use="band", low=0.1, high=0.9, outside_weight=0.05)
    assert make_curriculum(band) == PassRateBand(0.1, 0.9, 0.05)
    cures = SimpleNamespace(use="cures", temperature=0.1, decay=0.9, probe_rollouts=4, problems=8)
    assert make_curriculum(cures) == Cures(0.1, 0.9, 4, 8)
    with pytest.raises(RecipeError, match=r"low 0\.9 is above high 0\.1"):
        make_curriculum(SimpleNamespace(use="band", low=0.9, high=0.1, outside_weight=0.05))


def counted(**right):
    """Return a store in which the posterior means are as asked for, in hundredths."""
    return Store(states={"curriculum": {name: [float(value - 1), 98.0] for name, value in right.items()}})


def test_cures_shares_out_rollouts_by_noise():
    # sqrt(p (1 - p)) is 0.5 and 0.1: eight groups of which each gets one at least.
    store = counted(a=50, b=1)
    policy = Cures(100.0, 1.0, 4, problems=2)
    drawn = policy.draw(store, ["a", "b"], 8, 3)
    assert sorted(drawn) == [0] * 7 + [1]
    assert drawn in (sorted(drawn), sorted(drawn, reverse=True))
    assert sorted(Cures(100.0, 1.0, 4).draw(store, ["a", "b"], 2, 3)) == [0, 1]


def test_each_process_has_whole_problems_and_as_many_groups():
    store = counted(a=50, b=1, c=50, d=1, e=90, f=20)
    drawn = Cures(1.0, 1.0, 4, problems=4).draw(store, list("abcdef"), 16, 7, 2)
    halves = set(drawn[:8]), set(drawn[8:])
    assert len(drawn) == 16
    assert len(set(drawn)) == 4
    assert not halves[0] & halves[1]


def flat_share(temperature):
    """Return the share of groups of four without signal, of 8 problems at a time of 33 that span all success rates."""
    rates = range(2, 99, 3)
    names = [f"p{rate}" for rate in rates]
    store = counted(**dict(zip(names, rates, strict=True)))
    drawn = [i for seed in range(100) for i in Cures(temperature, 1.0, 4).draw(store, names, 8, seed)]
    success = torch.tensor([rates[i] / 100 for i in drawn])
    right = torch.rand((len(drawn), 4), generator=torch.Generator().manual_seed(0)) < success[:, None]
    return 1 - keep_groups(right.float().flatten(), 4, "non_zero_std").float().mean().item()


def test_cures_draws_fewer_groups_without_signal_than_uniform_draws():
    # Of rates spread evenly, p^4 + (1 - p)^4 is 0.4 on average.
    assert flat_share(1e6) == pytest.approx(0.4, abs=0.05)
    assert flat_share(0.1) < 0.8 * flat_share(1e6)


@pytest.mark.parametrize(("problems", "groups", "parts"), [(9, 8, 1), (3, 8, 2), (4, 9, 3)])
def test_groups_that_cannot_be_shared_out_are_refused(problems, groups, parts):
    store, policy = counted(**dict.fromkeys("abcdefghi", 50)), Cures(1.0, 1.0, 4, problems=problems)
    message = f"curriculum.problems: {problems} problems cannot share {groups} groups"
    with pytest.raises(RecipeError, match=message):
        policy.draw(store, list("abcdefghi"), groups, 0, parts)
    with pytest.raises(RecipeError, match=message):
        policy.check(groups, parts)
