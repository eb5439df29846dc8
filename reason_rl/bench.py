"""Comparisons over seeds: one recipe with itself, and stock trl.GRPOTrainer with our DLER."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reason_rl.evaluate.records import read_rows
from reason_rl.evaluate.statistics import paired_summary
from reason_rl.recipe.checks import rows_per_generation, updates_per_generation
from reason_rl.recipe.load import load_recipe
from reason_rl.run_folder import RunFolder

if TYPE_CHECKING:
    from reason_rl.recipe.schema import Recipe

RECIPE = "tiny/dler"
LEARNING_RATES = (3e-5, 1e-4, 3e-4)
SIDES = ("before", "after")
VARIANTS = ("plain", "soft_overlong", "cosine")
WINDOW_GENERATIONS = 3

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One training run of the comparison."""

    method: str
    seed: int
    learning_rate: float

    @property
    def key(self) -> str:
        """Name of the run, in the results and as a folder."""
        return f"{self.method}-lr{self.learning_rate:g}-seed{self.seed}"


def over_seeds(name: str, seeds: int, out: Path, say: Say) -> list[dict[str, Any]]:
    """Run a recipe with seeds 0, 1, ... and return one row a seed; rows already in ``out`` are not made again."""
    from reason_rl.pipeline import run as run_recipe

    rows = {row["seed"]: row for row in _lines(out)}
    for seed in range(seeds):
        if seed in rows:
            continue
        folder = RunFolder(out.parent / "runs" / f"{name.replace('/', '-')}-seed{seed}")
        loaded = load_recipe(name, [f"seed={seed}", f"output={folder.path}"])
        folder.prepare(loaded.resolved(), resume=True)
        say(f"{name}, seed {seed}")
        summary = run_recipe(loaded.recipe, folder, resume=True, say=say)
        rows[seed] = {"recipe": name, "seed": seed, **_facts(summary), "training": summary["training"]}
        _append(out, rows[seed])
    return list(rows.values())


def _facts(summary: dict[str, Any]) -> dict[str, Any]:
    """Return what a result file keeps of a paired summary."""
    levels = {
        level: {
            side: {m: summary[side]["levels"][level][m] for m in ("accuracy", "completion_tokens")} for side in SIDES
        }
        for level in summary["before"]["levels"]
    }
    kept = ("problems", "samples", "sampling", "metrics", "token_cut", "accuracy_held")
    return {**{key: summary[key] for key in kept}, "levels": levels}


def _append(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def stock_comparison(out: Path, seeds: int, say: Say) -> dict[str, Any]:
    """Run what is missing of the comparison and return its table.

    Each stock variant is tried at three learning rates with the first seed; the best goes on to the other seeds. Stock
    gets as many rollouts as ours drew, refills included. Results are appended to ``out`` run by run.
    """
    done = {row["key"]: row for row in _lines(out)}
    own_rate = float(load_recipe(RECIPE).recipe.trainer["learning_rate"])
    for seed in range(seeds):
        _do(Job("dler", seed, own_rate), out, done, say)
    for variant in VARIANTS:
        tried = [_do(Job(variant, 0, rate), out, done, say) for rate in LEARNING_RATES]
        best = max(tried, key=lambda row: (row["reached_goal"], utility(row)))
        for seed in range(1, seeds):
            _do(Job(variant, seed, best["learning_rate"]), out, done, say)
    return table(list(done.values()))


def utility(row: dict[str, Any]) -> float:
    """Order runs of one variant: accuracy counts in full, a tenth of a point for each percent of tokens saved."""
    return float(row["accuracy"] + 0.1 * row["token_cut"])


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and range over seeds of each method at its best learning rate."""
    result = {}
    for method in ("dler", *VARIANTS):
        mine = [row for row in rows if row["method"] == method]
        rates = {row["learning_rate"] for row in mine}
        if not rates:
            continue
        most = max(rates, key=lambda rate: sum(row["learning_rate"] == rate for row in mine))
        chosen = [row for row in mine if row["learning_rate"] == most]
        result[method] = {"learning_rate": most, "seeds": len(chosen)} | {
            name: _spread([row[name] for row in chosen])
            for name in (
                "accuracy",
                "accuracy_difference",
                "completion_tokens",
                "token_cut",
                "seconds",
                "seconds_to_goal",
            )
        }
        result[method]["accuracy_by_level"] = {
            level: _spread([row["accuracy_by_level"][level] for row in chosen])
            for level in chosen[0]["accuracy_by_level"]
        }
    return result


def _spread(values: list[float | None]) -> dict[str, float | None]:
    present = [value for value in values if value is not None]
    if not present:
        return {"mean": None, "low": None, "high": None, "missing": len(values)}
    return {
        "mean": float(np.mean(present)),
        "low": min(present),
        "high": max(present),
        "missing": len(values) - len(present),
    }


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        yield from map(json.loads, path.read_text().splitlines())


def _do(job: Job, out: Path, done: dict[str, dict[str, Any]], say: Say) -> dict[str, Any]:
    """Run one job unless its result is there; train, evaluate, append one line."""
    if job.key in done:
        return done[job.key]
    say(f"bench stock: {job.key}")
    run = RunFolder(out.parent / "stock" / job.key)
    loaded = load_recipe(
        RECIPE, [f"seed={job.seed}", f"trainer.learning_rate={job.learning_rate}", f"output={run.path}"]
    )
    start = run.path.parent / "start.jsonl"
    from reason_rl.evaluate.run import evaluate

    if not start.is_file():
        evaluate(loaded.recipe, None, start)
    before = read_rows(start)
    start_tokens = float(np.mean([row.completion_tokens for row in before.rows]))
    start_accuracy = float(np.mean([row.correct for row in before.rows]))
    if job.method == "dler":
        from reason_rl.trainer.train import train

        run.prepare(loaded.resolved(), resume=True)
        train(loaded.recipe, run)
        history = [{**row, "rollouts": row["groups_drawn"] * 8} for row in _lines(run.metrics)]
    else:
        rollouts = float(np.mean([row["rollouts"] for row in done.values() if row["method"] == "dler"]))
        history = train_stock(loaded.recipe, job.method, run, rollouts)
    evaluate(loaded.recipe, run.model, run.path / "after.jsonl")
    summary = paired_summary(before, read_rows(run.path / "after.jsonl"))
    accuracy, tokens = summary["metrics"]["accuracy"], summary["metrics"]["completion_tokens"]
    row = {
        "key": job.key,
        "method": job.method,
        "seed": job.seed,
        "learning_rate": job.learning_rate,
        "accuracy": accuracy["after"]["mean"],
        "accuracy_difference": accuracy["difference"]["mean"],
        "accuracy_difference_low": accuracy["difference"]["low"],
        "completion_tokens": tokens["after"]["mean"],
        "token_cut": summary["token_cut"]["mean"],
        "accuracy_by_level": {level: v["accuracy"] for level, v in summary["after"]["levels"].items()},
        "tokens_by_level": {level: v["completion_tokens"] for level, v in summary["after"]["levels"].items()},
        "rollouts": sum(entry["rollouts"] for entry in history),
        "seconds": history[-1]["seconds"],
        "seconds_to_goal": seconds_to_goal(history, start_accuracy, start_tokens),
        "reached_goal": accuracy["difference"]["low"] > -0.01 and summary["token_cut"]["mean"] >= 0.5,
    }
    _append(out, row)
    done[job.key] = row
    return row


def seconds_to_goal(history: list[dict[str, Any]], accuracy: float, tokens: float) -> float | None:
    """Return when training rollouts were, over three generations, as accurate as the start at half its tokens."""
    for end in range(WINDOW_GENERATIONS, len(history) + 1):
        window = history[end - WINDOW_GENERATIONS : end]
        right = np.mean([row["accuracy"] for row in window])
        used = np.mean([row["completion_tokens"] for row in window])
        if right >= accuracy and used <= tokens / 2:
            return float(window[-1]["seconds"])
    return None


def train_stock(recipe: Recipe, variant: str, run: RunFolder, rollouts: float) -> list[dict[str, Any]]:
    """Train with an unchanged trl.GRPOTrainer and return one row a generation."""
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    from reason_rl.answer.verify import ExactVerifier
    from reason_rl.models import end_think_id, load_model, load_tokenizer
    from reason_rl.problem.prompt import to_dataset
    from reason_rl.problem.sources import load_problems
    from reason_rl.rollout.grading import Grader

    assert recipe.algorithm is not None
    tokenizer = load_tokenizer(recipe.model)
    grader = Grader(tokenizer, ExactVerifier(), end_think_id(tokenizer, recipe.model.end_think_token))
    trainer = GRPOTrainer(
        model=load_model(recipe.model),
        reward_funcs=stock_rewards(variant, grader, recipe.algorithm.budget.tokens),
        args=stock_config(recipe, run, rollouts),
        train_dataset=to_dataset(load_problems(recipe.data), recipe.prompt),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    start = time.monotonic()
    history = []
    log = trainer.log

    def keep(logs: dict[str, float], *args: Any) -> None:
        log(logs, *args)
        if "completions/mean_length" in logs:
            history.append(
                {
                    "seconds": time.monotonic() - start,
                    "accuracy": logs["accuracy"],
                    "completion_tokens": logs["completions/mean_length"],
                    "rollouts": rows_per_generation(recipe.trainer),
                }
            )

    trainer.log = keep
    trainer.train()
    trainer.save_model(str(run.model))
    return history


def stock_config(recipe: Recipe, run: RunFolder, rollouts: float) -> Any:
    """Return stock settings: the recipe's batch shape and optimiser, TRL's own defaults for the method."""
    from trl import GRPOConfig

    shape = (
        "per_device_train_batch_size",
        "steps_per_generation",
        "num_generations",
        "learning_rate",
        "warmup_steps",
        "max_grad_norm",
        "weight_decay",
        "lr_scheduler_type",
    )
    assert recipe.algorithm is not None
    updates = updates_per_generation(recipe.trainer)
    return GRPOConfig(
        output_dir=str(run.checkpoints),
        seed=recipe.seed,
        max_completion_length=recipe.algorithm.budget.tokens,
        max_steps=round(rollouts / rows_per_generation(recipe.trainer)) * updates,
        logging_steps=updates,
        save_strategy="no",
        report_to="none",
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        disable_tqdm=True,
        **{"lr_scheduler_type": "constant_with_warmup"},
        **{key: value for key, value in recipe.trainer.items() if key in shape and key != "lr_scheduler_type"},
    )


def stock_rewards(variant: str, grader: Any, cap: int) -> list[Callable[..., list[float]]]:
    """Return the reward functions of a variant, in TRL's protocol."""

    def correct(completion_ids: list[list[int]], answer: list[str], log_metric: Any, **_: Any) -> list[float]:
        verdicts = grader.verifier.verify([grader.extracted(ids) for ids in completion_ids], answer)
        log_metric("accuracy", sum(verdicts) / len(verdicts))
        return [float(verdict) for verdict in verdicts]

    def cosine(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        right = correct(completion_ids, **columns)
        values = []
        for ids, verdict in zip(completion_ids, right, strict=True):
            weight = (1 + np.cos(np.pi * min(len(ids), cap) / cap)) / 2
            values.append(float(0.5 + 0.5 * weight if verdict else -0.5 - 0.5 * weight))
        return values

    if variant == "plain":
        return [correct]
    if variant == "soft_overlong":
        from trl.rewards import get_soft_overlong_punishment

        return [correct, get_soft_overlong_punishment(max_completion_len=cap, soft_punish_cache=cap // 2)]
    return [cosine]
