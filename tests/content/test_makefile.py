"""The Makefile: what stops it before anything is installed, and what its targets run."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_an_older_python_is_refused_before_anything_is_made(tmp_path):
    made = subprocess.run(
        ["make", "setup", "PYTHON=false", f"VENV={tmp_path / 'venv'}"], cwd=ROOT, capture_output=True, text=True
    )
    assert made.returncode != 0
    assert "false is no Python 3.11 or later; name one, as in make demo PYTHON=python3.12" in made.stderr
    assert not (tmp_path / "venv").exists()


def test_the_demo_goes_on_with_an_interrupted_run():
    shown = subprocess.run(["make", "--dry-run", "demo"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "reason-rl run recipes/tiny/dler.yaml --resume\n" in shown.stdout
