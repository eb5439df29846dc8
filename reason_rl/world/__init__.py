"""The tiny world: procedural problems, worked traces and a tiny reasoner that overthinks them."""

from __future__ import annotations

from pathlib import Path


def reasoner_path() -> Path:
    """Return the folder of the shipped weights of the tiny reasoner."""
    return Path(__file__).parent / "reasoner"
