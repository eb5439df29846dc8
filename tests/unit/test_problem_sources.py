"""Rows of real files: odd levels, missing fields, lost parts, repeated questions."""

import json

import pytest
from pydantic import ValidationError

from reason_rl.errors import RecipeError
from reason_rl.problem.sources import load_problems, stable_id
from reason_rl.recipe.schema import GymData, HubData, JsonlData, PromptSection

ROW = {"problem": "1+1", "answer": "2"}


def jsonl(tmp_path, content, **fields):
    path = tmp_path / "set.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else (json.dumps(content) + "\n").encode())
    return JsonlData(use="jsonl", path=str(path), **fields)


@pytest.mark.parametrize(("given", "level"), [(5, 5), ("5", 5), ("Level 5", 5), (4.0, 4), ("4.0", 4), (None, None)])
def test_levels_are_read_as_data_sets_write_them(tmp_path, given, level):
    assert load_problems(jsonl(tmp_path, {**ROW, "level": given}, level="level"))[0].level == level


@pytest.mark.parametrize("given", ["?", 2.7, "4.25", "hard", True, ""])
def test_levels_that_are_no_whole_numbers_are_refused(tmp_path, given):
    with pytest.raises(RecipeError, match=r"set.jsonl:1: level .* is not a whole number"):
        load_problems(jsonl(tmp_path, {**ROW, "level": given}, level="level"))


@pytest.mark.parametrize(
    ("content", "fields", "message"),
    [
        ({**ROW, "uid": 1}, {"id": "uuid"}, r"set.jsonl:1: no field uuid; did you mean uid\?"),
        ({**ROW, "uid": None}, {"id": "uid"}, r"set.jsonl:1: uid is empty"),
        ({**ROW, "level": 1}, {"level": "lvel"}, r"set.jsonl:1: no field lvel; did you mean level\?"),
        ({**ROW, "answer": ["1", "2"]}, {}, r"set.jsonl:1: answer is a list; text or a number is wanted"),
        ({**ROW, "answer": float("nan")}, {}, r"set.jsonl:1: answer is empty"),
        (b"[1, 2]\n", {}, r"set.jsonl:1: a JSON list; each line must be an object"),
        (b"null\n", {}, r"set.jsonl:1: a JSON NoneType; each line must be an object"),
        (b'{"problem": "\xff"}\n', {}, r"set.jsonl:1: not UTF-8 \(byte 14 of the line\)"),
    ],
)
def test_rows_that_cannot_be_used_are_one_line(tmp_path, content, fields, message):
    with pytest.raises(RecipeError, match=message) as raised:
        load_problems(jsonl(tmp_path, content, **fields))
    assert "\n" not in str(raised.value)


def test_blank_lines_are_skipped_but_counted_and_a_byte_order_mark_is_no_text(tmp_path):
    content = b'\xef\xbb\xbf{"problem": "1+1", "answer": 2}\n\n{"problem": "2+2"}\n'
    with pytest.raises(RecipeError, match=r"set.jsonl:3: no field answer"):
        load_problems(jsonl(tmp_path, content))


def test_given_ids_tell_equal_questions_apart(tmp_path):
    rows = b'{"problem": "1+1", "answer": 2, "id": "a"}\n{"problem": "1+1", "answer": "10", "id": "b"}\n'
    assert [p.id for p in load_problems(jsonl(tmp_path, rows, id="id"))] == ["a", "b"]
    with pytest.raises(RecipeError, match=r"set.jsonl:2: problem .* name a field with ids in data.id"):
        load_problems(jsonl(tmp_path, rows))


def test_ids_depend_on_the_question_alone(tmp_path):
    one = load_problems(jsonl(tmp_path, {**ROW, "subject": "sums"}))[0]
    assert one.id == load_problems(jsonl(tmp_path, {**ROW, "answer": "two"}))[0].id == stable_id("1+1")


def hub(tmp_path, monkeypatch, *names):
    for name in names:
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"problem": name, "answer": "1"}) + "\n")
    monkeypatch.setenv("REASON_RL_DATA", str(tmp_path))
    return HubData(use="hub", name="org/gsm")


def test_parts_of_a_local_set_are_read_in_order(tmp_path, monkeypatch):
    spec = hub(tmp_path, monkeypatch, "gsm.part-01", "gsm.part-00", "gsm_other.part-00", "gsm2")
    assert [p.prompt for p in load_problems(spec)] == ["gsm.part-00", "gsm.part-01"]


def test_a_lost_part_of_a_local_set_is_noticed(tmp_path, monkeypatch):
    spec = hub(tmp_path, monkeypatch, "gsm.part-00", "gsm.part-02")
    with pytest.raises(RecipeError, match=r"gsm.part-01.jsonl is missing; gsm.part-02.jsonl is there"):
        load_problems(spec)


def test_an_unknown_local_set_is_named_with_a_near_one(tmp_path, monkeypatch):
    spec = hub(tmp_path, monkeypatch, "gsm8.part-00")
    with pytest.raises(RecipeError, match=r"has no gsm.jsonl; did you mean gsm8\?"):
        load_problems(spec)


def gym(task, count, **config):
    return GymData(use="reasoning_gym", task=task, count=count, config=config)


ONE_DIGIT = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1, "operators": ["+"]}


def test_gym_gives_as_many_different_problems_as_asked_for():
    spec = gym("basic_arithmetic", 60, **ONE_DIGIT, allow_parentheses=False, allow_negation=False)
    problems = load_problems(spec)
    assert len({p.id for p in problems}) == len(problems) == 60
    assert problems == load_problems(spec)


def test_gym_says_when_a_task_is_exhausted():
    spec = gym("basic_arithmetic", 400, **ONE_DIGIT, allow_parentheses=False, allow_negation=False)
    with pytest.raises(RecipeError, match=r"400 different problems are wanted, but basic_arithmetic gave only \d+ in"):
        load_problems(spec)


def test_gym_names_a_near_task_and_refuses_tasks_without_answer():
    with pytest.raises(RecipeError, match=r"did you mean basic_arithmetic\?"):
        load_problems(gym("basic_aritmetic", 5))
    with pytest.raises(RecipeError, match=r"data.task: rush_hour is not used: it has several right answers"):
        load_problems(gym("rush_hour", 5))


def test_gym_levels_come_from_the_metadata_when_they_are_numbers():
    assert {p.level for p in load_problems(gym("gsm_symbolic", 3))} == {1}
    assert {p.level for p in load_problems(gym("basic_arithmetic", 3))} == {None}


def test_a_template_without_a_place_for_the_problem_is_refused():
    with pytest.raises(ValidationError, match=r"template has no \{prompt\}, so the model would never see the problem"):
        PromptSection(template="{problem}")


def test_rows_to_be_dropped_are_counted_aloud(tmp_path, capsys):
    path = tmp_path / "set.jsonl"
    rows = [("1 + 1", "2"), ("2 + 2", ""), ("1 + 1", "2"), ("  ", "5"), ("3 + 3", "6")]
    path.write_text("".join(json.dumps({"problem": p, "answer": a}) + "\n" for p, a in rows))
    spec = JsonlData(use="jsonl", path=str(path), drop=["empty", "duplicates"])
    assert [problem.prompt for problem in load_problems(spec)] == ["1 + 1", "3 + 3"]
    said = capsys.readouterr().err
    assert "2 rows of set left out (empty)" in said
    assert "1 rows of set left out (duplicates)" in said
    with pytest.raises(RecipeError, match=r":2: answer is empty; set data.drop: \[empty\]"):
        load_problems(spec.model_copy(update={"drop": ["duplicates"]}))
    with pytest.raises(RecipeError, match=r":3: problem p-.* already given .*; set data.drop: \[duplicates\]"):
        load_problems(spec.model_copy(update={"drop": ["empty"]}))
