"""Graded rollouts: a cut one is wrong, so that every reward, fact and figure agrees."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reason_rl.algorithm.reward import load_reward
from reason_rl.algorithm.store import observed
from reason_rl.answer.verify import ExactVerifier
from reason_rl.rollout.backend import Sample
from reason_rl.rollout.grading import Grader, Moment
from reason_rl.world.tokenizer import END_THINK

REWARDS = Path(__file__).parents[2] / "rewards"
START = {"shortest_right": 9.0, "reference_tokens": 9.0, "reference_accuracy": 0.5}
TARGETS = {f"target_{tier}": 64.0 for tier in ("high", "medium", "low")}


@pytest.fixture
def grade(tiny_tokenizer):
    """Grade four rollouts that all wrote the right answer: finished, cut, finished by force, and one nobody can judge."""

    def graded():
        ids = tuple(tiny_tokenizer(f"3 {END_THINK} \\boxed{{ 7 }}", add_special_tokens=False).input_ids)
        samples = [Sample(ids, (-1.0,) * len(ids), reason) for reason in ("stop", "length", "exit", "length")]
        rows = [{"problem_id": "p", "answer": answer} for answer in ("7", "7", "7", None)]
        grader = Grader(tiny_tokenizer, ExactVerifier(), tiny_tokenizer.convert_tokens_to_ids(END_THINK))
        return grader.grade(rows, [()] * 4, samples, [9] * 4, Moment(0, 0.0, 0), 4)

    return graded


def test_a_rollout_that_was_cut_is_wrong_whatever_it_says(grade):
    batch = grade()
    assert batch.correct.tolist() == pytest.approx([1.0, 0.0, 1.0, math.nan], nan_ok=True)
    assert batch.written.tolist() == pytest.approx([1.0, 1.0, 1.0, math.nan], nan_ok=True)
    (seen,) = observed(batch)
    assert (seen.right, seen.scored) == (2, 3)


def test_an_answer_after_closed_thinking_is_judged_by_its_text(tiny_tokenizer):
    ids = tuple(tiny_tokenizer("\\boxed{ 7 }", add_special_tokens=False).input_ids)
    grader = Grader(tiny_tokenizer, ExactVerifier(), tiny_tokenizer.convert_tokens_to_ids(END_THINK))
    rows, samples = [{"problem_id": "p", "answer": "7"}], [Sample(ids, (-1.0,) * len(ids), "length")]
    batch = grader.grade(rows, [()], samples, [9], Moment(0, 0.0, 0), 1, closed=True)
    assert batch.correct.tolist() == [1.0]


@pytest.mark.parametrize(("answer", "form"), [("", -1.0), ("\\boxed{ 7 }", 2.0)])
def test_the_end_token_is_no_answer_of_a_turn(tiny_tokenizer, answer, form):
    ids = tuple(tiny_tokenizer(f"3 {END_THINK} {answer}", add_special_tokens=False).input_ids)
    end = tiny_tokenizer.convert_tokens_to_ids(END_THINK)
    rows, sample = [{"problem_id": "p", "answer": "7"}], Sample((*ids, tiny_tokenizer.eos_token_id), (), "stop")
    batch = Grader(tiny_tokenizer, ExactVerifier(), end).grade(rows, [()], [sample], [9], Moment(0, 0.0, 0), 1)
    assert load_reward(REWARDS / "mind.py")(batch).tolist() == [form]


def test_only_the_end_token_of_a_finished_rollout_is_left_out_of_its_text(tiny_tokenizer):
    tiny_tokenizer = copy.deepcopy(tiny_tokenizer)
    tiny_tokenizer.add_special_tokens({"extra_special_tokens": ["<think>", END_THINK]})
    think, end = tiny_tokenizer.convert_tokens_to_ids(["<think>", END_THINK])
    grader, last = Grader(tiny_tokenizer, ExactVerifier(), end), tiny_tokenizer.eos_token_id
    ids = (*tiny_tokenizer("3", add_special_tokens=False).input_ids, think)
    assert grader.text(Sample((*ids, end, last), (), "stop")) == tiny_tokenizer.decode([*ids, end])
    assert grader.text(Sample((*ids, end), (), "stop")) == tiny_tokenizer.decode([*ids, end])
    assert grader.text(Sample(ids, (), "length")) == tiny_tokenizer.decode(ids)
    assert grader.text(Sample((), (), "stop")) == ""


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("correctness", {}),
        ("hapo", {}),
        ("o1_pruner", {}),
        ("adaptthink", {}),
        ("laser", {"target_tokens": 64}),
        ("laser_d", {}),
        ("laser_de", {}),
        ("dler", {}),
    ],
)
def test_no_reward_pays_a_cut_rollout_for_its_answer(grade, name, params):
    known = {key: torch.full((4,), value) for key, value in (START | TARGETS).items()}
    finished, cut, forced, _ = load_reward(REWARDS / f"{name}.py", **params)(replace(grade(), known=known)).tolist()
    assert finished == forced
    assert finished - cut > 0.5


def test_what_a_cut_rollout_keeps_is_a_share_of_the_answer_it_had_written(grade):
    values = load_reward(REWARDS / "dler.py", truncated_reward=0.125)(grade())
    assert values[:3].tolist() == [1.0, 0.125, 1.0]
