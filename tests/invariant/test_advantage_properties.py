"""What must hold of advantages and of the batch they are computed over, whatever the rewards."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.utils import nanstd

from reason_rl.algorithm.advantage import advantages
from reason_rl.algorithm.filter import keep_groups, select_until_full
from reason_rl.algorithm.reward import correctness, product, truncation
from reason_rl.rollout.batch import example_batch

SCALES = ("group_std", "batch_std_rewards", "batch_seq", "batch_token", "beta", "none")
STOCK = {"group_std": "group", "batch_std_rewards": "batch", "none": "none"}


RIGHT_OR_WRONG = st.sampled_from([0.0, 1.0])


@st.composite
def rollouts(draw, values=RIGHT_OR_WRONG):
    """Draw rewards, completion tokens and the group size."""
    group_size, groups = draw(st.integers(2, 6)), draw(st.integers(1, 6))
    rows = group_size * groups
    rewards = draw(st.lists(values, min_size=rows, max_size=rows))
    lengths = draw(st.lists(st.integers(1, 400), min_size=rows, max_size=rows))
    return torch.tensor(rewards), torch.tensor(lengths, dtype=torch.float32), group_size


def stock_advantages(rewards, group_size, scale):
    """Advantages as GRPOTrainer 1.16 computes them, with its own standard deviation."""
    grouped = rewards.view(-1, group_size)
    values = rewards - torch.nanmean(grouped, dim=1).repeat_interleave(group_size)
    if scale == "group":
        values = values / (nanstd(grouped, dim=1).repeat_interleave(group_size) + 1e-4)
    if scale == "batch":
        values = values / (nanstd(rewards) + 1e-4)
    return values.nan_to_num(nan=0.0)


graded = st.one_of(st.sampled_from([0.0, 1.0, float("nan")]), st.floats(-100, 100, width=32))


@pytest.mark.parametrize("scale", STOCK)
@given(drawn=rollouts(graded))
def test_stock_scales_are_trl_bit_for_bit(scale, drawn):
    rewards, _, group_size = drawn
    ours = advantages(rewards, group_size, baseline="group_mean", scale=scale)
    assert torch.equal(ours, stock_advantages(rewards, group_size, STOCK[scale]))


@pytest.mark.parametrize("scale", SCALES)
@given(drawn=rollouts(graded))
def test_equal_sizes_named_one_by_one_are_one_size(scale, drawn):
    rewards, lengths, group_size = drawn
    options = {"baseline": "group_mean", "scale": scale, "lengths": lengths}
    sizes = [group_size] * (len(rewards) // group_size)
    assert torch.equal(advantages(rewards, sizes, **options), advantages(rewards, group_size, **options))


@pytest.mark.parametrize("scale", ["none", "group_std", "group_std_population"])
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), data=st.data())
def test_groups_of_different_sizes_are_what_each_is_alone(scale, sizes, data):
    rewards = torch.tensor(data.draw(st.lists(graded, min_size=sum(sizes), max_size=sum(sizes))))
    for baseline in ("group_mean", "boundary", "none"):
        options = {"baseline": baseline, "scale": scale}
        alone = [advantages(part, len(part), **options) for part in rewards.split(sizes)]
        torch.testing.assert_close(advantages(rewards, sizes, **options), torch.cat(alone))


@pytest.mark.parametrize("scale", ["group_std", "batch_seq", "batch_token"])
@given(drawn=rollouts())
def test_scaled_advantages_ignore_unit_and_origin_of_the_reward(scale, drawn):
    rewards, lengths, group_size = drawn
    options = {"baseline": "group_mean", "scale": scale, "lengths": lengths}
    one = advantages(rewards, group_size, **options)
    other = advantages(3 * rewards + 5, group_size, **options)
    torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-3)


@given(rollouts())
def test_centred_advantages_ignore_the_origin_but_not_the_unit(drawn):
    rewards, _, group_size = drawn
    one = advantages(rewards, group_size, baseline="group_mean", scale="none")
    other = advantages(3 * rewards + 5, group_size, baseline="group_mean", scale="none")
    torch.testing.assert_close(3 * one, other, atol=1e-5, rtol=1e-5)


@given(rollouts())
def test_batch_seq_is_whitened_leave_one_out(drawn):
    rewards, _, group_size = drawn
    grouped = rewards.view(-1, group_size)
    others = (grouped.sum(dim=1, keepdim=True) - grouped) / (group_size - 1)
    leave_one_out = (grouped - others).flatten()
    expected = (leave_one_out - leave_one_out.mean()) / (leave_one_out.std() + 1e-8)
    ours = advantages(rewards, group_size, baseline="group_mean", scale="batch_seq")
    torch.testing.assert_close(ours, expected.nan_to_num(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scale", SCALES)
@given(drawn=rollouts())
def test_a_better_rollout_of_a_problem_never_has_the_smaller_advantage(scale, drawn):
    rewards, lengths, group_size = drawn
    values = advantages(rewards, group_size, baseline="group_mean", scale=scale, lengths=lengths)
    for reward, value in zip(rewards.view(-1, group_size), values.view(-1, group_size), strict=True):
        better, worse = value[reward == 1], value[reward == 0]
        if len(better) and len(worse):
            assert better.min() > worse.max()


def test_token_scaling_shifts_flat_groups_and_sequence_scaling_does_not():
    rewards = torch.tensor([1.0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 1])
    lengths = torch.tensor([10.0, 10, 10, 400, 50, 300, 300, 300, 20, 20, 20, 20])
    values = {
        scale: advantages(rewards, 4, baseline="group_mean", scale=scale, lengths=lengths)[8:]
        for scale in ("batch_seq", "batch_token")
    }
    assert values["batch_seq"].abs().max() < 1e-6
    assert values["batch_token"].min() > 0.1
    assert values["batch_token"].max() == values["batch_token"].min()


@given(rollouts(st.sampled_from([0.0, 1.0, float("nan")])))
def test_unscorable_rows_get_no_advantage_and_touch_nobody_else(drawn):
    rewards, lengths, group_size = drawn
    for scale in SCALES:
        values = advantages(rewards, group_size, baseline="group_mean", scale=scale, lengths=lengths)
        assert values.isfinite().all()
        assert not values[rewards.isnan()].any()
        longer = torch.where(rewards.isnan(), 10 * lengths, lengths)
        again = advantages(rewards, group_size, baseline="group_mean", scale=scale, lengths=longer)
        assert torch.equal(values, again)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.data())
def test_a_batch_has_its_quota_first_kept_groups_first(kept, data):
    wanted = data.draw(st.integers(1, len(kept)))
    verdicts = torch.tensor(kept)
    selected = select_until_full(verdicts, wanted).tolist()
    good = [group for group in selected if kept[group]]
    assert len(selected) == len(set(selected)) == wanted
    assert selected == sorted(selected)
    assert good == [group for group, ok in enumerate(kept) if ok][: len(good)]
    assert len(good) == min(wanted, sum(kept))


@given(rollouts())
def test_when_every_group_has_signal_refilling_changes_nothing(drawn):
    rewards, _, group_size = drawn
    kept = keep_groups(rewards, group_size, "non_zero_std")
    assert torch.equal(kept, rewards.view(-1, group_size).std(dim=1) > 0)
    if kept.all():
        assert select_until_full(kept, len(kept)).tolist() == list(range(len(kept)))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_a_cut_rollout_is_never_rewarded_by_dler(rows):
    correct, cut = zip(*rows, strict=True)
    batch = example_batch([float(c) for c in correct], [9] * len(rows), cut=cut)
    rewards = product(correctness(), truncation())(batch)
    assert not rewards[batch.truncated].any()
    assert torch.equal(rewards[~batch.truncated], batch.correct[~batch.truncated])
