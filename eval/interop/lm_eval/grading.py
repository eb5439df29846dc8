"""Grades lm-eval's generations as the suites of this project do."""

from __future__ import annotations

from typing import Any

from reason_rl.answer.response import find_answer
from reason_rl.answer.verify import make_verifier


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return the verdict on the first generation of a GSM8K problem; the name and arguments are lm-eval's."""
    found = find_answer(results[0])
    with make_verifier("math", 5.0) as verifier:
        verdict = verifier.verify([None if found is None else found.text], [doc["answer"].split("####")[-1].strip()])
    return {"accuracy": float(verdict[0])}
