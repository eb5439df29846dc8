"""Stock ``trl.GRPOTrainer`` against our DLER: same model, data, batch shape and number of rollouts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reason_rl.bench.jobs import Row, Say, read_results, run_jobs
from reason_rl.bench.seeds import SeedJob
from reason_rl.evaluate.records import read_rows
from reason_rl.evaluate.statistics import paired_summary
from reason_rl.recipe.checks import rows_per_generation, updates_per_generation
from reason_rl.recipe.load import load_recipe
from reason_rl.run_folder import RunFolder

if TYPE_CHECKING:
    from reason_rl.recipe.schema import Recipe

RECIPE = "tiny/dler"
SAVE_STEPS = 16  # updates between the checkpoints that the goal is looked for in
SHORTER = ("trainer.max_steps=96", f"trainer.save_steps={SAVE_STEPS}", "trainer.save_total_limit=99")
LEARNING_RATES = (3e-5, 1e-4, 3e-4)
VARIANTS = ("plain", "soft_overlong", "cosine")
LENGTH_VARIANTS = ("soft_overlong", "cosine")
GOAL_LOSS = 0.01  # of accuracy, at half the tokens
GOAL_SAMPLES = 2  # a problem, for a checkpoint
COMPARED = ("accuracy", "accuracy_difference", "completion_tokens", "token_cut", "seconds", "seconds_to_goal")


@dataclass(frozen=True)
class OwnJob:
    """Our DLER with one seed, as ``reason-rl bench seeds`` makes it."""

    run: SeedJob

    @property
    def key(self) -> str:
        """Name of the run among the results."""
        return f"dler-seed{self.run.seed}"

    def __call__(self) -> Row:
        """Make the run, unless it is there, and return its result."""
        self.run()
        recipe = load_recipe(RECIPE, SHORTER).recipe
        per_group = int(recipe.trainer["num_generations"])
        history = [
            {**row, "rollouts": row["groups_drawn"] * per_group} for row in read_results(self.run.folder.metrics)
        ]
        rate = float(recipe.trainer["learning_rate"])
        evals = self.run.folder.eval
        before = evals / "before.jsonl"
        return (
            {"method": "dler", "seed": self.run.seed, "learning_rate": rate}
            | result(history, before, evals / "after.jsonl")
            | goal(recipe, self.run.folder, history, before)
        )


@dataclass(frozen=True)
class StockJob:
    """One run of the stock trainer; ``before`` holds the start's evaluation, ``rollouts`` is what it may draw."""

    variant: str
    seed: int
    learning_rate: float
    rollouts: float
    before: Path
    runs: Path

    @property
    def key(self) -> str:
        """Name of the run, among the results and as a folder."""
        return f"{self.variant}-lr{self.learning_rate:g}-seed{self.seed}"

    def __call__(self) -> Row:
        """Train, evaluate, and return the result."""
        from reason_rl.evaluate.run import evaluate

        run = RunFolder(self.runs / self.key)
        changes = [*SHORTER, f"seed={self.seed}", f"trainer.learning_rate={self.learning_rate}", f"output={run.path}"]
        recipe = load_recipe(RECIPE, changes).recipe
        history = train_stock(recipe, self.variant, run, self.rollouts)
        after = run.eval / "after.jsonl"
        after.unlink(missing_ok=True)
        evaluate(recipe, run.model, after)
        return (
            {"method": self.variant, "seed": self.seed, "learning_rate": self.learning_rate}
            | result(history, self.before, after)
            | goal(recipe, run, history, self.before)
        )


def stock_comparison(out: Path, seeds: int, workers: int, say: Say) -> dict[str, Any]:
    """Run what is missing of the comparison and return its table.

    Each stock variant is tried at three learning rates with the first seed; the best goes on to the other seeds. Stock
    gets as many rollouts as ours drew in 96 updates, refills included. Results are appended to ``out`` run by run.
    """
    runs = out.parent / "runs" / "stock"
    own = [OwnJob(SeedJob(RECIPE, seed, runs, SHORTER)) for seed in range(seeds)]
    rows = run_jobs(own, out, workers, say)
    rollouts = float(np.mean([row["rollouts"] for row in rows]))
    before = own[0].run.folder.eval / "before.jsonl"

    if not before.exists():
        from reason_rl.evaluate.run import evaluate

        evaluate(load_recipe(RECIPE, SHORTER).recipe, None, before)

    def job(variant: str, seed: int, rate: float) -> StockJob:
        return StockJob(variant, seed, rate, rollouts, before, runs)

    tried = run_jobs([job(v, 0, rate) for v in VARIANTS for rate in LEARNING_RATES], out, workers, say)
    best = {
        variant: max((row for row in tried if row["method"] == variant), key=utility)["learning_rate"]
        for variant in VARIANTS
    }
    others = [job(v, seed, best[v]) for v in VARIANTS for seed in range(1, seeds)]
    return table([*rows, *tried, *run_jobs(others, out, workers, say)], best)


def result(history: list[Row], before: Path, after: Path) -> Row:
    """Return what is compared, from training history and the evaluations before and after."""
    start = read_rows(before)
    summary = paired_summary(start, read_rows(after))
    accuracy, tokens = summary["metrics"]["accuracy"], summary["metrics"]["completion_tokens"]
    levels = summary["after"]["levels"]
    return {
        "accuracy": accuracy["after"]["mean"],
        "accuracy_difference": accuracy["difference"]["mean"],
        "accuracy_difference_low": accuracy["difference"]["low"],
        "completion_tokens": tokens["after"]["mean"],
        "token_cut": summary["token_cut"]["mean"],
        "accuracy_by_level": {level: values["accuracy"] for level, values in levels.items()},
        "tokens_by_level": {level: values["completion_tokens"] for level, values in levels.items()},
        "rollouts": sum(entry["rollouts"] for entry in history),
        "seconds": history[-1]["seconds"],
    }


def goal(recipe: Recipe, run: RunFolder, history: list[Row], before: Path) -> Row:
    """Evaluate the checkpoints of a run in order until one halves the tokens at the start's accuracy, less one point.

    Returns:
        ``seconds_to_goal``, of training up to that checkpoint, the evaluations not counted, None when there is none; and
        ``goal_points``, what the checkpoints up to it measured.
    """
    from reason_rl.evaluate.run import evaluate
    from reason_rl.trainer.train import step_of

    assert recipe.eval is not None
    start = [row for row in read_rows(before).rows if row.sample < GOAL_SAMPLES]
    wanted = float(np.mean([row.correct for row in start])) - GOAL_LOSS
    most = float(np.mean([row.completion_tokens for row in start])) / 2
    shorter = recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"samples": GOAL_SAMPLES})})
    seconds = {row["step"]: row["seconds"] for row in history}
    points: list[Row] = []
    for folder in sorted(run.checkpoints.glob("checkpoint-*"), key=step_of):
        rows = evaluate(shorter, folder, run.eval / f"{folder.name}.jsonl")
        accuracy, tokens = (
            float(np.mean([getattr(row, name) for row in rows])) for name in ("correct", "completion_tokens")
        )
        taken = seconds[step_of(folder)]
        points.append({"step": step_of(folder), "seconds": taken, "accuracy": accuracy, "completion_tokens": tokens})
        if accuracy >= wanted and tokens <= most:
            return {"seconds_to_goal": taken, "goal_points": points}
    return {"seconds_to_goal": None, "goal_points": points}


def utility(row: Row) -> float:
    """Order runs of one variant: accuracy counts in full, a tenth of a point for each percent of tokens saved."""
    return float(row["accuracy"] + 0.1 * row["token_cut"])


def table(rows: list[Row], best: dict[str, float]) -> dict[str, Any]:
    """Return mean and range over seeds of our DLER and of each stock variant at its best learning rate."""
    summary = {}
    for method in ("dler", *VARIANTS):
        chosen = [
            row
            for row in rows
            if row["method"] == method and row["learning_rate"] == best.get(method, row["learning_rate"])
        ]
        summary[method] = {
            "learning_rate": chosen[0]["learning_rate"],
            "seeds": len(chosen),
            **{name: _spread([row[name] for row in chosen]) for name in COMPARED},
            "accuracy_by_level": {
                level: _spread([row["accuracy_by_level"][level] for row in chosen])
                for level in chosen[0]["accuracy_by_level"]
            },
        }
    return summary


def time_to_goal(summary: dict[str, Any]) -> dict[str, Any]:
    """Return seconds until the goal of :func:`goal`, ours and of the faster of stock's length rewards.

    The ratio is missing where one side did not get there with every seed.

    >>> there, not_there = {"mean": 60.0, "missing": 0}, {"mean": None, "missing": 3}
    >>> table = {"dler": {"seconds_to_goal": {"mean": 20.0, "missing": 0}}}
    >>> table |= {"soft_overlong": {"seconds_to_goal": there}, "cosine": {"seconds_to_goal": not_there}}
    >>> time_to_goal(table)["ratio_vs_trl"]
    3.0
    """
    found = {name: summary[name]["seconds_to_goal"] for name in ("dler", *LENGTH_VARIANTS)}
    seconds = {name: None if spread["missing"] else spread["mean"] for name, spread in found.items()}
    stock = {name: value for name in LENGTH_VARIANTS if (value := seconds[name]) is not None}
    best = min(stock, key=lambda name: stock[name]) if stock else None
    ours = seconds["dler"]
    return {
        "seconds_to_goal": found,
        "best_stock": best,
        "ratio_vs_trl": None if best is None or ours is None else stock[best] / ours,
    }


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


def train_stock(recipe: Recipe, variant: str, run: RunFolder, rollouts: float) -> list[dict[str, Any]]:
    """Train with an unchanged trl.GRPOTrainer and return one row a generation."""
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    from reason_rl.algorithm.budget import make_budget
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
        reward_funcs=stock_rewards(variant, grader, make_budget(recipe.algorithm.budget).largest()),
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
                    "step": trainer.state.global_step,
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

    from reason_rl.algorithm.budget import make_budget

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
        max_completion_length=make_budget(recipe.algorithm.budget).largest(),
        max_steps=round(rollouts / rows_per_generation(recipe.trainer)) * updates,
        logging_steps=updates,
        save_strategy="steps",
        save_steps=SAVE_STEPS,
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
