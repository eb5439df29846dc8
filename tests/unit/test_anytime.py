"""Budget-relative advantages: the numbers worked out by hand, and the properties that the paper builds on."""

import numpy as np
import pytest
import torch

from reason_rl.algorithm.advantage import advantages
from reason_rl.algorithm.anytime import (
    prior_weights,
    returns_to_come,
    segment_advantages,
    spread_over_tokens,
    summary_advantages,
    value_of_earlier,
)
from reason_rl.errors import RecipeError

BUDGETS = [2000, 4000, 6000, 8000]
ACCURACY = torch.tensor([[[0, 0.25, 0.75, 1], [0.25, 0.25, 0.5, 0.5]]])
UNIFORM = torch.full((4,), 0.25)
TURNS = torch.tensor([[[0.0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]])


def close(got, wanted, atol=5e-5):
    torch.testing.assert_close(got, torch.tensor(wanted), atol=atol, rtol=0)


def test_returns_and_baselines_are_those_worked_out_by_hand():
    returns = returns_to_come(ACCURACY, UNIFORM)
    close(returns, [[[0.5, 0.5, 0.4375, 0.25], [0.375, 0.3125, 0.25, 0.125]]])
    close(value_of_earlier(ACCURACY, UNIFORM, 0.5), [[[0, 0, 0.0833, 0.125], [0, 0.1875, 0.125, 0.0982]]])
    close(returns.mean(dim=1), [[0.4375, 0.40625, 0.34375, 0.1875]])


@pytest.mark.parametrize(
    ("prior", "expected"),
    [
        ("uniform", [[0.0625, 0.1953, 0.2240, 0.1094], [-0.0625, -0.0391, 0.0156, 0.0045]]),
        ("linear", [[0.125, 0.2719, 0.3229, 0.175], [-0.125, -0.0594, 0.0187, 0.0071]]),
        ("base", [[0.25, 0.4375, 0.5417, 0.4375], [-0.25, -0.125, 0, 0.0179]]),
    ],
)
def test_advantages_are_those_worked_out_by_hand(prior, expected):
    close(segment_advantages(ACCURACY, BUDGETS, prior), [expected], atol=6e-5)


def test_early_late_and_never_right():
    expected = [
        [0.4167, 0.5, 0.2083, 0.0476],
        [-0.0833, 0, 0.125, 0.2083],
        [-0.3333, -0.25, -0.125, -0.0417],
    ]
    close(segment_advantages(TURNS, BUDGETS, "uniform"), [expected])


def test_base_prior_makes_the_return_the_final_accuracy():
    assert returns_to_come(ACCURACY, prior_weights("base", BUDGETS)).tolist() == [[[1.0] * 4, [0.5] * 4]]


@pytest.mark.parametrize("budgets", [[], [0, 10], [20, 10], [10, 10]])
def test_budgets_must_grow(budgets):
    with pytest.raises(RecipeError, match="do not grow"):
        prior_weights("uniform", budgets)


@pytest.mark.parametrize("prior", ["uniform", "linear", "base"])
def test_priors_are_distributions(prior):
    assert prior_weights(prior, [10, 30, 80]).sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize(("budgets", "variance"), [([100], "brpo"), ([25, 50, 100], "group_only")])
def test_one_budget_is_centred_grpo(budgets, variance):
    right = torch.tensor([[1.0, 0, 0, 1], [1, 1, 1, 0]])
    accuracy = torch.rand(2, 4, len(budgets), generator=torch.Generator().manual_seed(0))
    accuracy[..., -1] = right
    got = segment_advantages(accuracy, budgets, "base", variance=variance)
    expected = advantages(right.flatten(), 4, baseline="group_mean", scale="none")
    torch.testing.assert_close(got, expected.view(2, 4, 1).expand_as(got))


def test_group_baseline_sums_to_zero_in_every_segment_and_brpo_in_the_first():
    accuracy = torch.rand(5, 8, 4, generator=torch.Generator().manual_seed(1))
    assert segment_advantages(accuracy, BUDGETS, "linear", variance="group_only").sum(1).abs().max() < 1e-5
    total = segment_advantages(accuracy, BUDGETS, "linear").sum(dim=1)
    assert total[:, 0].abs().max() < 1e-5
    assert total[:, 1:].abs().max() > 0.1


def test_a_shift_changes_nothing_after_the_first_segment_and_a_factor_scales():
    accuracy = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(2))
    one = segment_advantages(accuracy, BUDGETS, "uniform")
    torch.testing.assert_close(segment_advantages(accuracy + 0.3, BUDGETS, "uniform"), one)
    torch.testing.assert_close(segment_advantages(accuracy * 3, BUDGETS, "uniform"), one * 3)


def test_permuting_a_group_permutes_its_advantages():
    accuracy = torch.rand(2, 6, 4, generator=torch.Generator().manual_seed(3))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    one = segment_advantages(accuracy, BUDGETS, "linear")
    torch.testing.assert_close(segment_advantages(accuracy[:, order], BUDGETS, "linear"), one[:, order])


def test_an_early_answer_falls_off_and_a_late_one_peaks_last():
    early, late, _ = segment_advantages(TURNS, BUDGETS, "uniform")[0]
    assert early[1] > early[2] > early[3]
    assert late.argmax() == 3


def test_a_group_of_one_keeps_the_earlier_budgets_alone():
    got = segment_advantages(ACCURACY[:, :1], BUDGETS, "uniform")
    mix = torch.tensor([0, 0.25, 0.5, 0.75])
    expected = returns_to_come(ACCURACY, UNIFORM) - mix * value_of_earlier(ACCURACY, UNIFORM, 0.5)
    torch.testing.assert_close(got, expected[:, :1])


def test_brpo_varies_no_more_than_the_group_baseline():
    rng = np.random.default_rng(0)
    solved = rng.geometric(rng.random((4000, 1)) * 0.5 + 0.02, (4000, 8))
    accuracy = torch.tensor(np.arange(1, 9) >= solved[..., None], dtype=torch.float32)
    budgets = list(range(1, 9))
    brpo, group = (
        segment_advantages(accuracy, budgets, "uniform", variance=v).var(dim=(0, 1)) for v in ("brpo", "group_only")
    )
    assert (brpo <= group + 1e-3).all()
    close(brpo, [0.077, 0.057, 0.038, 0.023, 0.013, 0.006, 0.002, 0.0005], atol=2e-3)
    close(group, [0.077, 0.064, 0.048, 0.034, 0.022, 0.012, 0.005, 0.001], atol=2e-3)


def test_unequal_budgets_mix_by_tokens():
    budgets, weights = [10, 20, 80], prior_weights("uniform", [10, 20, 80])
    accuracy = TURNS[..., :3]
    mix = torch.tensor([0, 10 / 80, 20 / 80])
    returns = returns_to_come(accuracy, weights)
    value = mix * value_of_earlier(accuracy, weights, 0.5) + (1 - mix) * returns.mean(dim=1, keepdim=True)
    torch.testing.assert_close(segment_advantages(accuracy, budgets, "uniform"), returns - value)


def test_tokens_get_the_value_of_their_segment_and_short_traces_own_no_later_one():
    values = torch.tensor([[1.0, 2, 3], [1, 2, 3]])
    got = spread_over_tokens(values, torch.tensor([6, 2]), [2, 4, 6], 7)
    assert got.tolist() == [[1, 1, 2, 2, 3, 3, 0], [1, 1, 0, 0, 0, 0, 0]]


def test_summaries_of_a_shared_context_have_one_mean():
    right = torch.tensor([[[[1.0, 0], [1, 1], [0, 0]]]])
    got = summary_advantages(right, torch.tensor([[[0, 1, 1]]]))
    assert got.flatten().tolist() == [0.5, -0.5, 0.5, 0.5, -0.5, -0.5]


def test_a_single_summary_takes_the_mean_of_the_group_at_its_budget():
    right = torch.tensor([[[[1.0]], [[0.0]], [[0.0]], [[1.0]]]])
    got = summary_advantages(right, torch.arange(4).view(1, 4, 1))
    assert got.flatten().tolist() == [0.5, -0.5, -0.5, 0.5]
