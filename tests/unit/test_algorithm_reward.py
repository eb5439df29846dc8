"""Published numbers of the rewards, and reward files that cannot be used."""

import math

import pytest
import torch
from trl.rewards import get_soft_overlong_punishment

from reason_rl.algorithm.reward import correctness, cosine, load_reward, product, soft_overlong, truncation
from reason_rl.errors import RecipeError
from reason_rl.rollout.batch import example_batch

PUBLISHED = {"right": (2.0, 1.0), "wrong": (-10.0, 0.0), "exceeded": -10.0}


@pytest.mark.parametrize(
    ("tokens", "right", "wrong"),
    [
        (1024, 1.853553, -8.535534),
        (2048, 1.5, -5.0),
        (3072, 1.146447, -1.464466),
        (4096, -10.0, -10.0),
        (5000, -10.0, -10.0),
    ],
)
def test_cosine_gives_the_published_values(tokens, right, wrong):
    values = cosine(4096, **PUBLISHED)(example_batch([1, 0], [tokens, tokens]))
    torch.testing.assert_close(values, torch.tensor([right, wrong]), atol=2e-6, rtol=0)


def test_a_wrong_answer_gains_nothing_by_being_cut():
    values = cosine(4096, **PUBLISHED)(example_batch([0, 0], [4000, 4000], cut=[False, True]))
    assert values[0] > -0.1
    assert values[1] == -10


def test_unscored_rows_stay_unscored():
    batch = example_batch([math.nan, 1], [10, 10], cut=[True, False])
    for reward in (correctness(wrong=-1.0), cosine(64, **PUBLISHED), product(correctness(), truncation())):
        assert reward(batch).isnan().tolist() == [True, False]


@pytest.mark.parametrize(("longest", "cache"), [(20, 5), (20, 20), (20, 0), (1, 1)])
def test_soft_overlong_is_that_of_trl_at_every_length(longest, cache):
    lengths = list(range(longest + 5))
    ours = soft_overlong(longest, cache)(example_batch([1] * len(lengths), lengths))
    stock = get_soft_overlong_punishment(longest, cache)(completion_ids=[[7] * n for n in lengths])
    torch.testing.assert_close(ours, torch.tensor(stock))


@pytest.mark.parametrize(("longest", "cache"), [(20, 21), (20, -1)])
def test_soft_overlong_refuses_a_cache_that_does_not_fit(longest, cache):
    with pytest.raises(RecipeError, match=f"cache_tokens {cache} is not between 0 and max_tokens {longest}"):
        soft_overlong(longest, cache)


def test_cosine_refuses_a_maximum_of_nothing():
    with pytest.raises(RecipeError, match="max_tokens 0 is not positive"):
        cosine(0, **PUBLISHED)


def test_an_end_token_at_the_cap_is_a_finished_rollout():
    batch = example_batch([1, 1], [64, 64], cut=[False, True], budget=64)
    assert product(correctness(), truncation())(batch).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "params", "message"),
    [
        ("def reward(:\n", {}, r"own.py: cannot be loaded \(SyntaxError"),
        ("import no_such_module\n", {}, r"own.py: cannot be loaded \(ModuleNotFoundError: No module named 'no_such"),
        ("reward = 3\n", {}, r"own.py: defines no function reward"),
        ("def reward(*, share): ...\n", {}, r"own.py: reward needs the parameter share"),
        ("def reward(share): ...\n", {}, r"own.py: reward needs the parameter share"),
        ("def reward(*, share=0.0): ...\n", {"other": 1}, r"own.py: reward has no parameter other; it takes share"),
        ("def reward(*, share: float): ...\n", {"share": "no"}, r"own.py: parameter share is 'no'; expected float"),
        ("def reward(*, tokens: int): ...\n", {"tokens": 1.5}, r"own.py: parameter tokens is 1.5; expected int"),
        ("def reward(*, tokens: int): ...\n", {"tokens": True}, r"own.py: parameter tokens is True; expected int"),
        ("def reward(): return 3\n", {}, r"own.py: reward\(\) returns int, not a function"),
    ],
)
def test_reward_files_that_cannot_be_used_are_one_line(tmp_path, text, params, message):
    path = tmp_path / "own.py"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as raised:
        load_reward(path, **params)
    assert "\n" not in str(raised.value)


def test_own_reward_files_may_use_dataclasses_and_any_keyword(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Constant:\n"
        "    value: float\n"
        "    def __call__(self, batch):\n"
        "        return batch.correct * self.value\n"
        "def reward(value: float = 1.0, **others):\n"
        "    return Constant(value + len(others))\n"
    )
    batch = example_batch([1, 0], [5, 5])
    assert load_reward(path, value=2)(batch).tolist() == [2.0, 0.0]
    assert load_reward(path, anything="x")(batch).tolist() == [2.0, 0.0]
