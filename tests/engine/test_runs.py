"""Whole runs through the command line: finish, resume after a kill, many processes, bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reason_rl.errors import RecipeError

SMALL = (
    "trainer.per_device_train_batch_size=8",
    "trainer.steps_per_generation=2",
    "trainer.num_generations=4",
    "trainer.max_steps=12",
    "trainer.save_steps=2",
    "trainer.logging_steps=2",
    "algorithm.budget.tokens=24",
    "algorithm.filter.max_rounds=2",
    "data.count=200",
    "eval.data.count=18",
    "eval.samples=2",
    "eval.max_tokens=48",
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def command(*arguments):
    return [sys.executable, "-m", "reason_rl.cli", *map(str, arguments)]


def reason_rl(*arguments, timeout=600, **environment):
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        env={**ENVIRONMENT, **environment},
    )


def succeed(*arguments, **options):
    done = reason_rl(*arguments, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a small run that went through undisturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    succeed("run", "tiny/dler", *SMALL, f"output={folder}")
    return folder


def test_a_run_leaves_everything_behind(finished):
    for name in ("resolved.yaml", "environment.json", "summary.json", "report.html", "finished.json"):
        assert (finished / name).stat().st_size > 0
    assert [row["step"] for row in metrics(finished)] == [2, 4, 6, 8, 10, 12]
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["problems"] == 18
    assert summary["training"]["steps"] == 12
    page = (finished / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_running_a_finished_run_again_does_nothing(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    again = succeed("run", "tiny/dler", *SMALL, f"output={finished}", "--json")
    assert "is finished; nothing to do" in again.stderr
    assert json.loads(again.stdout) == json.loads((finished / "summary.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    fails(2, "holds a run of another recipe", "run", "tiny/dler", *SMALL, f"output={finished}", "seed=9")


def test_a_killed_run_resumes_to_the_same_end(finished, tmp_path):
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        command("run", "tiny/dler", *SMALL, f"output={folder}"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    deadline = time.monotonic() + 300
    while len(list(folder.glob("checkpoints/*/complete.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "finished.json").exists()
    refused = reason_rl("run", "tiny/dler", *SMALL, f"output={folder}")
    assert refused.returncode == 2
    assert "holds an unfinished run; use --resume" in refused.stderr
    other = reason_rl("run", "tiny/dler", *SMALL, f"output={folder}", "seed=9", "--resume")
    assert other.returncode == 2
    assert "holds a run of another recipe" in other.stderr
    succeed("run", "tiny/dler", *SMALL, f"output={folder}", "--resume")
    assert metrics(folder) == metrics(finished)
    ours, theirs = ((path / "model" / "model.safetensors").read_bytes() for path in (folder, finished))
    assert ours == theirs
    after = [(path / "eval" / "after.jsonl").read_text().splitlines()[1:] for path in (folder, finished)]
    assert after[0] == after[1]


def test_lora_trains_and_exports(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "lora"
    lora = "lora={r: 4, lora_alpha: 8, lora_dropout: 0.1, target_modules: all-linear}"
    succeed("train", "tiny/dler", *SMALL, lora, "trainer.max_steps=4", f"output={folder}")
    assert (folder / "model" / "adapter_model.safetensors").exists()
    succeed("export", folder / "model", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    from peft import PeftModel

    from reason_rl.world import reasoner_path

    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(reasoner_path()), folder / "model")
    ids = torch.randint(0, 100, (2, 12))
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-4)
    refused = reason_rl("export", folder, tmp_path / "again")
    assert refused.returncode == 2
    assert "did you mean" in refused.stderr


def test_accelerate_launch_with_two_processes(in_two_processes, tmp_path):
    folder = tmp_path / "two"
    train = ["-m", "reason_rl.cli", "train", "tiny/dler", *SMALL, "trainer.max_steps=4", f"output={folder}"]
    done = subprocess.run([*in_two_processes, *train], capture_output=True, text=True, timeout=600, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = metrics(folder)
    assert [row["step"] for row in rows] == [2, 4]
    # 16 rows a process in groups of 4: a full batch is 8 groups over both processes.
    assert all(row["groups_drawn"] >= 8 for row in rows)
    assert (folder / "checkpoints" / "checkpoint-4" / "rng_state_1.pth").exists()
    assert (folder / "model" / "model.safetensors").exists()


def fails(code, message, *arguments, **environment):
    done = reason_rl(*arguments, **environment)
    assert done.returncode == code, (done.returncode, done.stderr[-2000:])
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_input_is_one_line_before_anything_expensive(tmp_path):
    out = f"output={tmp_path / 'x'}"
    fails(
        2,
        "model.path: no model tiny-resoner; did you mean tiny-reasoner?",
        "train",
        "tiny/dler",
        out,
        "model.path=tiny-resoner",
    )
    out = f"output={tmp_path / 'y'}"
    fails(2, "</done> is not a token of this model", "train", "tiny/dler", out, "model.end_think_token=</done>")
    out = f"output={tmp_path / 'z'}"
    fails(2, "do not fit into the model's context of 512", "train", "tiny/dler", out, "algorithm.budget.tokens=510")
    fails(2, "no file nowhere.yaml", "validate", "nowhere.yaml")
    assert "Traceback" not in reason_rl("report", tmp_path).stderr


def test_an_unwritable_output_is_refused_before_anything_starts(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    fails(2, f"output: cannot write to {blocker / 'run'}", "run", "tiny/dler", f"output={blocker / 'run'}")


def test_errors_are_json_when_asked_for():
    done = reason_rl("validate", "tiny/dler", "trainer.learning_rat=1", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"][0].endswith("unknown key; did you mean learning_rate?")


def test_a_full_disk_leaves_the_checkpoint_before_intact(tmp_path):
    """Fail the write of the second checkpoint's optimizer as a full disk would."""
    folder = tmp_path / "full"
    script = (
        "import errno, sys, torch\n"
        "save = torch.save\n"
        "def full(value, path, *a, **k):\n"
        "    if 'checkpoint-4' in str(path):\n"
        "        raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "    return save(value, path, *a, **k)\n"
        "torch.save = full\n"
        "from reason_rl.cli import main\n"
        "main()\n"
    )
    arguments = ["train", "tiny/dler", *SMALL, f"output={folder}"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "checkpoint-2 is good; free space and use --resume" in done.stderr
    succeed("train", "tiny/dler", *SMALL, f"output={folder}", "--resume")
    assert [row["step"] for row in metrics(folder)] == [2, 4, 6, 8, 10, 12]
    assert Path(folder / "model" / "model.safetensors").exists()
    again = succeed("train", "tiny/dler", *SMALL, f"output={folder}", "--json")
    assert json.loads(again.stdout)["steps"] == 12
    assert "is trained; nothing to do" in again.stderr
    fails(2, "holds a run of another recipe", "train", "tiny/dler", *SMALL, f"output={folder}", "seed=9")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data={use: jsonl, path: rows.jsonl}"], "rows.jsonl:2: no field answer"),
        (
            ["data.count=3"],
            "data: 3 prompts, but a rollout batch takes 4; take more problems or lower trainer.steps_per",
        ),
        (["algorithm.budget.tokens=510"], "do not fit into the model's context of 512"),
        (["trainer.optim=adamw_torc"], "trainer.optim: there is no adamw_torc; did you mean adamw_torch?"),
        (["model.path=tiny-reasoner", "trainer.lr_scheduler_type=constnt"], "did you mean constant?"),
        (["lora={r: 4, target_modules: [v_proj, q_prj]}"], "tiny-reasoner has no module q_prj; did you mean q_proj?"),
        (
            ["algorithm.filter={keep: all, refill: false}", "algorithm.curriculum={use: cures, problems: 5}"],
            "algorithm.curriculum.problems: 5 problems cannot share 4 groups",
        ),
        (["trainer.hub_strategy=soon"], "trainer: soon is not a valid HubStrategy"),
        (["lora={r: 4, task_type: FOO}"], "lora: Invalid task type: 'FOO'"),
        (["lora={r: 4, target_modules: '.*attn_q.*'}"], "has no module .*attn_q.*; there are down_proj, gate_proj"),
    ],
)
def test_what_training_refuses_is_refused_before_the_evaluation(tmp_path, monkeypatch, changes, message):
    from reason_rl import pipeline
    from reason_rl.evaluate import run
    from reason_rl.recipe.load import load_recipe
    from reason_rl.run_folder import RunFolder

    (tmp_path / "rows.jsonl").write_text('{"problem": "chain 1 + 1", "answer": 2}\n{"problem": "chain 1 + 2"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "evaluate", lambda *_, **__: pytest.fail("evaluated"))
    recipe = load_recipe("tiny/dler", [*SMALL, *changes]).recipe
    with pytest.raises(RecipeError, match=re.escape(message)):
        pipeline.run(recipe, RunFolder(tmp_path / "run"), resume=False, say=print)


def test_problems_of_the_evaluation_are_not_trained_on(tmp_path):
    from reason_rl.problem.sources import load_problems
    from reason_rl.recipe.load import load_recipe
    from reason_rl.trainer.train import training_problems

    shared = ["data.count=60", "eval.data.split=train", "eval.data.count=18", "eval.data.seed=0"]
    recipe = load_recipe("tiny/dler", shared).recipe
    kept = {problem.id for problem in training_problems(recipe)}
    assert len(kept) == 42
    assert not kept & {problem.id for problem in load_problems(recipe.eval.data)}
    out = f"output={tmp_path / 'x'}"
    fails(2, "every training problem is also an eval problem", "train", "tiny/dler", out, *shared, "data.count=18")
