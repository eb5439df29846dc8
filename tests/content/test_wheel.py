"""The wheel carries what the checkout has."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_holds_recipes_rewards_suites_and_the_reasoner(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, check=True, capture_output=True, cwd=ROOT)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    assert {
        "reason_rl/_content/recipes/tiny/dler.yaml",
        "reason_rl/_content/rewards/dler.py",
        "reason_rl/_content/eval/suites/tiny.yaml",
        "reason_rl/world/reasoner/model.safetensors",
        "reason_rl/report/templates/page.html.j2",
        "reason_rl/recipe/snapshots/grpo_config.json",
    } <= names
    assert not any(name.startswith(("recipes/", "rewards/", "eval/", "tests/")) for name in names)
