"""Budgeted heads on the tiny reasoner: one checkpoint at several budgets against static pruning and against specialists.

Also the speed of a pruned model, as a ratio of one run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reason_rl.bench.jobs import Job, Row, Say, run_jobs
from reason_rl.bench.marked import BUDGETS as MARKED_BUDGETS
from reason_rl.bench.marked import MarkedJob
from reason_rl.bench.paired import seed_difference
from reason_rl.bench.ssa import Setting as ScratchSetting
from reason_rl.bench.ssa import validate

if TYPE_CHECKING:
    from reason_rl.attention.heads_module import HeadOptions
    from reason_rl.attention.heads_train import Batch, HeadTraining

Side = Literal["shared", "static", "specialist"]

BUDGETS = (0.4, 0.6, 0.8)
SPEED_TOKENS = (512, 2048, 4096)
PROBLEMS, VALIDATION_TRACES, CAP_TOKENS = 216, 128, 192
SENSITIVITY_BATCHES = 8
SHORT_UPDATES, LONG_SOFT_STEPS, LONG_HARD_STEPS = 240, 300, 600
LONG_SIDE = f"shared-{LONG_SOFT_STEPS + LONG_HARD_STEPS}updates"


@dataclass(frozen=True)
class Setting:
    """Length of a fine-tuning run, the same number of updates for the shared model and for each specialist; our choice."""

    soft_steps: int = 40
    hard_steps: int = 200
    learning_rate: float = 1e-3
    gate_rate: float = 100.0
    tokens_per_batch: int = 1024

    @property
    def suffix(self) -> str:
        """What the setting adds to the name of a run."""
        updates = self.soft_steps + self.hard_steps
        return "" if updates == SHORT_UPDATES else f"-{updates}updates"

    def training(self, seed: int) -> HeadTraining:
        """Return the same as options of training."""
        from reason_rl.attention.heads_train import HeadTraining

        return HeadTraining(
            soft_steps=self.soft_steps,
            hard_steps=self.hard_steps,
            learning_rate=self.learning_rate,
            gate_rate=self.gate_rate,
            budgets=(*BUDGETS, 1.0),
            distillation_weight=0.0,
            seed=seed,
        )

    def batches(self, seed: int) -> Iterator[Batch]:
        """Yield batches of worked traces of training problems."""
        from reason_rl.world.pretrain import PretrainConfig, batches
        from reason_rl.world.tokenizer import build_tokenizer

        config = PretrainConfig(
            tokens_per_batch=self.tokens_per_batch,
            traces=100_000,
            max_completion_tokens=CAP_TOKENS,
            curriculum_share=0.0,
            seed=seed,
        )
        return batches(config, build_tokenizer())


@dataclass(frozen=True)
class SharedJob:
    """One checkpoint for all budgets: train it with one seed, evaluate it at each."""

    seed: int
    setting: Setting = Setting()

    @property
    def key(self) -> str:
        """Side and seed."""
        return f"heads-shared{self.setting.suffix}-seed{self.seed}"

    def __call__(self) -> Row:
        """Return the accuracy at each budget, hard, and dense."""
        from reason_rl.attention.heads_module import at_budget
        from reason_rl.attention.heads_train import sensitivity, train_heads

        model, options, start = start_model(), head_options(), time.perf_counter()
        scores = sensitivity(model, self.setting.batches(-1), SENSITIVITY_BATCHES, options)
        batches, training = self.setting.batches(self.seed), self.setting.training(self.seed)
        held = train_heads(model, batches, options, training, scores=scores)
        seconds = time.perf_counter() - start
        points = {str(b): accuracy(model, at_budget(model, b, "hard")) for b in (*BUDGETS, 1.0)}
        soft = {str(b): round(held.soft(b).mean().item(), 4) for b in BUDGETS}
        return {
            "side": f"shared{self.setting.suffix}",
            "seed": self.seed,
            "points": points,
            "gates": soft,
            "train_seconds": round(seconds, 1),
        }


@dataclass(frozen=True)
class StaticJob:
    """The start model with the least sensitive heads of each layer off; without training it, or with (a specialist)."""

    budget: float
    seed: int | None = None
    setting: Setting = Setting()

    @property
    def side(self) -> Side:
        """Whether the model is trained for its mask."""
        return "static" if self.seed is None else "specialist"

    @property
    def key(self) -> str:
        """Side, budget and seed."""
        return f"heads-{self.side}-{self.budget}" + ("" if self.seed is None else f"-seed{self.seed}")

    def __call__(self) -> Row:
        """Return the accuracy at the budget."""
        from reason_rl.attention.heads_module import Shape, add_heads, at_mask, unit_mask
        from reason_rl.attention.heads_train import recover, sensitivity

        model, options = start_model(), head_options()
        scores = sensitivity(model, self.setting.batches(-1), SENSITIVITY_BATCHES, options)
        mask = unit_mask(scores, Shape.of(model.config), options, self.budget)
        if self.seed is None:
            add_heads(model, options)
        else:
            recover(model, mask, self.setting.batches(self.seed), options, self.setting.training(self.seed))
        point = accuracy(model, at_mask(model, mask))
        return {"side": self.side, "seed": self.seed, "points": {str(self.budget): point}}


@dataclass(frozen=True)
class DenseJob:
    """The start model as it is."""

    key: str = "heads-dense"

    def __call__(self) -> Row:
        """Return its accuracy."""
        return {"side": "dense", "seed": None, "points": {"1.0": accuracy(start_model(), nullcontext())}}


@dataclass(frozen=True)
class SpeedJob:
    """Prefill of one row by a random Llama, dense and pruned to half its heads, in turn in one process.

    A Llama of 4 layers, hidden size 512, 8 heads of 64, MLP 1408, vocabulary 1024. How much half the heads give depends on
    the share of attention, so on the length and on the size of the MLP.
    """

    tokens: int
    repeats: int = 5

    @property
    def key(self) -> str:
        """Length of the row."""
        return f"heads-speed-{self.tokens}"

    def __call__(self) -> Row:
        """Return median seconds and their ratio."""
        from reason_rl.attention.heads_module import HeadOptions
        from reason_rl.attention.prune import choose_heads, norm_scores, prune
        from reason_rl.attention.prune_speed import speed_ratio

        model, options = random_llama(), HeadOptions()
        choice = choose_heads(norm_scores(model, options), model.config, options, 0.5)
        speed = speed_ratio(model, prune(model, choice.mask), self.tokens, self.repeats)
        return {"side": "speed", "tokens": self.tokens, "kept": choice.kept, **speed}


def head_options() -> HeadOptions:
    """Return what has a gate: every head, as many kept in each layer, nested masks."""
    from reason_rl.attention.heads_module import HeadOptions

    return HeadOptions(rank="threshold")


def random_llama() -> Any:
    """Return the Llama whose speed is measured."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=max(SPEED_TOKENS),
    )
    return LlamaForCausalLM(config).eval()


def start_model() -> Any:
    """Return the shipped tiny reasoner."""
    from reason_rl.models import load_model
    from reason_rl.recipe.schema import ModelSection

    return load_model(ModelSection())


def accuracy(model: Any, setting: AbstractContextManager[Any]) -> dict[str, float]:
    """Return accuracy and completion tokens on held-out problems, and the cross-entropy of worked traces of others.

    One sample a problem at temperature 1, the same seeds for every model.
    """
    from reason_rl.answer.verify import ExactVerifier
    from reason_rl.evaluate.run import EvalOptions, evaluate_model
    from reason_rl.models import context_tokens, end_think_id, eos_ids, load_tokenizer
    from reason_rl.problem.prompt import render_prompts
    from reason_rl.problem.sources import load_problems
    from reason_rl.recipe.schema import ModelSection, PromptSection, WorldData
    from reason_rl.rollout.grading import Grader
    from reason_rl.rollout.hf import HFBackend

    section = ModelSection()
    tokenizer = load_tokenizer(section)
    problems = load_problems(WorldData(use="world", split="test", count=PROBLEMS))
    prompts = render_prompts(problems, tokenizer, PromptSection())
    pad = tokenizer.convert_tokens_to_ids(str(tokenizer.pad_token))
    assert isinstance(pad, int)
    backend = HFBackend(model, eos_ids(model, tokenizer), pad, context_tokens=context_tokens(model))
    grader = Grader(tokenizer, ExactVerifier(), end_think_id(tokenizer, section.end_think_token))
    with setting:
        rows = evaluate_model(backend, grader, problems, prompts, EvalOptions(1, CAP_TOKENS))
        on_traces = validate(model, ScratchSetting(max_completion_tokens=CAP_TOKENS), VALIDATION_TRACES)
    return {
        "cross_entropy": on_traces["cross_entropy"],
        "accuracy": statistics.fmean(row.correct for row in rows),
        "completion_tokens": statistics.fmean(row.completion_tokens for row in rows),
    }


def compare_heads(out: Path, seeds: int, say: Say) -> dict[str, Any]:
    """Make what is missing in ``out`` and return accuracy by budget of each side, differences, and speed-ups."""
    speed: list[Job] = [SpeedJob(tokens) for tokens in SPEED_TOKENS]
    static: list[Job] = [StaticJob(budget) for budget in BUDGETS]
    trained: list[Job] = [MarkedJob(seed) for seed in range(seeds)]
    for seed in range(seeds):
        trained += [SharedJob(seed), *(StaticJob(budget, seed) for budget in BUDGETS)]
        trained.append(SharedJob(seed, Setting(LONG_SOFT_STEPS, LONG_HARD_STEPS)))
    rows = run_jobs([*speed, DenseJob(), *static, *trained], out, 1, say)
    return {
        "dense": _of(rows, "dense")[0]["points"]["1.0"],
        "budgets": {str(budget): _point(str(budget), rows) for budget in (*BUDGETS, 1.0)},
        "marked_token": _marked(_of(rows, "marked")),
        "speed_up": {row["tokens"]: row["speed_up"] for row in _of(rows, "speed")},
    }


def _of(rows: list[Row], side: str) -> list[Row]:
    return [row for row in rows if row["side"] == side]


def _marked(rows: list[Row]) -> dict[str, Any]:
    """Return the accuracies of the marked-token task, means over seeds."""
    table: dict[str, Any] = {"dense": statistics.fmean(row["dense"] for row in rows)}
    for budget in map(str, MARKED_BUDGETS):
        found = {side: [row["points"][side][budget] for row in rows] for side in rows[0]["points"]}
        table[budget] = {side: statistics.fmean(values) for side, values in found.items()} | {
            f"shared_minus_{side}": seed_difference(found[side], found["shared"]) for side in ("static", "specialist")
        }
    return table


def _point(budget: str, rows: list[Row]) -> dict[str, Any]:
    """Return one budget's figures, means over seeds, and the shared model's differences to the others."""
    point: dict[str, Any] = {}
    for metric in ("accuracy", "cross_entropy"):
        found = {
            side: [row["points"][budget][metric] for row in _of(rows, side) if budget in row["points"]]
            for side in ("shared", LONG_SIDE, "static", "specialist")
        }
        entry: dict[str, Any] = {side: statistics.fmean(values) for side, values in found.items() if values}
        shared = found["shared"]
        if found["static"]:
            entry["shared_minus_static"] = seed_difference(found["static"] * len(shared), shared)
        if found["specialist"]:
            entry["shared_minus_specialist"] = seed_difference(found["specialist"], shared)
        point[metric] = entry
    return point
