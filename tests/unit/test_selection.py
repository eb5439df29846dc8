"""Parts of a group: selected rows, halves and weights by difficulty, with numbers worked out by hand."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.algorithm.advantage import advantages
from reason_rl.algorithm.budget import FixedBudget
from reason_rl.algorithm.group_reward import lead
from reason_rl.algorithm.quartiles import QuartileCounts, counts_by_quartile
from reason_rl.algorithm.reward import correctness
from reason_rl.algorithm.selection import difficulty_weight, halves, selected, surprise
from reason_rl.algorithm.store import Observed, start_store
from reason_rl.rollout.batch import example_batch
from reason_rl.trainer.composition import AdvantageRule, Composition

REWARDS = torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0])
LENGTHS = torch.tensor([900.0, 1500, 2600, 4000, 300, 1200, 2000, 5000])
NO_VERDICTS = torch.full((8,), torch.nan)


@pytest.mark.parametrize(
    ("select", "kept", "expected"),
    [
        ("shortest", [0, 1, 4, 5], [1.0, 1, 0, 0, -1, -1, 0, 0]),
        ("token_efficiency", [0, 1, 2, 3], [0.0] * 8),
    ],
)
def test_gfpo_keeps_four_of_eight(select, kept, expected):
    assert selected(REWARDS, LENGTHS, 8, select, 4).nonzero().flatten().tolist() == kept
    rule = AdvantageRule(scale="group_std_population", select=select, select_rows=4)
    assert rule(REWARDS, LENGTHS, NO_VERDICTS, 8).tolist() == pytest.approx(expected, abs=1e-5)


def test_the_bonus_is_not_for_right_answers_that_were_not_selected():
    rewards = torch.tensor([1.0, 0, 1, 1])
    rule = AdvantageRule(select="shortest", select_rows=2, correct_bonus=0.1)
    values = rule(rewards, torch.tensor([10.0, 20, 300, 400]), rewards, 4)
    torch.testing.assert_close(values, torch.tensor([0.8070, -0.7070, 0.0, 0.0]), atol=5e-5, rtol=0)


def test_ties_go_to_the_earlier_row_and_unscored_rows_are_never_kept():
    rewards = torch.tensor([0.0, torch.nan, 1.0, 0.0])
    assert selected(rewards, torch.full((4,), 7.0), 4, "shortest", 2).tolist() == [True, False, True, False]


def test_short_failures_beat_long_ones_where_rewards_are_negative():
    rewards, lengths = torch.tensor([-1.0, -1.0, 1.0, -0.5]), torch.tensor([10.0, 90.0, 50.0, 20.0])
    assert selected(rewards, lengths, 4, "token_efficiency", 2).tolist() == [False, False, True, True]


def test_an_unknown_metric_is_named():
    with pytest.raises(ValueError, match="unknown selection 'longest'"):
        selected(REWARDS, LENGTHS, 8, "longest", 4)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 400)), min_size=6, max_size=6))
def test_selecting_the_whole_group_is_the_group(rows):
    rewards = torch.tensor([float(right) for right, _ in rows])
    lengths = torch.tensor([float(tokens) for _, tokens in rows])
    whole = AdvantageRule(select="shortest", select_rows=6)(rewards, lengths, rewards, 6)
    assert torch.equal(whole, AdvantageRule()(rewards, lengths, rewards, 6))


ALTERNATING = torch.tensor([1.0, 1, 0, 1, 0, 0, 1, 0])
ASCENDING = torch.arange(300.0, 1800.0, 200.0)


@pytest.mark.parametrize(
    ("mu", "alpha", "expected"),
    [
        (1.0, 1.0, [0.75, 0.75, -0.25, 0.75, -0.75, -0.75, 0.25, -0.75]),
        (0.0, 1.0, [0.25, 0.25, -0.75, 0.25, -0.25, -0.25, 0.75, -0.25]),
        (0.5, 1.0, [0.5, 0.5, -0.5, 0.5, -0.5, -0.5, 0.5, -0.5]),
        (1.0, 0.9, [0.775, 0.775, -0.225, 0.775, -0.75, -0.75, 0.15, -0.75]),
    ],
)
def test_canon_compares_the_halves(mu, alpha, expected):
    assert halves(ALTERNATING, ASCENDING, 8, alpha, mu).tolist() == pytest.approx(expected)


def test_canon_pulls_an_all_right_group_towards_short_answers():
    assert halves(torch.ones(4), torch.tensor([9.0, 1, 5, 3]), 4, 0.9, 1.0).tolist() == pytest.approx(
        [-0.1, 0.1, -0.1, 0.1]
    )


@given(st.lists(st.tuples(st.floats(-2, 2, width=32), st.integers(1, 400)), min_size=6, max_size=6))
def test_canon_without_a_preference_is_the_group_mean_bit_for_bit(rows):
    rewards = torch.tensor([reward for reward, _ in rows])
    lengths = torch.tensor([float(tokens) for _, tokens in rows])
    plain = advantages(rewards, 6, baseline="group_mean", scale="none")
    assert torch.equal(halves(rewards, lengths, 6, 1.0, 0.5), plain)


@given(rows=st.lists(st.booleans(), min_size=6, max_size=6), order=st.permutations(range(6)))
def test_the_order_of_a_group_does_not_matter(rows, order):
    rewards, lengths = torch.tensor(rows).float(), torch.tensor([31.0, 12, 55, 70, 48, 9])
    for rule in (
        AdvantageRule(baseline="halves", scale="none", long_half_weight=0.9),
        AdvantageRule(select="shortest", select_rows=3, scale="group_std_population"),
        AdvantageRule(baseline="boundary", difficulty_weight=True),
    ):
        straight = rule(rewards, lengths, rewards, 6)
        shuffled = rule(rewards[list(order)], lengths[list(order)], rewards[list(order)], 6)
        torch.testing.assert_close(shuffled, straight[list(order)])


@given(rows=st.lists(st.tuples(st.booleans(), st.integers(1, 400)), min_size=6, max_size=6), factor=st.integers(2, 9))
def test_the_unit_of_length_does_not_matter(rows, factor):
    rewards = torch.tensor([float(right) for right, _ in rows])
    lengths = torch.tensor([float(tokens) for _, tokens in rows])
    for rule in (
        AdvantageRule(baseline="halves", scale="none", long_half_weight=0.9),
        AdvantageRule(select="shortest", select_rows=3, scale="group_std_population"),
    ):
        assert torch.equal(rule(rewards, factor * lengths, rewards, 6), rule(rewards, lengths, rewards, 6))


def test_canon_weighs_down_the_sure_half_when_split_by_surprise():
    got = halves(torch.ones(4), torch.tensor([0.9, 0.1, 0.5, 0.3]), 4, 0.9, 1.0, "low")
    assert got.tolist() == pytest.approx([0.1, -0.1, 0.1, -0.1])


@pytest.mark.parametrize(("schedule", "mu"), [(0.25, 0.25), ("accuracy", 0.5), ("error", 0.5)])
def test_the_weight_between_halves_can_follow_the_rewards(schedule, mu):
    rule = AdvantageRule(baseline="halves", scale="none", between_halves=schedule)
    assert torch.equal(rule(ALTERNATING, ASCENDING, ALTERNATING, 8), halves(ALTERNATING, ASCENDING, 8, 1.0, mu))
    mostly = torch.tensor([1.0, 1, 1, 0])
    shares = {"accuracy": 0.75, "error": 0.25}
    expected = halves(mostly, ASCENDING[:4], 4, 1.0, shares.get(schedule, mu))
    torch.testing.assert_close(rule(mostly, ASCENDING[:4], mostly, 4), expected)


def test_surprise_is_the_mean_over_a_completions_tokens():
    batch = replace(example_batch([1, 0, 0], [2, 1, 0]), sampling_logps=((-0.5, -1.5), (-3.0,), ()))
    assert surprise(batch).tolist() == [1.0, 3.0, 0.0]
    rule = AdvantageRule(baseline="halves", scale="none", halves_by="surprise")
    assert torch.equal(rule.measure(batch), surprise(batch))
    assert AdvantageRule().measure(batch).tolist() == [2.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="needs the sampler's log-probabilities"):
        surprise(example_batch([1], [2]))


SEEN = [0.0, 0.25, 0.25, 0.5, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(("warm", "expected"), [(8, [8, 8, 6, 4]), (9, [8, 8, 8, 8])])
def test_gfpo_keeps_more_of_hard_groups_once_it_has_seen_enough(warm, expected):
    # Quartiles of what was seen: 0.25, 0.5 and 0.8125.
    assert counts_by_quartile(torch.tensor([0.1, 0.3, 0.5, 0.9]), SEEN, (8, 8, 6, 4), warm).tolist() == expected


def test_selection_by_difficulty_learns_from_what_was_seen_and_is_plain_json():
    policy = QuartileCounts((3, 3, 2, 1), warm_groups=8)
    state = policy.initial_state()
    for rate in SEEN:
        right = round(4 * rate)
        group = Observed("p", (1.0,) * right + (0.0,) * (4 - right), (9,) * 4)
        state = policy.after_generation(state, [group, Observed("q", (math.nan,) * 4, (9,) * 4)])
    assert json.loads(json.dumps(state)) == {"rates": {"0.0": 1, "0.25": 2, "0.5": 2, "0.75": 1, "1.0": 2}}
    rule = AdvantageRule(select="shortest", scale="group_std_population")
    method = Composition(correctness(), FixedBudget(64), advantage=rule, selection=policy)
    store = replace(start_store(method.policies), states={policy.name: state})
    rewards = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 1, 1])
    lengths = torch.arange(12.0)
    got = method.advantages(rewards, lengths, rewards, torch.tensor([True, False, True]), 4, store)
    assert got[:4].tolist() == pytest.approx([math.sqrt(2), -math.sqrt(0.5), -math.sqrt(0.5), 0.0], abs=1e-4)
    assert got[4:].tolist() == pytest.approx([0.0] * 4 + [1.0, -1.0, 0.0, 0.0], abs=1e-4)


def test_lead_weighs_rare_right_and_rare_wrong_answers_more():
    weights = [difficulty_weight(torch.tensor([1.0]), torch.tensor([p]), 1).item() for p in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert weights == pytest.approx([1.499392, 1.492638, 1.416556, 0.95, 0.483444], abs=1e-5)
    advantages = torch.tensor([0.549958, 0.498751, 0.450041, -1.49875])
    rewards = lead(0.05, 4000)(example_batch([1, 1, 1, 0], [5000, 6000, 7000, 8000]))
    ours = AdvantageRule()(rewards, LENGTHS[:4], rewards, 4)
    # The sheet's epsilon is 1e-6; TRL's, and ours, is 1e-4.
    assert ours.tolist() == pytest.approx(advantages.tolist(), abs=2e-4)
    assert ours[0].item() == pytest.approx(0.549903, abs=1e-6)
    weighted = difficulty_weight(advantages, torch.tensor([1.0, 1, 1, 0]), 4)
    assert weighted.tolist() == pytest.approx([0.52246, 0.473813, 0.427539, -2.237091], abs=1e-5)


def test_dr_saf_never_pushes_a_right_answer_down():
    rewards = torch.tensor([1.08, 1.03, 1.01, 1.03])
    got = AdvantageRule(baseline="boundary")(rewards, LENGTHS[:4], torch.ones(4), 4)
    # Worked out with 1e-6 beside the standard deviation, where we have TRL's 1e-4.
    assert got.tolist() == pytest.approx([2.344133, 0.669752, 0.0, 0.669752], rel=5e-3)
    plain = AdvantageRule()(rewards, LENGTHS[:4], torch.ones(4), 4)
    assert plain.tolist() == pytest.approx([1.423224, -0.251157, -0.920909, -0.251157], rel=5e-3)


def test_dr_saf_is_plain_grpo_where_all_are_wrong():
    rewards = torch.tensor([0.03, 0.08, 0.08, 0.0])
    rows = (rewards, LENGTHS[:4], torch.zeros(4), 4)
    assert torch.equal(AdvantageRule(baseline="boundary")(*rows), AdvantageRule()(*rows))
