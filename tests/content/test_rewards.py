"""Every file of rewards/: listed, runnable, and honest about whether it penalises cut rollouts."""

import ast
import doctest
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reason_rl.algorithm.reward import load_reward
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
