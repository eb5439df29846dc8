"""Selective temperatures against the same model without them: from scratch at equal data, order, steps and learning rate."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason_rl.bench.jobs import Row, Say, run_jobs
from reason_rl.bench.paired import seed_difference

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reason_rl.attention.ssa import SSAOptions
    from reason_rl.world.pretrain import PretrainConfig

VARIANTS = ("stock", "position", "token_position")
BASE = "stock"
WARMUP_STEPS = 20
VALIDATION_TRACES, VALIDATION_SEED = 512, 1_000_003


@dataclass(frozen=True)
class Setting:
    """Size and length of a run: a Llama of 0.87M parameters on traces of the tiny world; all our choice."""

    steps: int = 120
    learning_rate: float = 3e-3
    tokens_per_batch: int = 2048
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    max_completion_tokens: int = 192

    def config(self, seed: int) -> PretrainConfig:
        """Return the same as a configuration of pretraining."""
        from reason_rl.world.pretrain import PretrainConfig

        return PretrainConfig(
            hidden_size=self.hidden_size,
            layers=self.layers,
            heads=self.heads,
            intermediate_size=3 * self.hidden_size,
            max_completion_tokens=self.max_completion_tokens,
            traces=self.steps * self.tokens_per_batch,
            tokens_per_batch=self.tokens_per_batch,
            curriculum_share=0.0,
            seed=seed,
        )


def options_of(variant: str) -> SSAOptions | None:
    """Return what a variant adds; from scratch its parameters learn at the rate of all others.

    >>> options_of("stock") is None, options_of("position").features
    (True, 'none')
    """
    from reason_rl.attention.ssa import SSAOptions

    if variant == BASE:
        return None
    return SSAOptions(
        features="linear" if variant.startswith("token") else "none",
        gate="linear" if variant.endswith("position") else "none",
        values=variant.startswith("token"),
        rate=1.0,
    )


@dataclass(frozen=True)
class ScratchJob:
    """Train one variant with one seed and evaluate it."""

    variant: str
    seed: int
    setting: Setting = Setting()

    @property
    def key(self) -> str:
        """Variant and seed."""
        return f"ssa-{self.variant}-seed{self.seed}"

    def __call__(self) -> Row:
        """Return the validation cross-entropy and what was learned."""
        model = make_model(self.setting, self.seed, options_of(self.variant))
        start = time.perf_counter()
        train(model, self.setting, self.seed)
        seconds = time.perf_counter() - start
        return {
            "variant": self.variant,
            "seed": self.seed,
            "steps": self.setting.steps,
            "parameters": sum(p.numel() for p in model.parameters()),
            **validate(model, self.setting),
            "beta": betas(model),
            "train_seconds": round(seconds, 1),
        }


@dataclass(frozen=True)
class StepTimeJob:
    """Time training steps of all variants, one of each in turn, so that a busy machine slows all alike."""

    repeats: int = 12
    setting: Setting = Setting()
    key: str = "ssa-step-time"

    def __call__(self) -> Row:
        """Return the median seconds of a step of each variant, and ratios to stock."""
        from reason_rl.world.pretrain import batches
        from reason_rl.world.tokenizer import build_tokenizer

        batch = next(batches(replace(self.setting.config(0), traces=2000), build_tokenizer()))
        models = {variant: make_model(self.setting, 0, options_of(variant)) for variant in VARIANTS}
        seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for _ in range(self.repeats + 1):
            for variant, model in models.items():
                start = time.perf_counter()
                model(**batch, use_cache=False).loss.backward()
                seconds[variant].append(time.perf_counter() - start)
        medians = {variant: statistics.median(values[1:]) for variant, values in seconds.items()}
        return {"step_seconds": medians, "ratio": {v: m / medians[BASE] for v, m in medians.items()}}


def make_model(setting: Setting, seed: int, options: SSAOptions | None) -> Any:
    """Return a freshly initialised model; the same seed gives every variant the same weights."""
    import torch

    from reason_rl.attention.ssa import add_ssa
    from reason_rl.world.pretrain import build_model
    from reason_rl.world.tokenizer import build_tokenizer

    torch.manual_seed(seed)
    model = build_model(setting.config(seed), build_tokenizer())
    if options is not None:
        add_ssa(model, options)
    return model


def train(model: nn.Module, setting: Setting, seed: int) -> None:
    """Train with AdamW, linear warm-up and linear decay, no weight decay."""
    import torch

    from reason_rl.world.pretrain import batches
    from reason_rl.world.tokenizer import build_tokenizer

    optimizer = torch.optim.AdamW(model.parameters(), lr=setting.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    model.train()
    for step, batch in enumerate(islice(batches(setting.config(seed), build_tokenizer()), setting.steps)):
        factor = min(1.0, (step + 1) / WARMUP_STEPS, (setting.steps - step) / (setting.steps / 2))
        optimizer.param_groups[0]["lr"] = setting.learning_rate * factor
        model(**batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def held_out(setting: Setting, traces: int) -> Iterator[dict[str, Tensor]]:
    """Yield batches of traces of test problems, the same for every run."""
    import torch

    from reason_rl.world.dataset import draw_problems
    from reason_rl.world.pretrain import IGNORED_LABEL
    from reason_rl.world.tokenizer import EOS, build_tokenizer
    from reason_rl.world.traces import draw_completion

    tokenizer, rng = build_tokenizer(), random.Random(VALIDATION_SEED)
    vocabulary, rows = tokenizer.get_vocab(), []
    for problem in draw_problems("test", traces, VALIDATION_SEED):
        chat = [{"role": "user", "content": problem.question}]
        prompt = str(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)).split()
        completion = draw_completion(rng, problem, setting.max_completion_tokens)
        ids = [vocabulary[word] for word in (*prompt, *completion.words, EOS)]
        rows.append((ids, [IGNORED_LABEL] * len(prompt) + ids[len(prompt) :]))
    rows.sort(key=lambda row: len(row[0]))
    for start in range(0, len(rows), 32):
        some = rows[start : start + 32]
        width = max(len(ids) for ids, _ in some)
        yield {
            "input_ids": torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in some]),
            "labels": torch.tensor([labels + [IGNORED_LABEL] * (width - len(labels)) for _, labels in some]),
        }


def validate(model: Any, setting: Setting, traces: int = VALIDATION_TRACES) -> dict[str, float]:
    """Return the cross-entropy in nats a completion token, over all of them and over those from position 96 on."""
    import torch
    from torch.nn.functional import cross_entropy

    from reason_rl.world.pretrain import IGNORED_LABEL

    losses, late = [], []
    model.eval()
    for batch in held_out(setting, traces):
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]
        goal = batch["labels"][:, 1:]
        loss = cross_entropy(logits.transpose(1, 2), goal, reduction="none")
        learned = goal != IGNORED_LABEL
        losses.append(loss[learned])
        late.append(loss[:, 96:][learned[:, 96:]])
    return {"cross_entropy": torch.cat(losses).mean().item(), "late_cross_entropy": torch.cat(late).mean().item()}


def betas(model: nn.Module) -> list[float]:
    """Return the position gates that were learned, a layer each."""
    from reason_rl.attention.ssa import ssa_parameters

    return [round(p.item(), 4) for name, p in ssa_parameters(model) if name.endswith("beta")]


def compare_ssa(out: Path, seeds: int, say: Say) -> dict[str, Any]:
    """Make what is missing in ``out`` and return, a variant: mean cross-entropies and their differences to stock."""
    jobs = [ScratchJob(variant, seed) for seed in range(seeds) for variant in VARIANTS]
    rows = run_jobs([*jobs, StepTimeJob()], out, 1, say)
    times = rows.pop()
    table: dict[str, Any] = {}
    for variant in VARIANTS:
        mine, base = ([row for row in rows if row["variant"] == name] for name in (variant, BASE))
        entry: dict[str, Any] = {"parameters": mine[0]["parameters"], "step_time_ratio": times["ratio"][variant]}
        for metric in ("cross_entropy", "late_cross_entropy"):
            entry[metric] = statistics.fmean(row[metric] for row in mine)
            if variant != BASE:
                entry[f"{metric}_difference"] = seed_difference([r[metric] for r in base], [r[metric] for r in mine])
        table[variant] = entry
    return table
