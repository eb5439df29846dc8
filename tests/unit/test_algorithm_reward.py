"""Published numbers of the rewards, and reward files that cannot be used."""

import math

import pytest
import torch
from trl.rewards import get_soft_overlong_punishment

from reason_rl.algorithm.reward import correctness, cosine, load_reward, product, soft_overlong, truncation
from reason_rl.errors import RecipeError, RunError
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


def test_cosine_falls_for_right_answers_and_rises_for_wrong_ones_all_the_way():
    lengths = list(range(4096))
    right, wrong = (cosine(4096, **PUBLISHED)(example_batch([verdict] * 4096, lengths)) for verdict in (1, 0))
    assert (right.diff() <= 0).all()
    assert (wrong.diff() >= 0).all()
    assert (right[0], wrong[0]) == (2, -10)
    assert (right[-1], wrong[-1]) == (pytest.approx(1, abs=1e-6), pytest.approx(0, abs=1e-5))
    assert right.min() > wrong.max()


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
        ("def reward(:\n", {}, r"own.py:1: cannot be loaded \(SyntaxError"),
        ("import no_such_module\n", {}, r"own.py:1: cannot be loaded \(ModuleNotFoundError: No module named 'no_such"),
        ("reward = 3\n", {}, r"own.py: defines no function reward"),
        ("def reward(*, share): ...\n", {}, r"own.py: reward needs the parameter share"),
        ("def reward(share): ...\n", {}, r"own.py: reward needs the parameter share"),
        ("def reward(*, share=0.0): ...\n", {"other": 1}, r"own.py: reward has no parameter other; it takes share"),
        ("def reward(*, share: float): ...\n", {"share": "no"}, r"own.py: parameter share is 'no'; expected float"),
        ("def reward(*, tokens: int): ...\n", {"tokens": 1.5}, r"own.py: parameter tokens is 1.5; expected int"),
        ("def reward(*, tokens: int): ...\n", {"tokens": True}, r"own.py: parameter tokens is True; expected int"),
        ("def reward(): return 3\n", {}, r"own.py: reward\(\) returns int, not a function"),
        ("def reward():\n    return 1 / 0\n", {}, r"own.py:2: reward\(\*\*parameters\) failed: ZeroDivisionError"),
        ("def reward(batch, /): ...\n", {}, r"own.py: reward\(\*\*parameters\) failed: TypeError"),
        ("raise SystemExit(1)\n", {}, r"own.py:1: cannot be loaded \(SystemExit"),
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


OWN = "import torch\ndef reward():\n    def score(batch):\n        return {}\n    return score\n"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("batch.correct / (1 / 0)", r"own.py:4: ZeroDivisionError: division by zero"),
        ("batch.corect", r"own.py:4: AttributeError: .*corect"),
        ("batch.correct + None", r"own.py:4: TypeError"),
        ("batch.known['shortest']", r"own.py:4: KeyError: 'shortest'"),
        ("batch.correct.tolist()", r"own.py: the reward returned list, not a float tensor \[2\]"),
        ("None", r"own.py: the reward returned NoneType"),
        ("batch.correct.mean()", r"own.py: the reward returned torch.float32 of shape \[\] for 2 rows"),
        ("batch.correct[:, None]", r"own.py: the reward returned torch.float32 of shape \[2, 1\] for 2 rows"),
        ("1 / (batch.correct - 1)", r"own.py: the reward of row 0 is inf .*correct 1.0"),
        ("batch.correct * torch.nan", r"own.py: the reward of all 2 rows is nan"),
    ],
)
def test_a_reward_that_is_no_number_a_row_stops_the_run(tmp_path, value, message):
    path = tmp_path / "own.py"
    path.write_text(OWN.format(value))
    reward = load_reward(path)
    with pytest.raises(RunError, match=message) as raised:
        reward(example_batch([1, 0], [5, 5]))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", ["batch.correct", "(batch.correct == 1)", "batch.length", "batch.correct.double()"])
def test_rewards_become_float32_and_a_row_without_a_verdict_may_be_nan(tmp_path, value):
    path = tmp_path / "own.py"
    path.write_text(OWN.format(value))
    values = load_reward(path)(example_batch([1, math.nan], [5, 5]))
    assert values.dtype == torch.float32
    assert values[0] > 0
    # Problems without answers are no fault of the reward.
    load_reward(path)(example_batch([math.nan, math.nan], [5, 5]))
