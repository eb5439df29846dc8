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
    benchmark: str = ""

    @property
    def cap(self) -> int | None:
        """The completion cap that the source states, thousands of tokens taken as 1,024; None when it states none.

        >>> Published("x", 0.8, 900.0, "Table 1 (T=0.6 top_p=0.95, 32k, avg of 16)").cap
        32768
        """
        found = re.search(r"\b(\d+)k\b", self.source)
        return int(found[1]) * 1024 if found else None

    @property
    def samples(self) -> int | None:
        """The samples a problem that the source states for this benchmark; None when it states none.

        >>> Published("x", 0.8, 900.0, "Table 1 (T=0.6, 16k, AIME avg of 16)", "AMC23").samples is None
        True
        >>> Published("x", 0.8, 900.0, "Table 1 (T=0.6, 16k, AIME avg of 16)", "AIME24").samples
        16
        """
        found = re.search(r"(?:(\w+) )?avg of (\d+)|\b(\d+) samples\b", self.source)
        if found is None or not self.benchmark.startswith(found[1] or ""):
            return None
        return int(found[2] or found[3])


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
        Published(row["method"], float(row["accuracy"]) / 100, float(row["tokens"]), row["source"], row["benchmark"])
        for row in rows
        if row["base_model"].lower() == name and row["benchmark"] == benchmark and row["accuracy"] and row["tokens"]
    ]


def marked(points: Sequence[Published], cap: int, samples: int) -> list[tuple[Published, str]]:
    """Return each point with what keeps it from being compared directly, "" when nothing is known to.

    >>> point = Published("x", 0.8, 900.0, "Table 1 (16k, avg of 4)")
    >>> marked([point], 32768, 16)[0][1], marked([point], 16384, 4)[0][1]
    ('cap 16,384, 4 samples', '')
    """
    notes = []
    for point in points:
        differs = []
        if point.cap != cap:
            differs.append("cap not stated" if point.cap is None else f"cap {point.cap:,}")
        if point.samples != samples:
            differs.append("samples not stated" if point.samples is None else f"{point.samples} samples")
        notes.append((point, ", ".join(differs)))
    return notes
