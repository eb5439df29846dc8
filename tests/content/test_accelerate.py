"""The files of recipes/accelerate: accelerate reads them, knows every key, and each says whether it was run."""

import json
import subprocess
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import launch_command_parser
from ruamel.yaml import YAML

FOLDER = Path(__file__).parents[2] / "recipes" / "accelerate"
FILES = sorted(FOLDER.glob("*.yaml"))
SHAPES = {
    "cpu_2": (1, 2),
    "gpu_1": (1, 1),
    "gpu_8_ddp": (1, 8),
    "gpu_8_fsdp2": (1, 8),
    "gpu_8_zero3": (1, 8),
    "gpu_2x8_ddp": (2, 16),
}


def test_all_machines_are_there():
    assert {path.stem for path in FILES} == set(SHAPES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_knows_every_key(path):
    config = ClusterConfig.from_yaml_file(str(path))  # refuses unknown keys of the first level
    assert (config.num_machines, config.num_processes) == SHAPES[path.stem]
    # Keys below the first level become arguments of `accelerate launch`; unknown ones would be dropped without a word.
    known = {action.dest for action in launch_command_parser()._actions}
    given = YAML(typ="safe", pure=True).load(path.read_text())
    nested = {key for section in given.values() if isinstance(section, dict) for key in section}
    assert nested <= known


@pytest.mark.parametrize("path", [*FILES, FOLDER / "slurm.sh"], ids=lambda path: path.stem)
def test_each_says_whether_it_was_run(path):
    head = next(line for line in path.read_text().splitlines() if line.startswith("# "))
    assert "Not run" in head or "Run, with the command below" in head


def test_sharded_weights_are_version_two_and_three():
    fsdp, zero = (ClusterConfig.from_yaml_file(str(FOLDER / f"gpu_8_{name}.yaml")) for name in ("fsdp2", "zero3"))
    assert fsdp.fsdp_config["fsdp_version"] == 2
    assert zero.deepspeed_config["zero_stage"] == 3


def test_the_slurm_script_parses_and_names_a_file_that_exists():
    script = FOLDER / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "recipes/accelerate/gpu_2x8_ddp.yaml" in script.read_text()
    refused = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "usage: sbatch" in refused.stderr


@pytest.mark.slow
def test_two_cpu_processes_share_a_smoke_run(in_two_processes, tmp_path, monkeypatch):
    monkeypatch.setenv("REASON_RL_CACHE", str(tmp_path / "cache"))
    train = ["-m", "reason_rl.cli", "train", "tiny/grpo", "--smoke", f"output={tmp_path / 'run'}"]
    done = subprocess.run(
        [*in_two_processes, *train], capture_output=True, text=True, cwd=tmp_path, timeout=800, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first = json.loads((tmp_path / "run-smoke" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["groups_drawn"] == 2 * 2  # two groups a process
