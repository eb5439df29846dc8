"""Published figures beside which a run may be placed: same base model, same benchmark, and under which protocol."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass

from reason_rl.content import find_content

FILE = "eval/baselines/published.csv"
BENCHMARKS = {
    "gsm8k": "GSM8K",
    "math500": "MATH-500",
    "amc23": "AMC23",
    "aime24": "AIME24",
    "aime25": "AIME25",
    "olympiadbench": "OlympiadBench",
    "minerva_math": "Minerva",
}


@dataclass(frozen=True)
class Published:
    """One row of a paper's table; accuracy as a share, mean completion tokens as the source counts them."""

    method: str
    accuracy: float
    tokens: float
    source: str

    @property
    def cap(self) -> int | None:
        """The completion cap that the source states, thousands of tokens taken as 1,024; None when it states none.

        >>> Published("x", 0.8, 900.0, "Table 1 (T=0.6 top_p=0.95, 32k, avg of 16)").cap
        32768
        """
        found = re.search(r"\b(\d+)k\b", self.source)
        return int(found[1]) * 1024 if found else None


def published(model: str, suite: str) -> list[Published]:
    """Return the published points of a base model on a suite that have both accuracy and tokens.

    Args:
        model: hub id or folder of the base model; its last part is compared.
        suite: name of the suite.
    """
    benchmark, name = BENCHMARKS.get(suite), model.rstrip("/").split("/")[-1].lower()
    with find_content(FILE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Published(row["method"], float(row["accuracy"]) / 100, float(row["tokens"]), row["source"])
        for row in rows
        if row["base_model"].lower() == name and row["benchmark"] == benchmark and row["accuracy"] and row["tokens"]
    ]


def marked(points: Sequence[Published], cap: int) -> list[tuple[Published, str]]:
    """Return each point with what keeps it from being compared directly, "" when nothing is known to.

    >>> point = Published("x", 0.8, 900.0, "Table 1 (16k)")
    >>> marked([point], 32768)[0][1], marked([point], 16384)[0][1]
    ('cap 16,384', '')
    """
    notes = []
    for point in points:
        note = "cap not stated" if point.cap is None else "" if point.cap == cap else f"cap {point.cap:,}"
        notes.append((point, note))
    return notes
