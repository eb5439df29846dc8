import io
import json
import re

import pytest
from rich.console import Console

from reason_rl.errors import RunError
from reason_rl.evaluate.records import EvalRow, EvalRows, write_rows
from reason_rl.evaluate.statistics import paired_summary
from reason_rl.report.page import side_by_side, write_page
from reason_rl.report.tables import level_cells, summary_cells, summary_table
from reason_rl.run_folder import RunFolder

HEADER = {"model": "m", "max_tokens": 90, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 1, "samples": 1}


def rows(tokens, right):
    return tuple(
        EvalRow(
            problem_id=f"p{i}",
            level=1 + i % 3,
            family=None,
            sample=0,
            seed=0,
            prompt=f"question {i} <script>",
            completion=f"thought {i} & more",
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


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "my-run")
    write_rows(folder.eval / "before.jsonl", HEADER, BEFORE.rows)
    write_rows(folder.eval / "after.jsonl", HEADER, AFTER.rows)
    folder.write_json("summary.json", paired_summary(BEFORE, AFTER, resamples=200))
    folder.metrics.write_text(
        "".join(json.dumps({"step": i, "reward": 0.1 * i, "completion_tokens": 50 - i}) + "\n" for i in range(5))
    )
    folder.resolved.write_text("seed: 0\n")
    return folder


def test_the_page_is_whole_and_needs_nothing_else(run):
    page = write_page(run.path).read_text()
    assert "61 % fewer tokens, accuracy\n+16.7 points" in page
    assert page.count("<svg") == 3
    assert "question 0 &lt;script&gt;" in page
    assert "<script" not in page
    assert not re.search(r'(src|href)="http', page)
    assert "currentColor" in page
    assert "prefers-color-scheme: dark" in page


def test_missing_parts_are_named(run):
    run.summary.unlink()
    run.metrics.unlink()
    page = write_page(run.path).read_text()
    assert "summary.json is not there yet" in page
    assert "metrics.jsonl is not there yet" in page
    assert page.count("<svg") == 1


def test_an_empty_folder_is_no_run(tmp_path):
    with pytest.raises(RunError, match="is this a run folder"):
        write_page(tmp_path)


def test_tables_carry_intervals_units_and_conditions(run):
    summary = json.loads(run.summary.read_text())
    cells = {row[0]: row[1:] for row in summary_cells(summary)}
    assert cells["accuracy"][0].startswith("75.0 % [")
    assert cells["accuracy"][2].endswith("points")
    assert cells["completion tokens"][0].startswith("65.5 [")
    assert cells["tokens saved"][2].startswith("61.1% [")
    assert level_cells(summary)[0][:1] == ["1"]
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(summary_table(summary))
    text = " ".join(console.export_text().split())
    assert "12 held-out problems x 1 samples, cap 90 tokens, temperature 1.0, top-p 1.0" in text


def test_side_by_side_pairs_the_same_problem_and_shows_a_loss():
    pairs = side_by_side(BEFORE.rows, AFTER.rows)
    assert all(one.problem_id == two.problem_id for one, two in pairs)
    assert any(one.correct and not two.correct for one, two in pairs)
    assert any(not one.correct and two.correct for one, two in pairs)
