"""The trainer knows seams, not methods: adding a method does not touch it."""

import re
from pathlib import Path

import pytest

from reason_rl.content import shipped_recipes

ROOT = Path(__file__).parents[2]
TRAINER = sorted((ROOT / "reason_rl" / "trainer").glob("*.py"))
# Names of recipes that are the library's own words: GRPO is what the trainer is; the others are no methods of a paper.
WORDS = {"grpo", "base", "pretrain", "pretrain_repair", "pretrain_at_once", "pretrain_levels"}
METHODS = sorted(
    {name.removeprefix("tiny/") for name in shipped_recipes() if name.startswith("tiny/")} - WORDS
    | {"anytime_brpo", "brpo", "adaptthink", "hapo", "tldr", "lcpo", "thinkprune", "deepscaler", "mind", "dler"}
)


def forms(method):
    """Return a pattern of a method's name as it may be written: with _, -, a space or nothing between its parts."""
    return re.compile(r"(?<![a-z])" + r"[_\- ]?".join(map(re.escape, method.split("_"))) + r"(?![a-z])", re.IGNORECASE)


def test_the_methods_are_found():
    assert {"dler", "siri", "laser_d", "cures", "gspo"} <= set(METHODS)
    assert forms("da_dler").search("# as DA-DLER does")
    assert not forms("siri").search("desiring")


@pytest.mark.parametrize("path", TRAINER, ids=lambda path: path.name)
def test_no_file_of_the_trainer_names_a_method(path):
    # TRL names the forms of its loss after papers.
    text = re.sub(r'"loss_type": "\w+"', "", path.read_text(encoding="utf-8"))
    found = {method: match.group() for method in METHODS if (match := forms(method).search(text))}
    assert not found
