"""Every suite: loads, names its source, and its counts and checksums hold on the data folder, when there is one."""

import json
import os
from pathlib import Path

import pytest

from reason_rl import cli
from reason_rl.errors import RecipeError
from reason_rl.problem.files import DATA_FOLDER_VARIABLE
from reason_rl.problem.prompt import messages
from reason_rl.problem.sources import from_columns, load_problems
from reason_rl.recipe.load import load_recipe
from reason_rl.recipe.suite import load_suite, shipped_suites

ROOT = Path(__file__).parents[2]
SUITES = shipped_suites()
BENCHMARKS = {
    "gsm8k": 1319,
    "math500": 500,
    "amc23": 40,
    "aime24": 30,
    "aime25": 30,
    "olympiadbench": 675,
    "minerva_math": 272,
    "svamp": 1000,
    "asdiv": 2215,
    "commonsenseqa": 1221,
    "smoke": 30,
}
HUB_ONLY = {"asdiv"}
needs_data = pytest.mark.skipif(
    not os.environ.get(DATA_FOLDER_VARIABLE), reason=f"{DATA_FOLDER_VARIABLE} is not set: there is no data to check"
)

LOCAL = [pytest.param(name, marks=[] if name == "smoke" else needs_data) for name in BENCHMARKS if name not in HUB_ONLY]


def test_all_benchmarks_are_there():
    assert set(BENCHMARKS) | {"tiny"} <= set(SUITES)


@pytest.mark.parametrize("name", SUITES)
def test_suite_loads_and_says_what_it_is(name):
    first, second = SUITES[name].read_text().splitlines()[:2]
    prefix = "# yaml-language-server: $schema="
    assert (SUITES[name].parent / first.removeprefix(prefix)).resolve() == ROOT / "recipes" / "schema.json"
    assert second.startswith("# ")
    assert load_suite(name).suite.eval.samples >= 1


@pytest.mark.parametrize("name", BENCHMARKS)
def test_suite_names_source_count_and_checksum(name):
    suite = load_suite(name).suite
    data = suite.eval.data
    assert data.count == BENCHMARKS[name]
    assert data.use == "jsonl" or len(data.revision) == 40
    assert (data.sha256 is None) == (name in HUB_ONLY)
    assert (suite.eval.temperature, suite.eval.top_p) == (0.6, 0.95)
    assert r"\boxed{}" in suite.prompt.template
    assert not {error.gold for error in suite.eval.label_errors} & {None, ""}


@pytest.mark.parametrize("name", LOCAL)
def test_counts_and_checksums_hold_on_the_data(name):
    suite = load_suite(name).suite
    problems = load_problems(suite.eval.data)
    assert len(problems) == BENCHMARKS[name]
    golds = {problem.id: problem.answer for problem in problems}
    assert {error.id: error.gold for error in suite.eval.label_errors}.items() <= golds.items()
    assert "{prompt}" not in messages(problems[0], suite.prompt)[-1]["content"]


@pytest.mark.parametrize("name", LOCAL)
def test_a_wrong_count_or_checksum_is_an_error(name):
    with pytest.raises(RecipeError, match=rf"has {BENCHMARKS[name]} problems, 7 are expected"):
        load_problems(load_suite(name, ["eval.data.count=7"]).suite.eval.data)
    with pytest.raises(RecipeError, match=r"data.sha256: .* expected 0{64}: not the data that is meant"):
        load_problems(load_suite(name, [f"eval.data.sha256='{'0' * 64}'"]).suite.eval.data)


def test_the_smoke_suite_needs_nothing(monkeypatch, tmp_path):
    monkeypatch.delenv(DATA_FOLDER_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    problems = load_problems(load_suite("smoke").suite.eval.data)
    assert len(problems) == 30
    assert {problem.level for problem in problems} == {1, 2, 3}


@pytest.mark.parametrize("name", sorted(set(BENCHMARKS) - {"smoke"}))
def test_a_missing_data_file_is_one_line(name, monkeypatch, tmp_path):
    monkeypatch.setenv(DATA_FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(RecipeError, match=r"\.jsonl") as raised:
        load_problems(load_suite(name).suite.eval.data)
    assert "\n" not in str(raised.value)
    assert DATA_FOLDER_VARIABLE in str(raised.value)


def test_without_a_data_folder_a_file_suite_says_so(monkeypatch):
    monkeypatch.delenv(DATA_FOLDER_VARIABLE, raising=False)
    with pytest.raises(RecipeError, match=r"no file minerva_math.jsonl; is REASON_RL_DATA to be set\?"):
        load_problems(load_suite("minerva_math").suite.eval.data)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gms8k", r"^no suite gms8k; did you mean gsm8k\?$"),
        ("zzz", r"^no suite zzz; there are aime24, aime25"),
        ("none.yaml", r"^no file none.yaml"),
    ],
)
def test_a_wrong_suite_name_is_one_line(name, message):
    with pytest.raises(RecipeError, match=message):
        load_suite(name)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("eval.sampels=1", r"eval.sampels: unknown key; did you mean samples\?"),
        ("eval.samples=0", r"eval.samples: input should be greater than 0"),
        ("eval.data.answer_pattern='(a'", r"is no regular expression"),
        ("eval.data.answer_pattern='a'", r"has no group"),
        ("eval.data.lokal=x", r"eval.data.lokal: unknown key; did you mean local\?"),
        ("eval.data.sha256=abc", r"eval.data.sha256: string should match pattern"),
    ],
)
def test_a_wrong_suite_says_what_is_wrong(override, message):
    with pytest.raises(RecipeError, match=message):
        load_suite("gsm8k", [override])


def test_a_recipe_may_extend_a_suite(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: [recipes/tiny/dler.yaml, eval/suites/smoke.yaml]\noutput: outputs/mine\n")
    loaded = load_recipe(str(recipe)).recipe
    assert loaded.eval.data.path == "eval/suites/smoke.jsonl"
    assert r"\boxed{}" in loaded.prompt.template


HUB_ROWS = {
    "gsm8k": (
        {"question": "2+2?", "answer": "2+2=<<2+2=4>>4\n#### 1,004"},
        {"id": "gsm8k-test-0007", "problem": "2+2?", "answer": "1,004"},
    ),
    "svamp": (
        {"ID": "chal-1", "Body": "A has 3.", "Question": "How many?", "Answer": "3.0"},
        {"id": "svamp-chal-1", "problem": "A has 3. How many?", "answer": "3"},
    ),
    "asdiv": (
        {"body": "Two apples.", "question": "How many?", "answer": "2 (apples)"},
        {"id": "asdiv-0007", "problem": "Two apples. How many?", "answer": "2"},
    ),
    "commonsenseqa": (
        {"id": "9f", "question": "Where?", "choices": {"label": [*"ABCDE"], "text": [*"vwxyz"]}, "answerKey": "B"},
        {"id": "csqa-9f", "problem": "Where?\n(A) v\n(B) w\n(C) x\n(D) y\n(E) z", "answer": "B"},
    ),
    "amc23": (
        {"id": 3, "question": "n?", "answer": "27.0"},
        {"id": "amc23-7", "problem": "n?", "answer": "27"},
    ),
    "aime24": ({"id": 60, "problem": "n?", "answer": "025"}, {"problem": "n?", "answer": "25"}),
    "aime25": ({"id": "0", "problem": "n?", "answer": "70"}, {"id": "aime25-07", "problem": "n?", "answer": "70"}),
    "math500": (
        {"problem": "n?", "answer": "1", "unique_id": "test/algebra/1.json", "level": 2},
        {"problem": "n?", "answer": "1", "unique_id": "test/algebra/1.json", "level": 2},
    ),
}


@pytest.mark.parametrize("name", HUB_ROWS)
def test_rows_of_the_hub_become_those_of_the_file(name):
    """The columns are those that the data sets' pages describe; the rows are made up."""
    row, wanted = HUB_ROWS[name]
    spec = load_suite(name).suite.eval.data
    assert from_columns(row, 7, spec, "row 7").items() >= wanted.items()


def test_hub_rows_that_are_no_part_of_the_set_or_do_not_fit():
    spec = load_suite("asdiv").suite.eval.data
    assert from_columns({"body": "", "question": "", "answer": "2 (a); 3 (b)"}, 0, spec, "row 0") is None
    with pytest.raises(RecipeError, match=r"row 0: data.columns.problem: {body} {question} does not fit"):
        from_columns({"question": "", "answer": "2"}, 0, spec, "row 0")
    with pytest.raises(RecipeError, match=r"row 1: data.answer_pattern finds no answer in 'none'"):
        from_columns({"question": "", "answer": "none"}, 1, load_suite("gsm8k").suite.eval.data, "row 1")


def test_smoke_rows_are_plain_and_unique():
    rows = [json.loads(line) for line in (ROOT / "eval" / "suites" / "smoke.jsonl").read_text().splitlines()]
    assert len({row["problem"] for row in rows}) == len({row["id"] for row in rows}) == 30
    assert all(row.keys() == {"id", "problem", "answer", "level"} for row in rows)


def test_the_schema_knows_the_new_keys(capsys):
    cli.app(["schema"], standalone_mode=False)
    text = capsys.readouterr().out
    assert all(f'"{key}"' in text for key in ("sha256", "label_errors", "columns", "answer_pattern"))
