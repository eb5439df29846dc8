"""DLER does in the tiny world what its paper says, and the world stays hard enough to tell methods apart.

The bounds are from the table "DLER against its broken variant" of docs/results.md.
"""

import statistics

import pytest

from reason_rl.evaluate.records import read_rows
from reason_rl.evaluate.run import evaluate
from reason_rl.recipe.load import load_recipe

SEEDS = (0, 1)
# Tighter than the recipe's: most groups are all wrong at first, which is what refilling is for.
CAP = 48
EASY_LEVELS, HARDEST = (1, 2, 3), (6,)
SHORT = (
    f"algorithm.budget.tokens={CAP}",
    "trainer.max_steps=96",
    "trainer.save_steps=96",
    "trainer.warmup_steps=8",
    "eval.data.count=216",
    "eval.samples=2",
    "eval.max_tokens=384",
)
# Stock scaling by the group's std, symmetric clipping, flat groups kept: what DLER says goes wrong under truncation.
BROKEN = (
    "algorithm.filter={keep: all, refill: false}",
    "algorithm.advantage={baseline: group_mean, scale: group_std}",
    "trainer.epsilon_high=0.2",
)


def mean(rows, name, levels=range(1, 7)):
    return statistics.mean(float(getattr(row, name)) for row in rows if row.level in levels)


def within_cap(rows):
    """Return the share that is right within the cap that was trained for."""
    return statistics.mean(row.correct and row.completion_tokens <= CAP for row in rows)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    loaded = load_recipe("tiny/dler", SHORT)
    path = tmp_path_factory.mktemp("start") / "before.jsonl"
    evaluate(loaded.recipe, None, path)
    return read_rows(path).rows


@pytest.fixture(scope="module")
def dler(learn, tmp_path_factory):
    return [learn("tiny/dler", tmp_path_factory.mktemp("dler") / str(seed), seed, *SHORT) for seed in SEEDS]


@pytest.fixture(scope="module")
def broken(learn, tmp_path_factory):
    return [learn("tiny/dler", tmp_path_factory.mktemp("broken") / str(seed), seed, *SHORT, *BROKEN) for seed in SEEDS]


@pytest.mark.slow
def test_dler_shortens_and_accuracy_holds(start, dler):
    for rows in dler:
        assert mean(rows, "completion_tokens") < 0.6 * mean(start, "completion_tokens")
        assert mean(rows, "correct") > mean(start, "correct") - 0.01
        assert within_cap(rows) > within_cap(start) + 0.25


@pytest.mark.slow
def test_the_broken_variant_does_worse(dler, broken):
    ours, theirs = (statistics.mean(within_cap(rows) for rows in runs) for runs in (dler, broken))
    # Two seeds of either differ by up to 6.5 points, the means by 6.9: no margin is asked for.
    assert ours > theirs


@pytest.mark.slow
def test_the_hardest_level_stays_hard(dler):
    for rows in dler:
        assert mean(rows, "correct", HARDEST) < 0.9


@pytest.mark.slow
def test_a_cap_that_suits_the_easy_half_costs_the_hardest_level(dler):
    for rows in dler:
        easy = [row.completion_tokens for row in rows if row.level in EASY_LEVELS and row.correct]
        cap = statistics.quantiles(easy, n=20)[-1]
        hardest = [row for row in rows if row.level in HARDEST]
        uncapped = statistics.mean(row.correct for row in hardest)
        assert statistics.mean(row.correct and row.completion_tokens <= cap for row in hardest) < uncapped - 0.10
