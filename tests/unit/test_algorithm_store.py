"""The store: histories by problem id, resuming through JSON, and the same result whoever gathered the groups."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.algorithm.curriculum import Cures
from reason_rl.algorithm.store import (
    History,
    Observed,
    Policy,
    Reference,
    Store,
    after_generation,
    after_probe,
    facts,
    from_json,
    observed,
    start_store,
    to_json,
)
from reason_rl.algorithm.targets import MonitoredTargets
from reason_rl.rollout.batch import example_batch

POLICIES = (MonitoredTargets((16, 32, 64), 4, 4, 2, "floor", 0), Cures(0.1, 0.9, 4))
GROUPS = st.lists(
    st.builds(
        lambda name, rows: Observed(name, tuple(r for r, _ in rows), tuple(n for _, n in rows)),
        st.sampled_from("abcd"),
        st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.integers(1, 99)), min_size=2, max_size=4),
    ),
    max_size=5,
)


def through_json(store):
    return from_json(json.loads(json.dumps(to_json(store))))


def test_a_history_adds_up():
    history = History().after(Observed("a", (1, 0, 1), (40, 90, 30))).after(Observed("a", (1, 0), (50, 10)))
    assert (history.visits, history.rollouts, history.right) == (2, 5, 3)
    assert (history.pass_rate, history.shortest_right, history.right_tokens) == (0.5, 30, 120)
    assert history.recent_right == (40, 30, 50)


def test_only_the_newest_right_lengths_are_kept():
    history = History()
    for length in range(40):
        history = history.after(Observed("a", (1,), (length,)))
    assert history.recent_right == tuple(range(8, 40))
    assert history.shortest_right == 0


def test_rollouts_without_a_verdict_change_nothing():
    assert History().after(Observed("a", (math.nan, math.nan), (5, 6))) == History()
    seen = History().after(Observed("a", (math.nan, 1.0), (5, 6)))
    assert (seen.rollouts, seen.pass_rate) == (1, 1.0)


def test_a_rollout_judged_by_several_answers_is_right_in_part():
    batch = example_batch([1, 0.25, float("nan"), 0.5], [9, 64, 7, 8], cut=[False, True, False, False], group_size=2)
    first, second = observed(batch)
    assert first == Observed("p0", (1.0, 0.25), (9, 64))
    assert (second.scored, second.right, second.right_tokens) == (1, 0.5, ())
    store = after_generation(Store(), [], [first, second])
    assert (store.pass_rate("p0"), store.pass_rate("p1")) == (0.625, 0.5)
    seen = store.history("p0")
    assert (seen.right, seen.right_tokens, seen.shortest_right, seen.recent_right) == (1.25, 9 + 16, 9, (9,))


def test_facts_of_known_and_unknown_problems():
    store = Store(references={"b": Reference(4, 3, 120.0)})
    store = after_generation(store, [], [Observed("a", (1, 1, 0), (40, 30, 90))])
    found = facts(store, ["a", "b", "a"])
    assert found["shortest_right"].tolist()[::2] == [30, 30]
    assert found["mean_right"][0] == 35
    assert found["low_right"][0] == 32
    assert found["pass_rate"][0] == pytest.approx(2 / 3)
    assert found["reference_accuracy"][1] == 0.75
    assert found["reference_tokens"][1] == 120
    assert found["shortest_right"][1].isnan()
    assert found["reference_tokens"][0].isnan()
    assert store.pass_rate("b") == 0.75
    assert store.pass_rate("c") is None


def test_a_policy_without_wishes_changes_nothing():
    policy = Policy()
    assert policy.probe(Store(), ["a"]) is None
    assert policy.after_probe({"x": 1}, []) == policy.after_generation({"x": 1}, []) == {"x": 1}
    assert policy.known(Store(), ["a"]) == {}


@given(st.lists(GROUPS, min_size=1, max_size=5), st.integers(0, 4))
def test_a_store_goes_on_from_a_checkpoint_as_if_nothing_had_happened(generations, stop):
    whole = interrupted = start_store(POLICIES, {"a": Reference(4, 1, 50.0)})
    for number, groups in enumerate(generations):
        if number == stop:
            interrupted = through_json(interrupted)
        for policy in POLICIES:
            whole, interrupted = (after_probe(store, policy, groups) for store in (whole, interrupted))
        whole, interrupted = (after_generation(store, POLICIES, groups) for store in (whole, interrupted))
    assert interrupted == whole
    assert whole.generation == len(generations)


@given(GROUPS)
def test_what_is_kept_does_not_depend_on_the_order_within_a_group(groups):
    turned = [Observed(g.problem_id, g.correct[::-1], g.tokens[::-1]) for g in groups]
    one, two = (after_generation(start_store(POLICIES), POLICIES, some) for some in (groups, turned))
    assert one.states == two.states
    for name in one.histories:
        assert sorted(one.history(name).recent_right) == sorted(two.history(name).recent_right)
        assert one.history(name).right_tokens == two.history(name).right_tokens


def test_facts_reach_each_row_as_tensors():
    assert all(value.dtype == torch.float32 and value.shape == (2,) for value in facts(Store(), ["a", "b"]).values())
