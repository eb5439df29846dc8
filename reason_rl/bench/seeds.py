"""One recipe with several training seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reason_rl.bench.jobs import Row, Say, run_jobs
from reason_rl.recipe.load import load_recipe
from reason_rl.run_folder import RunFolder

SIDES = ("before", "after")
LEVEL_METRICS = ("accuracy", "completion_tokens")
KEPT = ("problems", "samples", "sampling", "metrics", "token_cut", "accuracy_held", "training")


@dataclass(frozen=True)
class SeedJob:
    """One whole run of a recipe: evaluate, train, evaluate."""

    recipe: str
    seed: int
    runs: Path
    changes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Recipe and seed."""
        return f"{self.recipe.replace('/', '-')}-seed{self.seed}"

    @property
    def folder(self) -> RunFolder:
        """Where the run lives."""
        return RunFolder(self.runs / self.key)

    def __call__(self) -> Row:
        """Make the run, or continue it, and return what a result file keeps of it."""
        from reason_rl.pipeline import run

        loaded = load_recipe(self.recipe, [*self.changes, f"seed={self.seed}", f"output={self.folder.path}"])
        self.folder.prepare(loaded.resolved(), resume=True)
        summary = run(loaded.recipe, self.folder, resume=True, say=lambda _: None)
        levels = {
            level: {side: {m: summary[side]["levels"][level][m] for m in LEVEL_METRICS} for side in SIDES}
            for level in summary["before"]["levels"]
        }
        return {"recipe": self.recipe, "seed": self.seed, "levels": levels} | {key: summary[key] for key in KEPT}


def over_seeds(recipe: str, seeds: int, out: Path, workers: int, say: Say) -> list[dict[str, Any]]:
    """Run a recipe with seeds 0, 1, ... and return one row a seed; runs are kept in ``runs`` beside ``out``."""
    return run_jobs([SeedJob(recipe, seed, out.parent / "runs") for seed in range(seeds)], out, workers, say)
