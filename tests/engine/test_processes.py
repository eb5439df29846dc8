"""Two processes train to what one trains to, whole weights or sharded; a process that dies stops the other."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reason_rl.errors import RecipeError, RunError
from reason_rl.evaluate.records import read_rows
from reason_rl.recipe.load import load_recipe
from reason_rl.rollout import processes
from reason_rl.rollout.weights import check_readable, copy_weights, still_copy
from reason_rl.run_folder import RunFolder
from reason_rl.trainer import reference

SHARDED = str(Path(__file__).parent / "sharded_on_cpu.py")
REFERENCES = str(Path(__file__).parent / "references_on_ranks.py")
RECORDED = str(Path(__file__).parent / "recorded_rounds.py")
# One update a rollout batch: how its rows are cut into slices would depend on the number of processes.
SMALL = (
    "trainer.steps_per_generation=1",
    "trainer.num_generations=4",
    "trainer.max_steps=2",
    "trainer.save_steps=2",
    "trainer.logging_steps=1",
    "trainer.optim=sgd",
    "trainer.learning_rate=0.1",
    "trainer.warmup_steps=0",
    "algorithm.budget.tokens=80",
    "algorithm.filter.keep=all",
    "algorithm.filter.refill=false",
    "data.count=60",
    "eval.data.count=18",
)
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(program, folder, world, *changes, **environment):
    """Start the processes of a run without a launcher, which would end those that are left by itself."""
    port = free_port()
    started = []
    for rank in range(world):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1, "ACCELERATE_USE_CPU": "true"}
        names = (place if world > 1 else {}) | shared
        rows = f"trainer.per_device_train_batch_size={32 // world}"
        with (folder.parent / f"{folder.name}-{rank}.log").open("w") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, *program, "train", "tiny/dler", *SMALL, *changes, rows, f"output={folder}"],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "HF_HUB_OFFLINE": "1", **{k: str(v) for k, v in names.items()}, **environment},
                )
            )
    return started


def said(folder, rank):
    return (folder.parent / f"{folder.name}-{rank}.log").read_text()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return the folders of one run in one process, in two with whole weights, and in two with shards."""
    base = tmp_path_factory.mktemp("processes")
    cli = ("-m", "reason_rl.cli")
    running = {
        "one": start(cli, base / "one", 1),
        "ddp": start(cli, base / "ddp", 2),
        "fsdp2": start((SHARDED,), base / "fsdp2", 2, **FSDP2),
    }
    for name, started in running.items():
        codes = [process.wait(timeout=800) for process in started]
        assert codes == [0] * len(codes), said(base / name, len(codes) - 1)[-3000:]
    return base


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_train_to_what_one_trains_to(runs, kind):
    from reason_rl.world import reasoner_path

    one, two = (load_file(runs / name / "model" / "model.safetensors") for name in ("one", kind))
    before = load_file(reasoner_path() / "model.safetensors")
    assert set(one) <= set(two)
    gap = max(float((one[name] - two[name]).abs().max()) for name in one)
    moved = max(float((one[name] - before[name].to(one[name])).abs().max()) for name in before)
    assert gap < 2e-6
    assert moved > 100 * gap
    ours, theirs = (
        [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", kind)
    )
    for name in ("reward", "accuracy", "completion_tokens", "groups_drawn", "rollout_tokens"):
        assert [row[name] for row in ours] == pytest.approx([row[name] for row in theirs])
    assert [row["grad_norm"] for row in ours] == pytest.approx([row["grad_norm"] for row in theirs], rel=1e-3)
    assert ours[0]["grad_norm"] > 1e-3
    assert [row["importance_ratio_mean"] for row in theirs] == pytest.approx([1.0, 1.0], abs=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (make vllm)")
def test_processes_with_an_engine_of_vllm_each_train_to_what_one_trains_to(tmp_path):
    cli = ("-m", "reason_rl.cli")
    layouts = {"one": (cli, 1, {}), "ddp": (cli, 2, {}), "fsdp2": ((SHARDED,), 2, FSDP2)}
    models, rows = {}, {}
    for name, (program, world, environment) in layouts.items():
        started = start(program, tmp_path / name, world, "rollout.engine=vllm", **environment)
        codes = [process.wait(timeout=800) for process in started]
        assert codes == [0] * world, said(tmp_path / name, world - 1)[-3000:]
        models[name] = load_file(tmp_path / name / "model" / "model.safetensors")
        rows[name] = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    assert rows["one"][0]["grad_norm"] > 1e-3
    for other in ("ddp", "fsdp2"):
        assert max(float((part - models[other][name]).abs().max()) for name, part in models["one"].items()) < 2e-6
        for name in ("reward", "completion_tokens", "rollout_tokens"):
            assert [row[name] for row in rows["one"]] == pytest.approx([row[name] for row in rows[other]])


@pytest.mark.slow
def test_refilling_ends_alike_on_both_and_counts_the_tokens_of_both(tmp_path):
    """A cap that leaves most groups flat, so that the processes need different numbers of rounds."""
    folder, rounds = tmp_path / "refill", 4
    refill = ("algorithm.filter.keep=non_zero_std", "algorithm.filter.refill=true", "algorithm.budget.tokens=32")
    started = start((RECORDED,), folder, 2, *refill, f"algorithm.filter.max_rounds={rounds}")
    codes = [process.wait(timeout=800) for process in started]
    assert codes == [0, 0], said(folder, 1)[-3000:]
    ranks = [[json.loads(row) for row in (folder / f"rounds-{r}.jsonl").read_text().splitlines()] for r in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == 2
    for steps in zip(*ranks, strict=True):
        kept = [sum(part["kept"] for part in step["rounds"]) for step in steps]
        assert len(steps[0]["rounds"]) == len(steps[1]["rounds"]) > 1
        # 16 rows a process in groups of 4.
        assert min(kept) >= 4 or len(steps[0]["rounds"]) == rounds
        assert [step["rows"] for step in steps] == [16, 16]
        assert steps[0]["num_items"] == steps[1]["num_items"] == steps[0]["tokens"] + steps[1]["tokens"] > 0
        for one, other in zip(*(step["rounds"] for step in steps), strict=True):
            assert len(one["problems"]) == len(other["problems"]) > 0
            assert not set(one["problems"]) & set(other["problems"])


@pytest.mark.slow
def test_processes_share_out_the_references_and_wait_for_the_slowest(tmp_path, monkeypatch):
    """Under FSDP, which would have the first process alone load weights."""
    measure, folder = "algorithm.reference={samples: 2, max_tokens: 64}", tmp_path / "two"
    recipe = load_recipe("tiny/dler", [*SMALL, measure]).recipe
    one = reference.starting_references(recipe, RunFolder(tmp_path / "one"))
    assert len(one) == 60
    assert 0 < sum(entry.right for entry in one.values()) < 120
    started = start((REFERENCES,), folder, 2, measure, **FSDP2 | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"})
    codes = [process.wait(timeout=800) for process in started]
    assert codes == [0, 0], said(folder, 1)[-3000:]
    found = [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1] == {name: asdict(entry) for name, entry in one.items()}
    parts = [read_rows(folder / "eval" / f"reference-{rank}-of-2.jsonl") for rank in (1, 2)]
    assert [len(part.rows) for part in parts] == [60, 60]
    # A run that goes on with another number of processes samples nothing again.
    monkeypatch.setattr(reference, "evaluate", lambda *_, **__: pytest.fail("sampled again"))
    assert reference.starting_references(recipe, RunFolder(folder)) == one


@pytest.mark.slow
def test_a_process_that_dies_stops_the_other_with_one_message(tmp_path):
    folder = tmp_path / "dies"
    first, second = start(("-m", "reason_rl.cli"), folder, 2, "trainer.max_steps=10000", "trainer.save_steps=10000")
    metrics, deadline = folder / "metrics.jsonl", time.monotonic() + 300
    while not (metrics.is_file() and metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    second.send_signal(signal.SIGKILL)
    try:
        assert first.wait(timeout=60) == 1
    finally:
        first.kill()
        second.wait()
    lines = [line for line in said(folder, 0).splitlines() if "error" in line.lower()]
    assert len(lines) == 1
    assert "another process of the run is gone" in lines[0]
    assert "Traceback" not in said(folder, 0)


class State:
    """What accelerate says of how a model is spread."""

    def __init__(self, kind, stage=None, version=None):
        self.distributed_type = kind
        self.deepspeed_plugin = type("Plugin", (), {"zero_stage": stage})
        self.fsdp_plugin = type("Plugin", (), {"fsdp_version": version})


def test_weights_that_no_engine_can_read_are_refused():
    for fine in (State("NO"), State("MULTI_GPU"), State("DEEPSPEED", stage=2), State("FSDP", version=2)):
        check_readable(fine)
    with pytest.raises(RecipeError, match=r"ZeRO-3 .* shard with FSDP2"):
        check_readable(State("DEEPSPEED", stage=3))
    with pytest.raises(RecipeError, match="set fsdp_version: 2"):
        check_readable(State("FSDP", version=1))


@pytest.mark.parametrize("tied", [False, True])
def test_a_copy_stands_still_until_it_is_told(make_llama, tied):
    model = make_llama(tie_word_embeddings=tied)
    ids = torch.tensor([[5, 6, 7]])
    before = model(ids).logits.detach()
    # As TRL does: a forward pass that is bound to this very model.
    model.forward = type(model).forward.__get__(model)
    twin = still_copy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.testing.assert_close(twin(ids).logits, before)
    copy_weights(model, twin)
    torch.testing.assert_close(twin(ids).logits, model(ids).logits)
    assert not any(parameter.requires_grad for parameter in twin.parameters())


class Group:
    """Two processes, one after the other: what the first sends is kept for the second."""

    def __init__(self):
        self.rank, self.sent = 0, None

    def is_initialized(self):
        return True

    def get_rank(self):
        return self.rank

    def broadcast_object_list(self, values, src):
        assert src == 0
        if self.rank == 0:
            self.sent = list(values)
        values[:] = self.sent


def test_what_the_first_process_meets_is_known_to_all(monkeypatch):
    group = Group()
    monkeypatch.setattr(processes, "dist", group)
    done = []

    def fail():
        raise RunError("disk is full")

    assert processes.only_first(lambda: done.append(1) or "token") == "token"
    group.rank = 1
    assert processes.only_first(lambda: done.append(2) or "other") == "token"
    assert done == [1]
    group.rank = 0
    with pytest.raises(RunError, match="disk is full"):
        processes.only_first(fail)
    group.rank = 1
    with pytest.raises(RunError, match="disk is full"):
        processes.only_first(lambda: "never")
