"""TLDR: prices by level, worked out by hand, and the trap of the group's standard deviation."""

import json

import pytest
import torch

from reason_rl.algorithm.advantage import advantages
from reason_rl.algorithm.price import GuardedPrices, priced
from reason_rl.algorithm.reward import correctness, load_reward
from reason_rl.algorithm.store import Observed, Store, after_generation, from_json, start_store, to_json
from reason_rl.content import find_content
from reason_rl.errors import RecipeError
from reason_rl.recipe.load import load_recipe
from reason_rl.rollout.batch import example_batch

FILE = find_content("rewards/tldr.py")
PRICES = {"short": 0.6, "medium": 0.3, "long": 0.0, "plain": 0.3}
GENTLE = GuardedPrices(PRICES, warmup_generations=2, smoothing=0.5)


def tldr(correct, length, price, max_tokens=8000, **more):
    batch = example_batch(correct, length, budget=max_tokens, known={"price": [price] * len(length)}, **more)
    return load_reward(FILE, max_tokens=max_tokens)(batch)


def centred(rewards, scale="none"):
    return advantages(rewards, len(rewards), baseline="group_mean", scale=scale)


def test_numbers_worked_out_by_hand():
    rewards = tldr([1, 1, 0, 1], [1000, 2000, 4000, 8000], 0.5)
    assert rewards.tolist() == [0.9375, 0.875, 0.0, 0.5]
    assert centred(rewards).tolist() == pytest.approx([0.359375, 0.296875, -0.578125, -0.078125])
    assert centred(rewards, "group_std").tolist() == pytest.approx([0.83337, 0.68844, -1.34064, -0.18117], abs=1e-5)


def test_the_group_deviation_cancels_the_price_and_nothing_else_does():
    cheap, dear = (tldr([1] * 4, [1000, 2000, 3000, 4000], price) for price in (0.3, 0.6))
    assert centred(cheap).tolist() == pytest.approx([0.05625, 0.01875, -0.01875, -0.05625], abs=1e-6)
    assert centred(dear).tolist() == pytest.approx([2 * value for value in centred(cheap).tolist()], abs=1e-6)
    for rewards in (cheap, dear):
        assert centred(rewards, "group_std").tolist() == pytest.approx([1.16, 0.387, -0.387, -1.16], abs=4e-3)
    both = torch.cat([cheap, dear])
    scaled = advantages(both, 4, baseline="group_mean", scale="batch_std_rewards")
    assert scaled[4:].tolist() == pytest.approx([2 * value for value in scaled[:4].tolist()], abs=1e-5)


@pytest.mark.parametrize("price", [0.0, 0.3, 0.99])
def test_every_right_answer_beats_every_wrong_one_and_cuts_are_wrong(price):
    lengths = [1, 4000, 8000]
    assert tldr([1] * 3, lengths, price).min() > tldr([0] * 3, lengths, price).max()
    assert tldr([1], [8000], price, cut=[True]).tolist() == [0.0]


def test_longer_and_dearer_is_less_and_nothing_costs_nothing():
    lengths = list(range(100, 8001, 100))
    values = [tldr([1] * len(lengths), lengths, price) for price in (0.0, 0.3, 0.6)]
    assert torch.equal(values[0], correctness()(example_batch([1] * len(lengths), lengths)))
    assert (values[1].diff() < 0).all()
    assert (values[2] < values[1]).all()
    assert tldr([1], [8000], 0.999).item() == pytest.approx(0.001, abs=1e-5)
    assert tldr([1], [9000], 0.5).item() == 0.5


def test_the_relative_price_is_another_reward_of_the_catalogue():
    relative = load_reward(find_content("rewards/efficient_reasoning.py"), alpha=0.5)
    rewards = relative(example_batch([1, 1, 0, 1], [1000, 2000, 4000, 8000]))
    assert rewards.tolist() == pytest.approx([0.851608, 0.815809, 0.0, 0.598763], abs=1e-5)


def test_free_tokens_cost_nothing():
    batch = example_batch([1] * 3, [1000, 2000, 6000], known={"price": [0.5] * 3})
    assert priced(8000, 2000)(batch).tolist() == [1.0, 1.0, 0.75]


def test_a_missing_price_and_a_bad_maximum_are_refused():
    with pytest.raises(RecipeError, match="a row has no price"):
        load_reward(FILE, max_tokens=80)(example_batch([1], [10]))
    with pytest.raises(RecipeError, match="not above free_tokens"):
        priced(10, 10)


def after(store, rights, policy=GENTLE):
    """Return the store after a generation with these numbers of right answers of four at each level."""
    groups = [Observed(f"p1@{level}", (1.0,) * n + (0.0,) * (4 - n), (9,) * 4) for level, n in rights.items()]
    return after_generation(store, [policy], groups)


def price(store, level, policy=GENTLE):
    return policy.known(store, [f"p1@{level}" if level != "plain" else "p1"])["price"].item()


def test_prices_rise_from_nothing_during_the_warm_up():
    store = start_store([GENTLE])
    seen = []
    for _ in range(4):
        seen.append((price(store, "short"), price(store, "plain"), price(store, "long")))
        store = after(store, {"short": 4})
    assert [row[0] for row in seen] == pytest.approx([0.0, 0.3, 0.6, 0.6])
    assert [row[1] for row in seen] == pytest.approx([0.0, 0.15, 0.3, 0.3])
    assert [row[2] for row in seen] == [0.0] * 4


def test_the_guard_lowers_the_price_of_the_level_that_loses_and_restores_it():
    store = start_store([GENTLE])
    for rights in ({"short": 4, "medium": 4}, {"short": 4, "medium": 4}, {"short": 2, "medium": 4}):
        store = after(store, rights)
    assert price(store, "short") == pytest.approx(0.6 * 0.9)
    assert price(store, "medium") == pytest.approx(0.3)
    store = after(store, {"short": 2})
    assert price(store, "short") == pytest.approx(0.6 * 0.81)
    for _ in range(4):
        store = after(store, {"short": 4})
    # 0.625, 0.8125, 0.90625 are still too low, 0.953125 is not.
    assert price(store, "short") < 0.6
    for _ in range(40):
        store = after(store, {"short": 4})
    assert price(store, "short") == pytest.approx(0.6)


def test_the_guard_takes_a_tenth_and_gives_back_two_hundredths():
    policy = GuardedPrices(PRICES, warmup_generations=2, smoothing=0.0)
    store, shares = start_store([policy]), []
    for right in (4, 4, 2, 4):
        store = after(store, {"short": right}, policy)
        shares.append(store.states["prices"]["share"]["short"])
    assert shares == pytest.approx([1.0, 1.0, 0.9, 0.918])


def test_the_guard_compares_a_running_accuracy_and_bears_five_points():
    policy = GuardedPrices(PRICES, warmup_generations=2)
    store, seen = start_store([policy]), []
    for right in (4, 4, 3, 2, 4):
        store = after(store, {"short": right}, policy)
        state = store.states["prices"]
        seen.append((state["accuracy"]["short"], state["share"]["short"]))
    assert [accuracy for accuracy, _ in seen] == pytest.approx([1.0, 1.0, 0.975, 0.9275, 0.93475])
    assert [share for _, share in seen] == pytest.approx([1.0, 1.0, 1.0, 0.9, 0.81])


def test_a_level_without_a_price_is_unknown_and_the_state_is_plain_json():
    store = after(start_store([GENTLE]), {"short": 3, "other": 1})
    assert GENTLE.known(store, ["p1@other"])["price"].isnan().all()
    assert "other" not in store.states["prices"]["accuracy"]
    assert from_json(json.loads(json.dumps(to_json(store)))) == store
    assert isinstance(store, Store)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("algorithm.advantage.scale=group_std", "group_std cancels the prices"),
        ("trainer.steps_per_generation=1", "nearly the deviation of one group"),
        ("prompt.plain_share=0", "name what prompt.variants lacks: plain"),
        ("prompt.ask=brief", "brief is none of the variants short, medium, long"),
        (
            "algorithm.prices.prices={short: 0.3, medium: 0.3, long: 0.3, plain: 0.3}",
            "two levels with different prices",
        ),
    ],
)
def test_recipes_that_walk_into_a_trap_are_refused(change, complaint):
    with pytest.raises(RecipeError, match=complaint):
        load_recipe("tiny/tldr", [change])


def climb(scale, rng, steps=2300):
    """Return the mean lengths that GRPO on categorical policies over lengths ends at, for prices 0.3 and 0.6."""
    lengths = torch.arange(250, 8001, 250.0)
    right_share = 1 - torch.exp(-lengths / 1000)
    logits = torch.zeros(2, len(lengths))
    for _ in range(steps):
        policies = logits.softmax(-1).repeat_interleave(4, dim=0)
        drawn = torch.multinomial(policies, 8, replacement=True, generator=rng)
        correct = (torch.rand(drawn.shape, generator=rng) < right_share[drawn]).float()
        prices = torch.tensor([0.3] * 4 + [0.6] * 4)[:, None]
        rewards = correct * (1 - prices * lengths[drawn] / 8000)
        values = advantages(rewards.flatten(), 8, baseline="group_mean", scale=scale).view_as(drawn)
        push = torch.zeros_like(policies).scatter_add(1, drawn, values) - values.sum(1, keepdim=True) * policies
        logits += 0.1 * push.view(2, 4, -1).mean(dim=1) / 8
    return (logits.softmax(-1) * lengths).sum(-1).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_on_a_toy_the_batch_deviation_finds_the_best_lengths_and_the_groups_shortens_too_far(seed):
    lengths = torch.arange(250, 8001, 250.0)
    worth = [tldr([1] * len(lengths), lengths.int().tolist(), price) for price in (0.3, 0.6)]
    best = [lengths[((1 - torch.exp(-lengths / 1000)) * value).argmax()].item() for value in worth]
    assert best == [3250, 2500]
    batch, group = (climb(scale, torch.Generator().manual_seed(seed)) for scale in ("batch_std_rewards", "group_std"))
    assert batch == pytest.approx(best, rel=0.1)
    assert batch[0] > batch[1]
    assert all(found < 0.85 * wanted for found, wanted in zip(group, best, strict=True))
