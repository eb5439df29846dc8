"""Checkpoints and metrics of several processes: the first one keeps them, and a checkpoint counts once all have written."""

import json
from types import SimpleNamespace

import pytest
import torch

from reason_rl.errors import RunError
from reason_rl.trainer import callbacks
from reason_rl.trainer.callbacks import MetricsCallback, complete_checkpoints
from reason_rl.trainer.train import resume_point


@pytest.fixture
def half_written(tmp_path):
    """Return a folder with a whole checkpoint and one that a kill cut off."""
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-2" / "complete.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(("rank", "left"), [("1", {"checkpoint-2", "checkpoint-4"}), ("0", {"checkpoint-2"})])
def test_only_the_first_process_clears_away_what_is_half_written(half_written, monkeypatch, rank, left):
    monkeypatch.setenv("RANK", rank)
    assert resume_point(half_written, resume=True) == half_written / "checkpoint-2"
    assert {path.name for path in half_written.iterdir()} == left


def test_only_the_first_process_keeps_the_metrics_and_drops_a_row_that_was_cut(tmp_path, monkeypatch):
    file = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"step": step, "seconds": float(step)}) + "\n" for step in (2, 4, 6)]
    text = "".join([*rows, '{"step": 8, "sec'])
    file.write_text(text)
    monkeypatch.setenv("RANK", "1")
    assert MetricsCallback(file, 4, {}).history == []
    assert file.read_text() == text
    monkeypatch.setenv("RANK", "0")
    first = MetricsCallback(file, 4, {})
    assert [row["step"] for row in first.history] == [2, 4]
    assert first.seconds >= 4.0
    assert file.read_text() == "".join(rows[:2])


@pytest.mark.parametrize("elsewhere", [[], ["lm_head.weight"]])
def test_a_checkpoint_counts_once_all_have_written_finite_weights(tmp_path, monkeypatch, elsewhere):
    (tmp_path / "checkpoint-2").mkdir()

    def gather(bad):
        assert bad == []
        assert complete_checkpoints(tmp_path) == []
        return bad + elsewhere

    monkeypatch.setattr(callbacks, "gather_object", gather)
    callback, model = MetricsCallback(tmp_path / "metrics.jsonl", 0, {}), torch.nn.Linear(1, 1)

    def save(first):
        state = SimpleNamespace(global_step=2, is_world_process_zero=first)
        callback.on_save(SimpleNamespace(output_dir=tmp_path), state, None, model=model)
        return [path.name for path in complete_checkpoints(tmp_path)]

    if elsewhere:
        with pytest.raises(RunError, match=r"not finite at step 2 \(lm_head.weight\)"):
            save(first=True)
    else:
        assert save(first=False) == []
        assert save(first=True) == ["checkpoint-2"]
