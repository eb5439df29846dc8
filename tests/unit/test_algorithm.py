"""Hand-worked numbers and invariants of rewards, filters, advantages and KL estimators."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.algorithm.advantage import advantages, beta_weights, whiten
from reason_rl.algorithm.budget import FixedBudget, make_budget
from reason_rl.algorithm.filter import keep_groups
from reason_rl.algorithm.kl import k2, k3
from reason_rl.algorithm.reward import correctness, cosine, load_reward, product, soft_overlong, total, truncation
from reason_rl.content import content_roots
from reason_rl.errors import RecipeError
from reason_rl.rollout.batch import RolloutBatch

R = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 0])
LENGTHS = torch.tensor([1200.0, 4000, 900, 3000, 500, 800, 700, 2500])
CORRECT = torch.tensor([1.0, 1, 0, 0, 1, 1, 1, 0])
REASONS = ("stop", "length", *("stop",) * 6)


def batch(correct=CORRECT, lengths=LENGTHS, reasons=REASONS, group_size=4):
    rows = len(correct)
    return RolloutBatch(
        group_size=group_size,
        problem_id=tuple(f"p{i // group_size}" for i in range(rows)),
        prompt_ids=((1,),) * rows,
        completion_ids=((2,),) * rows,
        text=("",) * rows,
        length=lengths.long(),
        think_length=lengths.long(),
        finish_reason=reasons,
        budget=torch.full((rows,), 4000),
        correct=correct,
    )


def close(values, expected, tolerance=2e-6):
    torch.testing.assert_close(values, torch.tensor(expected), atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("none", [0.75, -0.25, -0.25, -0.25, 0.25, 0.25, 0.25, -0.75]),
        ("group_std", [1.4997, -0.4999, -0.4999, -0.4999, 0.4999, 0.4999, 0.4999, -1.4997]),
        ("batch_std_rewards", [1.402859, -0.46762, -0.46762, -0.46762, 0.46762, 0.46762, 0.46762, -1.402859]),
        ("batch_seq", [1.620185, -0.540062, -0.540062, -0.540062, 0.540062, 0.540062, 0.540062, -1.620185]),
        ("batch_token", [2.282347, -0.171402, -0.171402, -0.171402, 1.055473, 1.055473, 1.055473, -1.398276]),
        ("beta", [0.716606, -0.238869, -0.238869, -0.238869, 0.238869, 0.238869, 0.238869, -0.716606]),
    ],
)
def test_advantages_of_the_worked_example(scale, expected):
    close(advantages(R, 4, baseline="group_mean", scale=scale, lengths=LENGTHS), expected, 6e-5)


def test_leave_one_out_whitened_over_the_batch():
    # One group of all rows: centred and divided by its deviation, with TRL's epsilon as RLOOTrainer has it.
    leave_one_out = 4 / 3 * advantages(R, 4, baseline="group_mean", scale="none")
    got = advantages(leave_one_out, 8, baseline="group_mean", scale="group_std")
    close(got, [1.619923, -0.539974, -0.539974, -0.539974, 0.539974, 0.539974, 0.539974, -1.619923])


def test_a_cut_rollout_that_keeps_a_tenth():
    rewards = product(correctness(), truncation(0.1))(batch())
    close(rewards, [1.0, 0.1, 0, 0, 1, 1, 1, 0])
    expected = [1.588849, -0.383515, -0.602667, -0.602667, 0.547879, 0.547879, 0.547879, -1.643637]
    close(advantages(rewards, 4, baseline="group_mean", scale="batch_seq"), expected)


def test_the_bonus_goes_to_right_answers_also_when_cut():
    boosted = advantages(
        R, 4, baseline="group_mean", scale="batch_token", lengths=LENGTHS, correct=CORRECT, correct_bonus=0.1
    )
    expected = [2.382347, -0.071402, -0.171402, -0.171402, 1.155473, 1.155473, 1.155473, -1.398276]
    close(boosted, expected)


def test_dler_reward_is_zero_when_cut():
    close(product(correctness(), truncation())(batch()), [1.0, 0, 0, 0, 1, 1, 1, 0])


def test_soft_overlong_falls_linearly_in_the_last_stretch():
    lengths = torch.tensor([0.0, 100, 150, 199, 200, 250, 100, 100])
    close(soft_overlong(200, 100)(batch(lengths=lengths)), [0.0, 0, -0.5, -0.99, -1, -1, 0, 0])


def test_cosine_at_its_ends_and_middle():
    lengths = torch.tensor([0.0, 0, 50, 50, 100, 100, 300, 300])
    right = torch.tensor([1.0, 0, 1, 0, 1, 0, 1, 0])
    values = cosine(100, right=(2.0, 1.0), wrong=(-10.0, 0.0))(batch(right, lengths))
    close(values, [2.0, -10, 1.5, -5, 1, 0, 1, 0], 1e-5)


def test_total_adds_and_nan_stays_nan():
    unscored = torch.tensor([float("nan"), 1, 0, 0, 1, 1, 1, 0])
    assert total(correctness(), correctness())(batch(unscored))[0].isnan()
    rewards = correctness()(batch(unscored))
    given = advantages(rewards, 4, baseline="group_mean", scale="group_std")
    assert given[0] == 0
    assert not given.isnan().any()


@pytest.mark.parametrize(("group", "kept"), [([0.0] * 4, False), ([1.0] * 4, False), ([1.0, 0, 0, 0], True)])
def test_filter_drops_flat_groups(group, kept):
    assert keep_groups(torch.tensor(group), 4, "non_zero_std").tolist() == [kept]
    assert keep_groups(torch.tensor(group), 4, "all").tolist() == [True]


def test_filter_ignores_unscored_rows():
    nan = float("nan")
    metric = torch.tensor([nan, 1.0, nan, 1.0, nan, 0.0, 1.0, nan, nan, nan, nan, nan])
    assert keep_groups(metric, 4, "non_zero_std").tolist() == [False, True, False]


def test_kl_estimators():
    logp, reference = torch.tensor([-1.2]), torch.tensor([-1.0])
    close(k2(logp, reference), [0.02])
    close(k3(logp, reference), [0.021403])


rewards_and_lengths = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 500)), min_size=8, max_size=32).filter(
    lambda rows: len(rows) % 4 == 0
)


@given(rewards_and_lengths)
def test_whitened_advantages_have_mean_0_and_variance_1(rows):
    rewards, lengths = (torch.tensor(column, dtype=torch.float32) for column in zip(*rows, strict=True))
    for scale, weights in (("batch_seq", torch.ones_like(lengths)), ("batch_token", lengths)):
        values = advantages(rewards, 4, baseline="group_mean", scale=scale, lengths=lengths)
        if not values.any():
            continue
        mean = (values * weights).sum() / weights.sum()
        variance = (weights * (values - mean).square()).sum() / (weights.sum() - 1)
        assert mean.abs() < 1e-3
        assert abs(variance - 1) < 1e-2


@given(rewards_and_lengths, st.floats(0.5, 20))
def test_advantages_keep_the_order_of_rewards_and_ignore_their_scale(rows, factor):
    rewards, lengths = (torch.tensor(column, dtype=torch.float32) for column in zip(*rows, strict=True))
    for scale in ("batch_seq", "batch_token"):
        values = advantages(rewards, 4, baseline="group_mean", scale=scale, lengths=lengths)
        scaled = advantages(rewards * factor, 4, baseline="group_mean", scale=scale, lengths=lengths)
        torch.testing.assert_close(values, scaled, atol=2e-3, rtol=1e-3)
        if values.any():
            for group in range(len(rows) // 4):
                rows_of = slice(4 * group, 4 * group + 4)
                right, wrong = values[rows_of][rewards[rows_of] == 1], values[rows_of][rewards[rows_of] == 0]
                if len(right) and len(wrong):
                    assert right.min() > wrong.max()


@given(rewards_and_lengths, st.randoms(use_true_random=False))
def test_permuting_problems_permutes_advantages(rows, random):
    rewards, lengths = (torch.tensor(column, dtype=torch.float32) for column in zip(*rows, strict=True))
    groups = list(range(len(rows) // 4))
    random.shuffle(groups)
    order = torch.tensor([4 * group + i for group in groups for i in range(4)])
    for scale in ("group_std", "batch_seq", "batch_token", "batch_std_rewards"):
        one = advantages(rewards, 4, baseline="group_mean", scale=scale, lengths=lengths)[order]
        two = advantages(rewards[order], 4, baseline="group_mean", scale=scale, lengths=lengths[order])
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_the_weights_of_pass_rates_are_one_over_the_fitted_density():
    close(1 / beta_weights(torch.tensor([0.25, 0.75])), [1.0466, 1.0466], 1e-4)


@pytest.mark.parametrize("rates", [[0.25], [0.5, 0.5, 0.5], [0.0, 0.0], [1 / 3, 1 / 3], [0.5, float("nan")]], ids=str)
def test_where_no_distribution_can_be_fitted_all_problems_weigh_one(rates):
    assert beta_weights(torch.tensor(rates)).tolist() == [1.0] * len(rates)


def test_a_pass_rate_that_hardly_any_problem_has_weighs_a_million_at_most():
    weights = beta_weights(torch.tensor([*[0.9] * 2000, 0.0, 0.1]))
    assert weights[-2:].tolist() == [1e6, 1e6]
    assert weights[:-2].max() < 1


def test_beta_takes_rewards_of_another_range_as_shares_of_it():
    one, other = (advantages(r, 4, baseline="group_mean", scale="beta") for r in (R, 2 * R - 1))
    close(one, other.tolist())
    assert not advantages(torch.full((8,), -1.0), 4, baseline="group_mean", scale="beta").any()


def test_a_flat_batch_has_no_advantages():
    assert whiten(torch.zeros(8), torch.ones(8)).tolist() == [0.0] * 8


def test_unknown_names_and_missing_arguments_are_refused():
    with pytest.raises(ValueError, match="unknown scale 'std'"):
        advantages(R, 4, baseline="group_mean", scale="std")
    with pytest.raises(ValueError, match="needs the lengths"):
        advantages(R, 4, baseline="group_mean", scale="batch_token")
    with pytest.raises(ValueError, match="needs the verdicts"):
        advantages(R, 4, baseline="group_mean", scale="none", correct_bonus=0.1)


def test_a_budget_is_made_from_its_section():
    class Spec:
        use, tokens = "fixed", 32

    assert make_budget(Spec()) == FixedBudget(32)


def test_reward_files_load_and_refuse_unknown_parameters(tmp_path):
    path = content_roots()[-1] / "rewards" / "dler.py"
    close(load_reward(path, truncated_reward=0.1)(batch()), [1.0, 0.1, 0, 0, 1, 1, 1, 0])
    with pytest.raises(RecipeError, match="no parameter truncated_rewrd; did you mean truncated_reward"):
        load_reward(path, truncated_rewrd=0.1)
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(RecipeError, match="defines no function reward"):
        load_reward(tmp_path / "empty.py")
    with pytest.raises(RecipeError, match="no such reward file"):
        load_reward(tmp_path / "missing.py")


def test_a_batch_checks_itself():
    with pytest.raises(ValueError, match="8 rows are not whole groups of 3"):
        batch(group_size=3)
    with pytest.raises(ValueError, match="unknown finish reason"):
        batch(reasons=("eos",) * 8)
    with pytest.raises(ValueError, match=r"expected 8 rows, got \{'length': 7\}"):
        replace(batch(), length=LENGTHS[:7].long())
