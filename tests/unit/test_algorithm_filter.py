"""Dynamic sampling over rounds: which groups make up the batch."""

import torch

from reason_rl.algorithm.filter import keep_groups, select_until_full

ROUNDS = ("0000 1000 1111", "1100 0111 0010")


def groups_of(text):
    return torch.tensor([[float(c) for c in group] for group in text.split()])


def test_two_rounds_fill_a_batch_of_three_and_drop_the_surplus():
    drawn = torch.cat([groups_of(text) for text in ROUNDS])
    kept = keep_groups(drawn.flatten(), 4, "non_zero_std")
    assert [int(part.sum()) for part in kept.split(3)] == [1, 3]
    selected = select_until_full(kept, 3)
    assert torch.equal(drawn[selected], groups_of("1000 1100 0111"))
    assert kept[selected].all()


def test_one_round_is_not_enough_and_rejected_groups_hold_the_places():
    kept = keep_groups(groups_of(ROUNDS[0]).flatten(), 4, "non_zero_std")
    selected = select_until_full(kept, 3)
    assert selected.tolist() == [0, 1, 2]
    assert (~kept[selected]).tolist() == [True, False, True]


def test_nothing_kept_still_fills_the_batch():
    assert select_until_full(torch.zeros(5, dtype=torch.bool), 2).tolist() == [0, 1]


def test_a_group_with_one_scored_row_carries_no_signal():
    nan = float("nan")
    assert keep_groups(torch.tensor([nan, nan, nan, 1.0]), 4, "non_zero_std").tolist() == [False]


def test_tiny_differences_are_a_signal():
    assert keep_groups(torch.tensor([0.1, 0.1, 0.1, 0.1 + 1e-6]), 4, "non_zero_std").tolist() == [True]
