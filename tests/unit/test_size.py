"""The house stays small: median file at most 150 lines, none over 500, no function over 60."""

import ast
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = [*(ROOT / "reason_rl").rglob("*.py"), *(ROOT / "rewards").glob("*.py")]


def test_files_are_short():
    lengths = {path: len(path.read_text().splitlines()) for path in FILES}
    assert len(lengths) > 40
    assert statistics.median(lengths.values()) <= 150
    assert not {str(path): n for path, n in lengths.items() if n > 500}


def test_functions_are_short():
    long = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > 60:
                    long[f"{path.name}:{node.name}"] = lines
    assert not long
