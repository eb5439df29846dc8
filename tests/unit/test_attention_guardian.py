"""Guardian: the paper's steps, the gain gate, learning, and a state that survives JSON."""

import json

import pytest
import torch

from reason_rl.algorithm.store import Observed, Store, after_generation, start_store
from reason_rl.attention.guardian import (
    Guardian,
    Knobs,
    initial_weights,
    learned,
    log_probability,
    means,
    temperature,
    turned,
)
from reason_rl.recipe.load import load_recipe
from reason_rl.trainer.config import composition


def guardian(**options):
    return Guardian(max_tokens=100, entropy=1.0, **{"window": 2, **options})


def groups(right, tokens=50):
    return [Observed("p", (1.0,) * right + (0.0,) * (8 - right), (tokens,) * 8)]


def run(policy, rights):
    store = start_store([policy])
    for right in rights:
        store = after_generation(store, [policy], groups(right))
    return store


@pytest.mark.parametrize(
    ("tau", "action", "expected"), [(0.68, 1, 0.71), (1.59, 2, 1.6), (0.31, -5, 0.3), (1.0, 0, 1.0)]
)
def test_the_papers_steps(tau, action, expected):
    assert turned(Knobs(tau), (action, 0, 0)).tau == pytest.approx(expected)


def test_without_it_nothing_is_kept_and_the_temperature_stays():
    bare = load_recipe("tiny/dler_rpa").recipe
    method = composition(bare, bare.reward_file())
    store = after_generation(start_store(method.policies), method.policies, groups(4))
    assert store.states == {}
    assert temperature(store) == temperature(Store()) == 1.0
    guarded = load_recipe("tiny/dler_rpa_guardian").recipe
    assert "guardian" in start_store(composition(guarded, guarded.reward_file()).policies).states


def test_weights_stay_in_their_ranges():
    knobs = turned(Knobs(1.0, 0.995, 0.6), (0, 9, 9))
    assert (knobs.lambda_delta, knobs.lambda_sat) == (1.0, 0.6)
    knobs = turned(Knobs(), (0, -9, -9))
    assert (knobs.lambda_delta, knobs.lambda_sat) == (0.0, 0.0)


def test_without_gain_it_relaxes_and_learns_nothing():
    policy = guardian()
    state = policy.initial_state() | {"knobs": {"tau": 0.5, "lambda_delta": 0.0, "lambda_sat": 0.0}}
    for _ in range(6):
        state = policy.after_generation(state, groups(4))
    assert state["knobs"]["tau"] == pytest.approx(1 - 0.5 * 0.9**6)
    assert state["updates"] == 0
    assert state["acted"] is None


def test_with_gain_it_acts_and_learns_from_what_came_of_it():
    state = run(guardian(), range(1, 8)).states["guardian"]
    assert state["knobs"]["tau"] != 1.0
    assert state["updates"] > 0
    assert state["acted"] is not None


def test_only_every_so_often_and_not_without_verdicts():
    policy = guardian(every=3)
    state = policy.after_generation(policy.initial_state(), groups(4))
    assert state["smoothed"] == []
    state = policy.after_generation(policy.after_generation(state, groups(4)), [Observed("p", (float("nan"),), (5,))])
    assert state["smoothed"] == []


def test_a_restored_state_goes_on_alike():
    policy = guardian()
    whole = run(policy, range(8)).states["guardian"]
    half = json.loads(json.dumps(run(policy, range(4)).states["guardian"]))
    for right in range(4, 8):
        half = policy.after_generation(half, groups(right))
    assert half == whole


def test_a_rewarded_action_becomes_likelier():
    state = guardian().initial_state()
    seen, action = torch.tensor([0.1, 0.5, 1.0, 0.7]), torch.tensor([1.0, -1.0, 0.5])
    before = log_probability([torch.tensor(w) for w in state["weights"]], seen, action)
    after = log_probability([torch.tensor(w) for w in learned(state, seen, action, 1.0, 1e-2)["weights"]], seen, action)
    assert after > before
    worse = learned(state, seen, action, -1.0, 1e-2)["weights"]
    assert log_probability([torch.tensor(w) for w in worse], seen, action) < before


def test_the_gradient_of_the_mean_action_is_the_papers():
    # R = -(tau - 0.9)^2 at 0.68: dR/da = 0.03 * 0.44, which REINFORCE estimates by its mean over actions.
    weights, seen = initial_weights(0), torch.zeros(4)
    base = means(weights, seen)
    draws = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0))
    tau = 0.68 + 0.03 * draws[:, 0]
    gained = -((tau - 0.9) ** 2)
    assert base.tolist() == [0, 0, 0]
    assert ((gained - gained.mean()) * draws[:, 0]).mean().item() == pytest.approx(0.0132, abs=3e-4)


def test_the_temperature_is_that_of_the_store():
    assert temperature(Store()) == 1.0
    assert temperature(run(guardian(), [1])) == 1.0
