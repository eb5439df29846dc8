"""The arena: training methods side by side in the tiny world, from the same weights with the same rollout tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason_rl.bench.jobs import Row, Say, read_results, run_jobs
from reason_rl.content import find_content, shipped_recipes
from reason_rl.errors import RecipeError
from reason_rl.models import TINY_REASONER
from reason_rl.recipe.load import load_recipe
from reason_rl.run_folder import RunFolder, package_versions

if TYPE_CHECKING:
    from reason_rl.evaluate.records import EvalRow

FOLDER = "tiny/"
START = "start"
POINTS = (0.25, 0.5)
TOKENS_AN_UPDATE = 32 * 80  # 32 rows of 80 completion tokens, as in recipes/tiny
NO_END = 100_000  # updates; the allowance of rollout tokens ends a run


@dataclass(frozen=True)
class Conditions:
    """What is the same for all methods: rollout tokens, and how the result is evaluated."""

    allowance_tokens: int
    problems: int = 216
    samples: int = 4

    def changes(self, seed: int, output: Path) -> list[str]:
        """Return the overrides that put a recipe under these conditions."""
        return [
            f"seed={seed}",
            f"output={output}",
            f"rollout.allowance_tokens={self.allowance_tokens}",
            f"trainer.max_steps={NO_END}",
            f"eval.data.count={self.problems}",
            f"eval.samples={self.samples}",
        ]


@dataclass(frozen=True)
class StartCell:
    """The evaluation of the weights that all methods start from."""

    conditions: Conditions
    runs: Path

    @property
    def key(self) -> str:
        """Name among the results."""
        return START

    def __call__(self) -> Row:
        """Evaluate and return the result."""
        from reason_rl.evaluate.run import evaluate

        recipe = load_recipe(FOLDER + "grpo", self.conditions.changes(0, self.runs / START)).recipe
        return {"point": 0.0} | measured(evaluate(recipe, None, self.runs / START / "eval.jsonl"))


@dataclass(frozen=True)
class MethodCell:
    """One method with one seed: trained until the allowance is spent, evaluated at each point of it."""

    method: str
    seed: int
    conditions: Conditions
    runs: Path

    @property
    def key(self) -> str:
        """Name among the results and as a folder."""
        return f"{self.method}-seed{self.seed}"

    def __call__(self) -> Row:
        """Train, or go on training, evaluate what was saved on the way, and return the result.

        Where the recipe's prompts have variants, the final model is also evaluated with each of them, and where its budget
        follows a schedule, the models that were kept on the way.
        """
        from reason_rl.evaluate.run import evaluate
        from reason_rl.trainer.callbacks import complete_checkpoints
        from reason_rl.trainer.train import train

        run = RunFolder(self.runs / self.key)
        changes = [*self.conditions.changes(self.seed, run.path), f"trainer.save_steps={NO_END}"]
        loaded = load_recipe(FOLDER + self.method, changes)
        run.prepare(loaded.resolved(), resume=True)
        trained = train(loaded.recipe, run, resume=True, save_at=POINTS)
        history = read_results(run.metrics)
        points = []
        for folder in [*complete_checkpoints(run.checkpoints), trained.model]:
            last = spent_at(history, folder)
            rows = evaluate(loaded.recipe, folder, run.eval / f"{folder.name}.jsonl")
            points.append(
                {"point": round(last["rollout_tokens"] / self.conditions.allowance_tokens, 4), "step": last["step"]}
                | {name: last[name] for name in ("rollout_tokens", "seconds")}
                | averages(rows)
                | (measured(rows) if folder == trained.model else {})
            )
        return {
            "method": self.method,
            "seed": self.seed,
            "allowance_tokens": self.conditions.allowance_tokens,
            "learning_rate": loaded.recipe.trainer["learning_rate"],
            "versions": package_versions(),
            "points": points,
            "asked": {
                name: measured(
                    evaluate(
                        load_recipe(FOLDER + self.method, [*changes, f"prompt.ask={name}"]).recipe,
                        trained.model,
                        run.eval / f"{trained.model.name}-{name}.jsonl",
                    )
                )
                for name in loaded.recipe.prompt.variants
            },
            "kept": {
                folder.name: averages(evaluate(loaded.recipe, folder, run.eval / f"{folder.name}.jsonl"))
                for folder in sorted((run.path / "kept").glob("*"), key=lambda path: path.stat().st_mtime)
            },
        }


def spent_at(history: Sequence[Row], folder: Path) -> Row:
    """Return the metrics of the step that a checkpoint was saved at; the last ones for the final model.

    >>> spent_at([{"step": 8}, {"step": 16}], Path("checkpoint-8"))
    {'step': 8}
    """
    if not folder.name.startswith("checkpoint-"):
        return history[-1]
    step = int(folder.name.split("-")[1])
    return next(row for row in history if row["step"] == step)


def averages(rows: Sequence[EvalRow]) -> Row:
    """Return accuracy and mean completion tokens."""
    return {
        "accuracy": sum(row.correct for row in rows) / len(rows),
        "completion_tokens": sum(row.completion_tokens for row in rows) / len(rows),
    }


def measured(rows: Iterable[EvalRow]) -> Row:
    """Return what the table needs of each problem: its level, and each sample's verdict, tokens, and whether it thought."""
    problems: dict[str, dict[str, Any]] = {}
    for row in rows:
        entry = problems.setdefault(row.problem_id, {"level": row.level, "correct": [], "tokens": [], "thought": []})
        entry["correct"].append(int(row.correct))
        entry["tokens"].append(row.completion_tokens)
        entry["thought"].append(int(row.think_tokens > 1))
    return {"problems": problems}


def methods_of(names: str | None) -> list[str]:
    """Return the methods asked for, comma separated; all that the folder of tiny recipes has when none is named.

    Raises:
        RecipeError: naming a method that has no recipe there.

    >>> methods_of("dler,grpo")
    ['dler', 'grpo']
    """
    known = [
        name.removeprefix(FOLDER)
        for name, path in shipped_recipes().items()
        if name.startswith(FOLDER) and _takes_part(name)
    ]
    if names is None:
        return known
    asked = names.split(",")
    for name in asked:
        if name not in known:
            raise RecipeError(f"arena: --methods {name}: no such method; there are {', '.join(known)}")
    return asked


def _takes_part(name: str) -> bool:
    recipe = load_recipe(name).recipe if "output:" in find_content(f"recipes/{name}.yaml").read_text() else None
    if recipe is None or recipe.task != "train":
        return False
    return recipe.model.path == TINY_REASONER and recipe.rollout.engine == "hf"


def made_cells(out: Path) -> list[Row]:
    """Return the cells that ``out`` holds.

    Raises:
        RecipeError: when the start is not among them.
    """
    rows = read_results(out / "cells.jsonl")
    if START not in {row["key"] for row in rows}:
        raise RecipeError(
            f"{out / 'cells.jsonl'}: no cell named {START}; run reason-rl arena --out {out} without --only-report"
        )
    return rows


def command_of(rows: Sequence[Row], out: Path) -> str:
    """Return the command that makes these cells where none are.

    >>> command_of([{"key": "start"}, {"method": "dler", "seed": 1, "allowance_tokens": 245760}], Path("eval/arena"))
    'reason-rl arena --out eval/arena --budget-updates 96 --seeds 2 --methods dler'
    """
    cells = [row for row in rows if "method" in row]
    names = list(dict.fromkeys(row["method"] for row in cells))
    parts = [f"reason-rl arena --out {out}"]
    if cells:
        parts.append(f"--budget-updates {cells[0]['allowance_tokens'] // TOKENS_AN_UPDATE}")
        parts.append(f"--seeds {1 + max(row['seed'] for row in cells)}")
    if set(names) != set(methods_of(None)):
        parts.append(f"--methods {','.join(names)}")
    return " ".join(parts)


def make_cells(methods: Sequence[str], seeds: int, updates: int, out: Path, workers: int, say: Say) -> None:
    """Make the cells that are missing: the start, and each method with each seed; ``out`` keeps them.

    Raises:
        RecipeError: when ``out`` holds cells with another allowance.
    """
    cells = out / "cells.jsonl"
    conditions = Conditions(updates * TOKENS_AN_UPDATE)
    for row in read_results(cells):
        if row.get("allowance_tokens", conditions.allowance_tokens) != conditions.allowance_tokens:
            raise RecipeError(
                f"{cells}: {row['key']} was made with {row['allowance_tokens']:,} rollout tokens, not "
                f"{conditions.allowance_tokens:,}; name another --out"
            )
    runs = out / "runs"
    jobs = [MethodCell(method, seed, conditions, runs) for seed in range(seeds) for method in methods]
    run_jobs([StartCell(conditions, runs), *jobs], cells, workers, say)
