"""Rows of metrics that an interrupted run left behind."""

import json

import pytest

from reason_rl.trainer.callbacks import MetricsCallback

ROWS = "".join(json.dumps({"step": step, "seconds": 2.0 * step}) + "\n" for step in (1, 2, 3))


@pytest.mark.parametrize("torn", ['{"step": 4, "sec', '{"step": 4}', ""])
def test_a_torn_last_line_is_dropped_on_resume(tmp_path, torn):
    file = tmp_path / "metrics.jsonl"
    file.write_text(ROWS + torn)
    callback = MetricsCallback(file, 2, {})
    assert [row["step"] for row in callback.history] == [1, 2]
    assert file.read_text() == "".join(ROWS.splitlines(keepends=True)[:2])
    assert callback.before == 4.0


def test_any_other_broken_line_is_an_error(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "sec\n' + ROWS)
    with pytest.raises(json.JSONDecodeError):
        MetricsCallback(file, 3, {})
