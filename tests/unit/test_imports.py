"""What must stay light stays light."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "matplotlib", "scipy")
LIGHT = (
    "reason_rl",
    "reason_rl.cli",
    "reason_rl.recipe.load",
    "reason_rl.recipe.plan",
    "reason_rl.recipe.suite",
    "reason_rl.recipe.catalogue",
    "reason_rl.recipe.smoke",
    "reason_rl.problem.sources",
    "reason_rl.problem.prompt",
    "reason_rl.answer.verify",
    "reason_rl.evaluate.comparison",
    "reason_rl.evaluate.statistics",
    "reason_rl.report.page",
    "reason_rl.report.tables",
    "reason_rl.run_folder",
)


def loaded(code):
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return set(json.loads(output.splitlines()[-1]))


@pytest.mark.parametrize("module", LIGHT)
def test_import_loads_nothing_heavy(module):
    assert not loaded(f"import {module}") & set(HEAVY)


@pytest.mark.parametrize(
    "arguments",
    [
        ["validate", "tiny/dler"],
        ["show", "tiny/dler"],
        ["plan", "tiny/dler"],
        ["schema"],
        ["recipes", "ls"],
        ["--help"],
        ["serve", "--help"],
    ],
)
def test_commands_that_only_look_load_nothing_heavy(arguments):
    code = (
        f"import sys\nsys.argv = ['reason-rl', *{arguments!r}]\nfrom reason_rl.cli import main\n"
        "try:\n    main()\nexcept SystemExit as e:\n    assert not e.code"
    )
    assert not loaded(code) & set(HEAVY)
