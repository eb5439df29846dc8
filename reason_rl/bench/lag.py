"""DLER with rollouts that overlap with the update by one step, against DLER in step: final quality over seeds."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reason_rl.bench.jobs import Row, Say, run_jobs
from reason_rl.bench.paired import seed_difference
from reason_rl.bench.seeds import SeedJob

RECIPE = "tiny/dler"
SHORTER = ("trainer.max_steps=96", "trainer.save_steps=96")
LAGS = (0, 1)
COMPARED = ("accuracy", "completion_tokens")


@dataclass(frozen=True)
class LagJob:
    """One run; the importance correction is the recipe's."""

    lag: int
    seed: int
    runs: Path

    @property
    def key(self) -> str:
        """Lag and seed."""
        return f"lag{self.lag}-seed{self.seed}"

    def __call__(self) -> Row:
        """Evaluate, train, evaluate again, and return what is compared."""
        run = SeedJob(RECIPE, self.seed, self.runs / f"lag{self.lag}", (*SHORTER, f"rollout.lag={self.lag}"))()
        after = {name: run["metrics"][name]["after"]["mean"] for name in COMPARED}
        before = {f"{name}_before": run["metrics"][name]["before"]["mean"] for name in COMPARED}
        cut = run["token_cut"]["mean"]
        return {"lag": self.lag, "seed": self.seed, **before, **after, "token_cut": cut, "training": run["training"]}


def compare_lag(out: Path, seeds: list[int], workers: int, say: Say) -> dict[str, Any]:
    """Make what is missing in ``out`` and return the figures of both, and lag 1 minus lag 0 paired by seed."""
    runs = out.parent / "runs"
    rows = run_jobs([LagJob(lag, seed, runs) for seed in seeds for lag in LAGS], out, workers, say)
    in_step, lagged = ([row for row in rows if row["lag"] == lag] for lag in LAGS)
    table: dict[str, Any] = {"seeds": seeds}
    for name in (*COMPARED, "token_cut"):
        sides = [[row[name] for row in side] for side in (in_step, lagged)]
        table[name] = {"lag_0": statistics.fmean(sides[0]), "lag_1": statistics.fmean(sides[1])}
        if len(seeds) > 1:
            table[name]["difference"] = seed_difference(*sides)
    return table
