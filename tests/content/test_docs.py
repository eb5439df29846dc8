"""README and pages: what they show can be run, and what they say is what the files say."""

import json
import re
from pathlib import Path

import pytest

from reason_rl.cli import app
from reason_rl.errors import RecipeError

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def section(title):
    return README.split(f"## {title}\n")[1].split("\n## ")[0]


def commands(text):
    """Return the arguments of the commands in indented blocks, comments left out."""
    lines = (line.strip().partition("  #")[0] for line in text.splitlines() if line.startswith("    "))
    return [line.split()[1:] for line in lines if line.startswith("reason-rl ")]


def test_the_exits_are_those_of_the_file():
    rows = json.loads((ROOT / "eval" / "stopping" / "test.json").read_text())["risks"]
    row = next(row for row in rows if row["risk"] == 0.05)
    said = " ".join(section("Stopping at test time").split())
    assert f"On {row['traces']} held-out problems" in said
    assert f"risk 0.05 save {row['saved']:.1%}".replace("%", " %") in said
    lost, mended = (f"{row[name]['share']:.1%}".replace("%", " %") for name in ("harm", "help"))
    assert f"on {lost} of the problems a right answer is lost, on {mended} a wrong one is put right" in said


def test_a_model_of_ones_own_is_planned_as_readme_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = section("Your own model")
    copy, plan, run = commands(text)
    app(copy, standalone_mode=False)
    own = Path("my.yaml")
    own.write_text(own.read_text() + re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    capsys.readouterr()
    app([*plan, "--json"], standalone_mode=False)
    figures = json.loads(capsys.readouterr().out)
    assert f"{figures['rows_per_generation']} rollouts and {figures['updates_per_generation']} updates a batch" in text
    assert figures["updates_per_generation"] == 8
    assert run == ["run", "my.yaml"]
    app(["show", "my.yaml"], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "your-org/your-model" in shown
    assert "output: outputs/my\n" in shown


def test_the_mistake_that_readme_shows_is_told():
    made = next(command for command in commands(section("First steps")) if command[0] == "validate")
    with pytest.raises(RecipeError, match=r"did you mean learning_rate\?"):
        app(made, standalone_mode=False)


def test_scaled_stopping_in_generate_runs_as_shown():
    page = (ROOT / "docs" / "methods" / "ts_stopping.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1].replace("max_new_tokens=384", "max_new_tokens=16")
    names = {}
    exec(code, names)
    assert len(names["completions"]) == 2
