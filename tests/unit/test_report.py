import dataclasses
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser

import pytest
from rich.console import Console

from reason_rl.errors import RunError
from reason_rl.evaluate.records import EvalRow, EvalRows, read_rows, write_rows
from reason_rl.evaluate.statistics import paired_summary
from reason_rl.report import examples, page, tables
from reason_rl.report.examples import SHOWN_CHARACTERS, choose, parts
from reason_rl.report.figure import THEME
from reason_rl.report.page import headline, verdict, write_page
from reason_rl.report.plots import accuracy_against_tokens, learning_curves, length_histogram
from reason_rl.run_folder import RunFolder

HEADER = {"model": "m", "max_tokens": 90, "temperature": 0.6, "top_p": 0.95, "top_k": 0, "seed": 1, "samples": 1}
VOID = {"meta", "br", "path", "use", "rect", "line", "circle"}


def rows(tokens, right, levels=3):
    return tuple(
        EvalRow(
            problem_id=f"p{i:02}",
            level=1 + i % levels if levels else None,
            family=None,
            sample=0,
            seed=0,
            prompt=f"question {i} <script>alert(1)</script>",
            completion=f"thought {i} & more </think> <b>so</b>",
            answer="1",
            extracted="1",
            correct=right(i),
            completion_tokens=tokens + i,
            think_tokens=tokens,
            answer_tokens=i,
            finish_reason="stop",
        )
        for i in range(12)
    )


BEFORE, AFTER = EvalRows(HEADER, rows(60, lambda i: i % 4 > 0)), EvalRows(HEADER, rows(20, lambda i: i != 5))
HISTORY = [
    {"step": 4 * i, "reward": 0.1 * i, "completion_tokens": 50 - i, "budget_tokens": 64, "kl": float("nan")}
    for i in range(1, 5)
]


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "my-run")
    write_rows(folder.eval / "before.jsonl", HEADER, BEFORE.rows)
    write_rows(folder.eval / "after.jsonl", HEADER, AFTER.rows)
    summary = paired_summary(BEFORE, AFTER, resamples=200)
    folder.write_json("summary.json", {**summary, "training": {"steps": 1600, "seconds": 90.0}})
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in HISTORY))
    folder.resolved.write_text("model:\n  end_think_token: </think>\nseed: 0\n")
    folder.write_json("environment.json", {"command": ["/x/reason-rl", "run", "tiny/dler", "output=a b"], "git": None})
    return folder


class Outline(HTMLParser):
    """Checks that elements nest, and collects ids, tags and visible text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.tags, self.words = [], [], Counter(), []
        self.feed(text)
        assert self.open == []
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags[tag] += 1
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def test_the_page_says_what_the_run_found(run):
    outline = Outline(write_page(run.path).read_text())
    for text in (
        "tiny/dler my-run 1,600 optimizer steps trained in 1.5 min",
        "61 % fewer tokens, accuracy up 16.7 points",
        "reaches below \N{MINUS SIGN}1 point, so a loss cannot be ruled out",
        "12 problems \N{MULTIPLICATION SIGN} 1 sample, cap 90 tokens, temperature 0.6, top-p 0.95; cut answers count",
        "completion tokens 65.5 [",
        "reason-rl run tiny/dler 'output=a b'",
        "end_think_token: </think>",
    ):
        assert text in outline.text, text
    assert outline.tags["svg"] == 3
    assert "missing" not in outline.text.lower()


def test_the_page_needs_nothing_else_and_runs_nothing(run):
    text = write_page(run.path).read_text()
    outline = Outline(text)
    assert not outline.tags.keys() & {"script", "link", "img", "iframe", "object", "base"}
    assert "default-src 'none'" in text
    assert not re.search(r'(src|href)="(?!#)', text)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert set(re.findall(r"https?://[^/\"]+", text)) <= {"http://www.w3.org"}
    assert "question 1 &lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&lt;b&gt;so&lt;/b&gt;" in text
    assert max(Counter(outline.ids).values()) == 1


def test_drawings_take_their_colours_from_the_page(run):
    text = write_page(run.path).read_text()
    assert "@media screen and (prefers-color-scheme: dark)" in text
    assert not any(stand_in in text for stand_in in THEME)
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawings)) == set()
    for name in set(re.findall(r"var\((--\w+)\)", drawings)):
        assert len(re.findall(rf"{name}: #", text)) >= 2, f"{name} has no light and dark value"
    for svg in re.findall(r"<text .*?>", drawings):
        assert "font-family: inherit" in svg
    assert len(text) < 300_000


def test_the_same_run_gives_the_same_page(run):
    assert write_page(run.path).read_text() == write_page(run.path).read_text()


@pytest.mark.parametrize(
    ("name", "says", "drawings"),
    [
        ("summary.json", "summary.json is missing: there is nothing to compare", 2),
        ("metrics.jsonl", "metrics.jsonl is missing", 2),
        ("eval/after.jsonl", "eval/after.jsonl is missing.", 3),
        ("resolved.yaml", "resolved.yaml is missing.", 3),
        ("environment.json", "environment.json is missing.", 3),
    ],
)
def test_what_is_missing_is_named(run, name, says, drawings):
    (run.path / name).unlink()
    outline = Outline(write_page(run.path).read_text())
    assert says in outline.text
    assert outline.tags["svg"] == drawings


def test_a_run_that_only_evaluated_its_start_has_a_page(run):
    for name in ("summary.json", "metrics.jsonl", "eval/after.jsonl"):
        (run.path / name).unlink()
    outline = Outline(write_page(run.path).read_text())
    assert "No comparison yet" in outline.text
    assert "Start, m: accuracy 75.0 %, 65.5 completion tokens (median 65.5), 0.0 % cut at 90 tokens" in outline.text
    assert "Needs eval/before.jsonl and eval/after.jsonl." in outline.text
    assert outline.tags["svg"] == 1


def test_what_cannot_be_read_is_one_clear_error(run, tmp_path):
    with pytest.raises(RunError, match="is this a run folder"):
        write_page(tmp_path / "nothing")
    run.metrics.write_text('{"step": 1}\n{"st')
    with pytest.raises(RunError, match=r"metrics.jsonl:2: not JSON"):
        write_page(run.path)
    run.metrics.write_text("")
    run.summary.write_text('{"metrics": {}}')
    with pytest.raises(RunError, match=r"summary.json: not a summary of this version"):
        write_page(run.path)


@pytest.mark.parametrize(
    ("cut", "gain", "text"),
    [
        (0.556, 0.0125, "56 % fewer tokens, accuracy up 1.2 points"),
        (-0.1, -0.03, "10 % more tokens, accuracy down 3.0 points"),
        (0.001, 0.0001, "As many tokens as before, the same accuracy"),
        (None, 0.02, "As many tokens as before, accuracy up 2.0 points"),
    ],
)
def test_the_headline(cut, gain, text):
    summary = {"token_cut": {"mean": cut}, "metrics": {"accuracy": {"difference": {"mean": gain}}}}
    assert headline(summary).replace("\xa0", " ") == text


@pytest.mark.parametrize(
    ("low", "high", "held", "text"),
    [
        (-0.005, 0.02, True, "[-0.5, +2.0] points, lies above -1 point, so accuracy held"),
        (-0.05, -0.02, False, "lies below zero, so accuracy fell"),
        (-0.03, 0.02, False, "reaches below -1 point, so a loss cannot be ruled out"),
        (-0.008, -0.002, True, "so accuracy held"),
        (None, None, False, "One problem gives no interval."),
    ],
)
def test_the_verdict_follows_the_interval(low, high, held, text):
    difference = {"mean": 0.0, "low": low, "high": high}
    summary = {"metrics": {"accuracy": {"difference": difference}}, "accuracy_margin": -0.01, "accuracy_held": held}
    assert text in verdict(summary)


def printed(table):
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table)
    return " ".join(console.export_text().split())


def test_tables_carry_intervals_units_and_conditions(run):
    summary = json.loads(run.summary.read_text())
    cells = {row[0]: row[1:] for row in tables.summary_cells(summary)}
    assert cells["accuracy"][0].startswith("75.0 % [")
    assert re.fullmatch(r"\+16\.7 \[-\d+\.\d, \+\d+\.\d\] points", cells["accuracy"][2])
    assert cells["completion tokens"][0].startswith("65.5 [")
    assert cells["share cut"] == ["0.0 % [0.0, 0.0]", "0.0 % [0.0, 0.0]", "0.0 [0.0, 0.0] points"]
    assert cells["tokens saved"][2].startswith("61.1 % [")
    assert "12 problems \N{MULTIPLICATION SIGN} 1 sample, cap 90 tokens, temperature 0.6, top-p 0.95" in printed(
        tables.summary_table(summary)
    )
    level = tables.level_cells(summary)[0]
    assert level[:4] == ["1", "4", "75.0 %", "100.0 %"]
    assert level[5:7] == ["64.5", "24.5"]
    assert "difference, points" in printed(tables.level_table(summary))


def test_what_rounds_to_zero_has_no_sign():
    assert tables.figure("accuracy", {"mean": -0.0001, "low": -0.0004, "high": 0.0004}, signed=True) == "0.0 [0.0, 0.0]"


def test_figures_without_interval_or_value():
    assert tables.figure("accuracy", {"mean": 0.5, "low": None, "high": None}) == "50.0 %"
    assert str(tables.cut_parts({"mean": None, "low": None, "high": None})) == "\N{EN DASH}"


def test_examples_follow_their_rule():
    pairs = choose(BEFORE.rows, AFTER.rows)
    assert [(p.before.problem_id, p.before.level) for p in pairs[:3]] == [("p03", 1), ("p01", 2), ("p02", 3)]
    assert [p.kind for p in pairs[3:]] == ["right before, wrong after", "wrong before, right after"]
    assert [p.before.problem_id for p in pairs[3:]] == ["p05", "p08"]
    for pair in pairs:
        assert (pair.before.problem_id, pair.before.sample) == (pair.after.problem_id, pair.after.sample)
    assert choose(BEFORE.rows, tuple(reversed(AFTER.rows))) == pairs


def test_when_nothing_went_wrong_the_longest_growth_stands_for_the_worse():
    right = rows(60, lambda i: True)
    later = [dataclasses.replace(row, completion_tokens=row.completion_tokens // 2) for row in right]
    later[7] = dataclasses.replace(right[7], completion_tokens=89)
    shown = choose(right, later)
    assert [p.before.problem_id for p in shown if p.kind == "longer after"] == ["p07"]


def test_many_levels_and_none():
    many = rows(60, lambda i: True, levels=12)
    assert [p.before.level for p in choose(many, many)] == [1, 3, 5, 8, 10, 12]
    none = rows(60, lambda i: True, levels=0)
    assert [p.before.level for p in choose(none, none)] == [None]
    assert choose((), none) == []
    assert len(choose(many, rows(20, lambda i: i % 2, levels=12))) <= 8


def test_long_thinking_is_shortened_in_the_middle():
    text = "a" * SHOWN_CHARACTERS + "b" * 50 + "</think>7"
    shown = parts(text, "</think>")
    assert shown.think.startswith("aaa")
    assert shown.think.endswith("b" * 50)
    assert len(shown.think) + shown.left_out == SHOWN_CHARACTERS + 50
    assert shown.answer == "7"
    assert parts("never closed", "</think>") == ("never closed", "", "", 0)
    assert parts("plain", None) == ("", "", "plain", 0)


def test_drawings_of_odd_data(run):
    assert learning_curves([]) is None
    assert learning_curves([{"step": 1, "loss": 2.0}, {"step": 2, "reward": float("nan")}]) is None
    one = learning_curves([{"step": 8, "share_cut": 0.25}])
    assert "Share cut at the budget" in one
    assert "25\xa0%" in one
    assert "Reward" not in one
    assert ">Before<" not in length_histogram((), AFTER.rows)
    plain = paired_summary(*(EvalRows(HEADER, rows(t, lambda i: True, levels=0)) for t in (60, 20)), resamples=20)
    drawing = accuracy_against_tokens(plain)
    assert "All problems" in drawing
    assert "By level" not in drawing


def test_names_out_of_the_command_line():
    assert page.recipe_name({"command": ["reason-rl", "run", "a.yaml", "seed=1"]}) == "a.yaml"
    assert page.recipe_name({"command": ["cli.py", "train", "--resume"]}) == ""
    assert page.recipe_name({}) == ""
    assert page.command({}) == ""
    assert page.end_think_token("") is None
    assert "by rule" in examples.RULE


def test_a_summary_can_be_made_again_from_the_rows(run):
    made = paired_summary(*(read_rows(run.eval / f"{side}.jsonl") for side in ("before", "after")), resamples=200)
    stored = json.loads(run.summary.read_text())
    stored.pop("training")
    assert json.loads(json.dumps(made)) == stored
