"""What the arena's page says of a cap, with its rollout tokens and one seed: a cap shortens, GRPO without one hardly does.

The bounds are from eval/arena/cells.jsonl, the first two samples of a problem, beside a start of 159 tokens and 84.0 %: the
pass-rate band, under a cap of 80, has 51 to 57 % of its tokens and 1.9 to 3.0 points more (three seeds), GRPO 96 % and 3.5.
"""

import statistics

import pytest

from reason_rl.evaluate.records import read_rows
from reason_rl.evaluate.run import evaluate
from reason_rl.recipe.load import load_recipe

EVAL = ("eval.data.count=216", "eval.samples=2")
ALLOWANCE = "rollout.allowance_tokens=245760"  # 96 updates of 32 rows at 80 tokens, as in the arena


def mean(rows, name):
    return statistics.mean(float(getattr(row, name)) for row in rows)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "before.jsonl"
    evaluate(load_recipe("tiny/grpo", EVAL).recipe, None, path)
    return read_rows(path).rows


@pytest.mark.slow
def test_capped_rollouts_shorten_by_a_third_and_accuracy_holds(start, learn, tmp_path):
    rows = learn("tiny/pass_rate_band", tmp_path, 0, *EVAL, ALLOWANCE)
    assert mean(rows, "completion_tokens") < 0.65 * mean(start, "completion_tokens")
    assert mean(rows, "correct") > mean(start, "correct") - 0.03


@pytest.mark.slow
def test_plain_grpo_does_not_shorten_that_far(start, learn, tmp_path):
    rows = learn("tiny/grpo", tmp_path, 0, *EVAL, ALLOWANCE)
    assert mean(rows, "completion_tokens") > 0.8 * mean(start, "completion_tokens")
    assert mean(rows, "correct") > mean(start, "correct") - 0.02
