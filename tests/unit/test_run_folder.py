"""A run's folder: one that was only asked for is free, one that holds something is not."""

import pytest

from reason_rl import cli
from reason_rl.errors import RecipeError
from reason_rl.run_folder import RunFolder


@pytest.fixture
def refused(tmp_path):
    """Return the folder of a run that was refused before it made anything."""
    folder = RunFolder(tmp_path / "run")
    folder.prepare("seed: 1\n", resume=False)
    (folder.checkpoints / "runs").mkdir(parents=True)
    folder.eval.mkdir()
    (folder.eval / "before.jsonl.part").write_text('{"header": true}\n')
    folder.metrics.write_text("")
    return folder


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_made_nothing_does_not_stand_in_the_way(refused, resume):
    refused.prepare("seed: 2\n", resume=resume)
    assert refused.resolved.read_text() == "seed: 2\n"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("eval/before.jsonl.part", '{"header": true}\n{"problem_id": "a"}\n'),
        ("metrics.jsonl", '{"step": 1}\n'),
        ("checkpoints/checkpoint-2/complete.json", "{}"),
        ("pairs.jsonl", "{}\n"),
    ],
)
def test_a_run_that_made_something_is_kept(refused, file, text):
    path = refused.path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    with pytest.raises(RecipeError, match="holds an unfinished run; use --resume"):
        refused.prepare("seed: 1\n", resume=False)
    with pytest.raises(RecipeError, match="holds a run of another recipe"):
        refused.prepare("seed: 2\n", resume=True)
    refused.prepare("seed: 1\n", resume=True)
    assert refused.resolved.read_text() == "seed: 1\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "tiny/pretrain"], "task pretrain: is not trained; use reason-rl run"),
        (["prepare", "tiny/dler"], "task train: has nothing to prepare; use reason-rl run or train"),
        (["prepare", "tiny/merge_selective"], "task merge: has nothing to prepare; use reason-rl run"),
    ],
)
def test_a_command_that_is_not_for_the_task_leaves_no_folder(tmp_path, words, message):
    with pytest.raises(RecipeError, match=message):
        cli.app([*words, f"output={tmp_path / 'run'}"], standalone_mode=False)
    assert not (tmp_path / "run").exists()
