"""The committed arena: its table follows from its cells, and what docs/arena.md says from its table."""

import json
from pathlib import Path

import pytest

from reason_rl.bench.arena import made_cells
from reason_rl.evaluate.arena import arena_table
from reason_rl.report.arena import arena_markdown

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "eval" / "arena"
TABLE = json.loads((FOLDER / "table.json").read_text())


def rounded(value):
    """Return JSON with ten digits a number: the last bits depend on the processor."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return float(f"{value:.10g}") if isinstance(value, float) else value


def test_the_table_is_that_of_the_cells():
    assert rounded(json.loads(json.dumps(arena_table(made_cells(FOLDER))))) == rounded(TABLE)


def test_the_page_shows_every_method_as_the_table_has_it():
    assert arena_markdown(TABLE) in (ROOT / "docs" / "arena.md").read_text()


@pytest.mark.parametrize("name", TABLE["methods"])
def test_all_methods_had_the_same_rollout_tokens(name):
    # The last rollout batch may go over, by one batch.
    assert 1 <= TABLE["methods"][name]["rollout_tokens"] / 245_760 < 1.2


def test_what_the_page_says_holds_does():
    held = {
        name
        for name, entry in TABLE["methods"].items()
        if entry["token_cut"]["mean"] >= 0.40 and entry["accuracy_difference"]["mean"] >= -0.01
    }
    assert held == {"dler", "dler_cap112", "dler_rpa", "dler_rpa_guardian", "cispo", "grpo_cap80"}


def right_within(cell, cap):
    """Return the share of a cell's completions that are right and no longer than the cap, a mean over problems."""
    shares = [
        sum(right and tokens <= cap for right, tokens in zip(one["correct"], one["tokens"], strict=True))
        / len(one["tokens"])
        for one in cell["points"][-1]["problems"].values()
    ]
    return sum(shares) / len(shares)


@pytest.mark.parametrize("cap", [80, 96, 128, 192, 384])
def test_anytime_reasoning_is_above_grpo_from_eighty_tokens_on(cap):
    lines = (FOLDER / "cells.jsonl").read_text().splitlines()
    cells = {cell["key"]: cell for cell in map(json.loads, lines)}
    assert right_within(cells["anytime_brpo-seed0"], cap) > right_within(cells["grpo_cap192-seed0"], cap)
