"""Every file of rewards/: listed, runnable, and honest about whether it penalises cut rollouts."""

import ast
import doctest
import functools
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.algorithm.reward import correctness, load_reward, product, truncation
from reason_rl.rollout.batch import example_batch

FOLDER = Path(__file__).parents[2] / "rewards"
FILES = sorted(FOLDER.glob("*.py"))
NEEDED = {"max_tokens": 64, "cache_tokens": 16, "target_tokens": 32, "thresholds": [0.5], "tokens": [65, 64]}
COLUMNS = {"target_tokens": 32}
KNOWN = {
    "shortest_right": 20.0,
    "mean_right": 20.0,
    "low_right": 20.0,
    "reference_accuracy": 0.5,
    "reference_tokens": 20.0,
    "price": 0.5,
    "target_high": 64.0,
    "target_medium": 64.0,
    "target_low": 64.0,
}
# Parameters with which nothing is left of a method, and what its reward then is: correctness, cut or not, or where not cut.
PLAIN, FINISHED = correctness(), product(correctness(), truncation())
NEUTRAL = {
    "adaptthink": ({"delta": 0.0}, PLAIN),
    "alp": ({"beta": 0.0, "max_tokens": 64}, FINISHED),
    "correctness": ({}, PLAIN),
    "cosine": (
        {
            "max_tokens": 65,
            "right_short": 1.0,
            "right_long": 1.0,
            "wrong_short": 0.0,
            "wrong_long": 0.0,
            "exceeded": 0.0,
        },
        FINISHED,
    ),
    "da_dler": ({"thresholds": [0.5], "tokens": [66, 65]}, FINISHED),
    "dler": ({"truncated_reward": 1.0}, PLAIN),
    "dr_saf": ({"bonus": 0.0}, FINISHED),
    "efficient_reasoning": ({"alpha": 0.0}, FINISHED),
    "hapo": ({"weight": 0.0}, PLAIN),
    "kimi_length": ({"weight": 0.0}, FINISHED),
    "l1_exact": ({"token_penalty": 0.0}, FINISHED),
    "l1_max": ({"token_slope": 0.0, "at_target": 1.0}, FINISHED),
    "laser": ({"target_tokens": 32, "bonus": 0.0, "wrong_reward": 0.0}, PLAIN),
    "laser_d": ({"bonus": 0.0, "wrong_reward": 0.0}, PLAIN),
    "laser_de": ({"bonus": 0.0, "wrong_reward": 0.0}, PLAIN),
    "self_rewarded_efficiency": ({"weight": 0.0}, FINISHED),
    "shorter_better": ({"right_reward": 1.0, "token_penalty": 0.0}, FINISHED),
    "soft_overlong": ({"max_tokens": 99, "cache_tokens": 16}, PLAIN),
    "tldr": ({"max_tokens": 64}, FINISHED),
}
# The others: scores of -1 and 1, advantages over a start model, turns, or a probe.
NEVER_NEUTRAL = {"dast", "grpo_lead", "mind", "o1_pruner", "probe_exit"}
# By the paper's formula, whatever the lengths.
RIGHT_BEATS_WRONG = (
    "correctness",
    "dast",
    "dr_saf",
    "efficient_reasoning",
    "grpo_lead",
    "hapo",
    "laser",
    "laser_d",
    "laser_de",
    "self_rewarded_efficiency",
    "tldr",
)


@functools.cache
def loaded(path):
    tree = ast.parse(path.read_text())
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "reward")
    params = [a.arg for a in (*function.args.args, *function.args.kwonlyargs)]
    return load_reward(path, **{name: NEEDED[name] for name in params if name in NEEDED})


def rollouts(correct, length, **more):
    columns = {name: (value,) * len(correct) for name, value in COLUMNS.items()}
    known = {name: (value,) * len(correct) for name, value in KNOWN.items()}
    batch = example_batch(correct, length, columns=columns, known=known, budget=64, **more)
    return replace(batch, text=("1 </think> \\boxed{ 2 }",) * len(correct))


def declares_penalty(path):
    return "TRUNCATION_PENALTY = True" in path.read_text().splitlines()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_parameter_is_in_the_table(path):
    rows = {row.split("`")[1]: row for row in (FOLDER / "README.md").read_text().splitlines() if row.startswith("| `")}
    assert set(rows) == {path.name for path in FILES}
    cells = [cell.strip() for cell in rows[path.name].strip("|").split("|")]
    function = next(n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef))
    names = [f"`{a.arg}`" for a in (*function.args.args, *function.args.kwonlyargs)]
    assert cells[2] == ", ".join(names)
    assert cells[3] == ("yes" if declares_penalty(path) else "no")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_example_runs(path):
    namespace = {"reward": runpy.run_path(str(path))["reward"]}
    text = ast.get_docstring(ast.parse(path.read_text()))
    examples = doctest.DocTestParser().get_doctest(text, namespace, path.name, str(path), 0)
    assert examples.examples
    assert doctest.DocTestRunner(verbose=False).run(examples).failed == 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rewards_are_floats_one_a_row_and_nan_only_where_unscored(path):
    batch = rollouts([1, 0, float("nan"), 1], [5, 60, 9, 64], cut=[False, False, False, True])
    values = loaded(path)(batch)
    assert values.shape == (4,)
    assert values.dtype == torch.float32
    assert values.isnan().tolist() == [False, False, True, False]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_right_cut_rollout_loses_exactly_where_the_file_says_so(path):
    finished, cut = loaded(path)(rollouts([1, 1], [63, 64], cut=[False, True]))
    assert (finished - cut > 0.01) == declares_penalty(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_right_answer_beats_a_wrong_one_of_its_length(path):
    right, wrong = loaded(path)(rollouts([1, 0], [20, 20]))
    assert right > wrong


ROWS = [1, 0, 1, 1, 0, 0, 1, 0], [5, 60, 9, 64, 7, 64, 30, 31], [False, False, False, True, False, True, False, False]


def test_every_reward_is_neutral_or_is_not():
    assert {path.stem for path in FILES} == {*NEUTRAL} | NEVER_NEUTRAL


@pytest.mark.parametrize("name", NEUTRAL)
def test_without_its_method_a_reward_is_that_of_grpo_bit_for_bit(name):
    params, expected = NEUTRAL[name]
    correct, length, cut = ROWS
    batch = rollouts(correct, length, cut=cut, group_size=4)
    batch = replace(batch, known={**batch.known, "price": torch.zeros(8), "reference_accuracy": torch.zeros(8)})
    assert torch.equal(load_reward(FOLDER / f"{name}.py", **params)(batch), expected(batch))


def rows_of(order):
    """Return the rows of two groups in this order, whose problems are known differently, and with other texts."""
    correct, length, cut = ([column[i] for i in order] for column in ROWS)
    batch = rollouts(correct, length, cut=cut, group_size=4)
    share = torch.tensor([1.0 if i < 4 else 0.5 for i in order])
    texts = "1 </think> \\boxed{ 2 }", "1 <think> 2 </think> \\boxed{ 2 }"
    return replace(
        batch,
        known={name: value * share for name, value in batch.known.items()},
        text=tuple(texts[i % 2] for i in order),
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_neither_order_nor_other_groups_matter(path):
    values = loaded(path)(rows_of(range(8)))
    for order in ([2, 0, 3, 1, 7, 6, 4, 5], [4, 5, 6, 7, 0, 1, 2, 3], [0, 1, 2, 3], [7, 4, 5, 6]):
        torch.testing.assert_close(loaded(path)(rows_of(order)), values[order])


@pytest.mark.parametrize("name", RIGHT_BEATS_WRONG)
@given(rows=st.lists(st.tuples(st.booleans(), st.integers(1, 64)), min_size=2, max_size=8))
def test_every_right_answer_beats_every_wrong_one_of_its_group(name, rows):
    correct, length = ([float(right) for right, _ in rows], [tokens for _, tokens in rows])
    values, verdicts = loaded(FOLDER / f"{name}.py")(rollouts(correct, length)), torch.tensor(correct) == 1
    if verdicts.any() and not verdicts.all():
        assert values[verdicts].min() > values[~verdicts].max()
