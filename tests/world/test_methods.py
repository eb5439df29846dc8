"""What the arena's page says of a cap, on fewer rollouts: a cap shortens, GRPO without one hardly does."""

import statistics

import pytest

from reason_rl.evaluate.records import read_rows
from reason_rl.evaluate.run import evaluate
from reason_rl.recipe.load import load_recipe

EVAL = ("eval.data.count=216", "eval.samples=2")
ALLOWANCE = "rollout.allowance_tokens=204800"  # 80 updates of 32 rows at 80 tokens


def mean(rows, name):
    return statistics.mean(float(getattr(row, name)) for row in rows)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "before.jsonl"
    evaluate(load_recipe("tiny/grpo", EVAL).recipe, None, path)
    return read_rows(path).rows


@pytest.mark.slow
def test_capped_rollouts_shorten_by_two_fifths_and_accuracy_holds(start, learn, tmp_path):
    rows = learn("tiny/cispo", tmp_path, 0, *EVAL, ALLOWANCE)
    assert mean(rows, "completion_tokens") < 0.6 * mean(start, "completion_tokens")
    # 1 point in the arena, which has twice the samples and several seeds.
    assert mean(rows, "correct") > mean(start, "correct") - 0.05


@pytest.mark.slow
def test_plain_grpo_does_not_shorten_that_far(start, learn, tmp_path):
    rows = learn("tiny/grpo", tmp_path, 0, *EVAL, ALLOWANCE)
    assert mean(rows, "completion_tokens") > 0.8 * mean(start, "completion_tokens")
    assert mean(rows, "correct") > mean(start, "correct") - 0.02
