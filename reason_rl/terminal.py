"""What the commands share: options, and how a result or a line of progress is printed."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

RecipeName = Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one (see recipes ls).")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value, or ~key.path to delete.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Workers = Annotated[int, typer.Option(min=1, help="Runs made at a time; the cores are shared out among them.")]


def emit(value: Any, as_json: bool, text: Any = None) -> None:
    """Print a result: JSON when asked for, else the text (a string or a rich table)."""
    if as_json:
        print(json.dumps(value, indent=2, default=str))
    elif isinstance(text, str):
        print(text)
    else:
        from rich.console import Console

        Console().print(value if text is None else text)


def say(line: str) -> None:
    """Tell what is being done, on the error stream, so that results stay alone on the output."""
    print(f"reason-rl: {line}", file=sys.stderr, flush=True)
