"""Answers labelled by hand, class by class: what is the same answer, and what only looks like it."""

import json
from pathlib import Path

import pytest

from reason_rl.answer.grade import grade_rows
from reason_rl.answer.parts import all_match, parts_of
from reason_rl.answer.relation import as_range
from reason_rl.answer.unit import parse_unit
from reason_rl.answer.verify import MathVerifier
from reason_rl.answer.words import spoken

ROWS = [json.loads(line) for line in Path(__file__).with_name("graded_answers.jsonl").read_text().splitlines()]


def test_every_labelled_answer_is_judged_as_labelled():
    graded = grade_rows([{"gold": row["gold"], "prediction": row["prediction"]} for row in ROWS], 30.0, workers=2)
    wrong = [
        (row["class"], one["gold"], one["prediction"], one["correct"], one["reason"])
        for row, one in zip(ROWS, graded, strict=True)
        if (one["correct"] is True) != row["correct"]
    ]
    assert wrong == []
    assert all(one["reason"] for one in graded)


def test_the_table_holds_right_and_wrong_answers_of_every_kind():
    assert len(ROWS) > 1000
    assert 400 < sum(row["correct"] for row in ROWS) < len(ROWS) - 400
    assert len({(row["gold"], row["prediction"]) for row in ROWS}) == len(ROWS)


def test_verdicts_do_not_depend_on_order_or_company():
    pairs = [("(1/2, 3)", "(0.5, 3)"), ("0.5", "1/2"), ("x=1, x=2", "2, 1"), ("2, 1", r"\{1, 2\}"), ("(1,2)", "(2,1)")]
    with MathVerifier(30.0, workers=1) as together:
        forwards = together.judge(*zip(*pairs, strict=True))
    with MathVerifier(30.0, workers=1) as apart:
        backwards = [apart.judge([answer], [gold])[0] for answer, gold in reversed(pairs)][::-1]
    assert forwards == backwards
    assert [verdict.correct for verdict in forwards] == [True, True, True, True, False]


@pytest.mark.parametrize(
    ("text", "kind", "count"),
    [
        ("1, 2 and 3", "list", 3),
        ("(1,2),(3,4)", "list", 2),
        (r"\{1;2\}", "set", 2),
        ("[0,1)", "[)", 2),
        (r"(0,1)\cup(2,3)", "cup", 2),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "2x2", 4),
        (r"x<1 \text{ or } x>2", "or", 2),
    ],
)
def test_parts(text, kind, count):
    parts = parts_of(text)
    assert (parts.kind, len(parts.items)) == (kind, count)


@pytest.mark.parametrize("text", ["7", "f(1,2)", "1,,2", ", ".join("1" * 17), r"\begin{pmatrix}1&2\\3\end{pmatrix}"])
def test_what_is_in_one_piece_or_in_too_many(text):
    assert parts_of(text) is None


def test_each_part_needs_one_of_its_own():
    assert all_match(False, [[True, True, False], [True, False, False], [False, True, True]])
    assert not all_match(False, [[True, False], [True, False]])


def test_relations_units_and_words_by_hand():
    assert as_range("2>x>=1").text == "[1,2)"
    assert as_range("|t| >= 3").text == "(-\\infty,-(3)]\\cup[3,\\infty)"
    assert as_range("x<1, y<2") is None
    assert parse_unit("m s^{-2}") == parse_unit("m/s^2")
    assert parse_unit("mph") == parse_unit("miles per hour")
    assert parse_unit("square feet") == parse_unit("ft^2")
    assert [spoken(text) for text in ("two thousand three hundred", "minus one", "")] == [2300, None, None]
