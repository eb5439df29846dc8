"""reasoning-gym by our own grading: an allow-list, no model text evaluated, no credit for parts, all right answers right."""

import builtins
import json

import pytest
import reasoning_gym
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.answer.verify import ExactVerifier
from reason_rl.errors import RecipeError
from reason_rl.problem import gym
from reason_rl.problem.gym_verifier import GymVerifier, arithmetic, grade
from reason_rl.problem.sources import load_problems
from reason_rl.recipe.schema import GymData
from reason_rl.recipe.suite import load_suite, shipped_suites

JUNK = ["", "xyz", "0", "[]", "{}", "[[]]", "null", "1 + ", "(" * 10_000, "9" * 10_000, "__import__('os').abort()"]
SUITES = sorted(name for name in shipped_suites() if name.startswith("gym_"))


def rows(task, count=12):
    data = reasoning_gym.create_dataset(task, size=count, seed=5)
    return [data[i] for i in range(count)]


@pytest.fixture
def no_code(monkeypatch):
    """Fail when anything is evaluated as code."""
    sympy = pytest.importorskip("sympy.parsing.sympy_parser")

    def refuse(*_, **__):
        raise AssertionError("model text was evaluated")

    monkeypatch.setattr(builtins, "eval", refuse)
    monkeypatch.setattr(sympy, "parse_expr", refuse)


@pytest.mark.parametrize("task", gym.SEVERAL_ANSWERS)
def test_a_right_answer_is_right_and_nothing_else(task, no_code):
    for row in rows(task):
        oracle = row["answer"] or json.dumps(row["metadata"]["possible_answer"])
        gold = gym.gold(task, row)
        assert grade(oracle, gold)
        assert not any(grade(junk, gold) for junk in JUNK)
        # The scorers of reasoning-gym pay for some of these.
        assert task == "shortest_path" or not grade(f"The answer is {oracle}", gold)


@pytest.mark.parametrize("task", sorted(gym.ONE_ANSWER))
def test_tasks_with_one_answer_have_it_on_record(task):
    oracle = [row["answer"] for row in rows(task, 3)]
    assert all(isinstance(answer, str) and answer.strip() for answer in oracle)
    assert ExactVerifier().verify([f" {answer} " for answer in oracle], oracle) == [True] * 3
    assert ExactVerifier().verify([f"The answer is {answer}" for answer in oracle], oracle) == [False] * 3


def test_other_right_answers_than_the_one_on_record_are_right():
    cases = [
        ("countdown", {"numbers": [2, 3, 4], "target": 20}, [r"4 \times (3 + 2)", "(2+3)*4"], ["4*5", "2+3*4", "24-4"]),
        (
            "jugs",
            {"puzzle": {"jug_capacities": [3, 5], "target": 2}},
            ['["fill B", "pour B->A"]'],
            ['["fill C"]', "[1]"],
        ),
        ("palindrome_generation", {"letters": list("aabb")}, ["abba", "baab"], ["aabb", "aba"]),
        (
            "graph_color",
            {"puzzle": {"vertices": [0, 1], "edges": [[0, 1]], "color_options": [1, 2]}},
            ['{"0": 1, "1": 2}', '{"1": 1, "0": 2}'],
            ['{"0": 1, "1": 1}', '{"0": 1}', '{"0": 1, "1": 3}', '{"0": true, "1": 2}'],
        ),
        (
            "shortest_path",
            {"matrix": [["*", "O"], ["O", "#"]], "solution": ["down", "right"]},
            ["right down", "down right"],
            ["down", "up up", "right right", "down right up down"],
        ),
        ("shortest_path", {"matrix": [["*", "X", "#"]], "solution": []}, ["infeasible"], ["right right", ""]),
        (
            "n_queens",
            {"puzzle": [[*"____"]] * 4},
            ["_ Q _ _\n_ _ _ Q\nQ _ _ _\n_ _ Q _", "_ _ Q _\nQ _ _ _\n_ _ _ Q\n_ Q _ _"],
            ["Q _ _ _\n_ Q _ _\n_ _ Q _\n_ _ _ Q", "_ Q _ _"],
        ),
    ]
    for task, fields, right, wrong in cases:
        gold = json.dumps({"task": task, **fields})
        assert GymVerifier().verify([*right, *wrong, None], [gold] * (len(right) + len(wrong) + 1)) == [
            *[True] * len(right),
            *[False] * (len(wrong) + 1),
        ]


def test_one_answer_for_all_earns_little():
    """Where a constant answer is paid for, a model learns the constant."""
    for task in ("countdown", "jugs", "palindrome_generation"):
        several = rows(task, 40)
        golds = [gym.gold(task, row) for row in several]
        assert max(sum(grade(row["answer"], gold) for gold in golds) for row in several) <= 6


@given(st.text(alphabet="0123456789+-*/() ", max_size=40))
def test_arithmetic_is_what_python_says(text):
    result = arithmetic(text)
    if result is not None:
        plain = " ".join(f"Fraction({word})" if word.isdigit() else word for word in _words(text))
        from fractions import Fraction

        assert result[0] == eval(plain, {"Fraction": Fraction})


def _words(text):
    import re

    return [str(int(word)) if word.isdigit() else word for word in re.findall(r"\d+|\S", text)]


@pytest.mark.parametrize("task", [*gym.REFUSED, "rush_hour", "rubiks_cube", "propositional_logic"])
def test_tasks_off_the_list_are_refused_with_a_reason(task):
    with pytest.raises(RecipeError, match=rf"data.task: {task} is not used: \w+"):
        gym.check_task(task)


def test_the_lists_do_not_overlap():
    assert not gym.ONE_ANSWER & set(gym.SEVERAL_ANSWERS)
    assert not gym.ONE_ANSWER & set(gym.REFUSED)
    assert set(gym.REFUSED) | gym.ONE_ANSWER | set(gym.SEVERAL_ANSWERS) <= set(reasoning_gym.factory.DATASETS)


@pytest.mark.parametrize("name", SUITES)
def test_suites_hold_and_answers_of_several_are_not_compared(name):
    suite = load_suite(name).suite
    assert len(load_problems(suite.eval.data)) == suite.eval.data.count == 100
    assert (suite.answer.verify == "gym") == gym.needs_gym_verifier(suite.eval.data.task)
    if suite.answer.verify == "gym":
        with pytest.raises(RecipeError, match=rf"{suite.eval.data.task} has several right answers; set gym"):
            load_suite(name, ["answer.verify=exact"])


def test_settings_that_a_task_cannot_meet_are_one_line():
    config = {"min_numbers": 3, "max_numbers": 4, "max_value": 50, "max_target": 200}
    with pytest.raises(RecipeError, match=r"data.config: countdown cannot draw with"):
        load_problems(GymData(use="reasoning_gym", task="countdown", count=100, seed=1, config=config))
