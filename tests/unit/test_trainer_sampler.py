import pytest
from trl.trainer.utils import RepeatSampler

from reason_rl.trainer.sampler import GroupSampler, RefillStream


def sampler(kind, seed=3):
    return kind(range(10), mini_repeat_count=2, batch_size=4, repeat_count=2, shuffle=True, seed=seed)


def test_first_epoch_is_stock_trl():
    assert list(sampler(GroupSampler)) == list(sampler(RepeatSampler))


def test_order_is_a_function_of_seed_and_epoch():
    walked, jumped = sampler(GroupSampler), sampler(GroupSampler)
    orders = []
    for epoch in range(3):
        walked.set_epoch(epoch)
        orders.append(list(walked))
    jumped.set_epoch(2)
    assert list(jumped) == orders[2]
    assert orders[0] != orders[1] != orders[2]


def test_refill_visits_each_problem_once_an_epoch_and_ranks_are_disjoint():
    ranks = [RefillStream(11, seed=5, rank=rank, world_size=2) for rank in range(2)]
    first = [list(stream.take(5)) for stream in ranks]
    assert not set(first[0]) & set(first[1])
    assert all(len(set(part)) == 5 for part in first)


def test_refill_goes_on_from_its_position():
    whole, parts = RefillStream(7, 1, 0, 1), RefillStream(7, 1, 0, 1)
    expected = list(whole.take(20))
    got = list(parts.take(9))
    later = RefillStream(7, 1, 0, 1)
    later.position = parts.position
    assert got + list(later.take(11)) == expected


def test_refill_needs_a_problem_a_rank():
    with pytest.raises(ValueError, match="1 problems"):
        RefillStream(1, 0, 0, 2)
