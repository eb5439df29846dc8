"""The RPA prior as an attention bias against none: from scratch at equal parameters, data, order, steps and learning rate."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason_rl.bench.jobs import Row, Say, run_jobs
from reason_rl.bench.paired import seed_difference
from reason_rl.bench.ssa import Setting, make_model, train, validate

if TYPE_CHECKING:
    from reason_rl.attention.inject import AttentionBias
    from reason_rl.attention.schedule import Strength

# annealed: ends as stock attention; kept: the bias stays at inference; published: the bias of the paper's listing, kept.
VARIANTS = ("stock", "annealed", "kept", "published")
BASE = "stock"
PLACES = 256
STRENGTH = 0.5
DEFAULT = Setting()


def stock_model(setting: Setting, seed: int) -> Any:
    """Return a fresh model with sdpa attention, which a bias needs; every variant, stock too, runs the same code."""
    model = make_model(setting, seed, None)
    model.set_attn_implementation("sdpa")
    return model


def add_prior(model: Any, variant: str) -> tuple[AttentionBias, Strength]:
    """Put a variant's bias on a model, off until the schedule says otherwise."""
    from reason_rl.attention.inject import AttentionBias
    from reason_rl.attention.prior import Prior, published_bias, static_memberships
    from reason_rl.attention.schedule import Strength

    memberships = static_memberships(PLACES, 4)
    if variant == "published":
        table, peak = published_bias(memberships[None].float()) / 0.68, 1.0
    else:
        table, peak = Prior(memberships, 4).log_prior, STRENGTH
    return AttentionBias(model, table), Strength(peak, fall=0.6 if variant == "annealed" else None)


@dataclass(frozen=True)
class PriorJob:
    """Train one variant with one seed and evaluate it."""

    variant: str
    seed: int
    setting: Setting = DEFAULT

    @property
    def key(self) -> str:
        """Variant and seed."""
        return f"rpa-{self.variant}-seed{self.seed}"

    def __call__(self) -> Row:
        """Return the validation cross-entropy."""
        model = stock_model(self.setting, self.seed)
        if self.variant == BASE:
            train(model, self.setting, self.seed)
        else:
            bias, strength = add_prior(model, self.variant)

            def follow(progress: float) -> None:
                bias.strength = strength(progress)

            train(model, self.setting, self.seed, follow)
            bias.strength = strength(1.0)
        figures = validate(model, self.setting)
        return {"variant": self.variant, "seed": self.seed, "steps": self.setting.steps, **figures}


@dataclass(frozen=True)
class PriorTimeJob:
    """Time training steps and decoding steps of stock and biased attention in turn, so that a busy machine slows both."""

    repeats: int = 15
    setting: Setting = DEFAULT
    key: str = "rpa-time"

    def __call__(self) -> Row:
        """Return ratios of the median seconds of a training step, and of a forward pass without gradients, to stock."""
        import torch

        from reason_rl.world.pretrain import batches
        from reason_rl.world.tokenizer import build_tokenizer

        batch = next(batches(replace(self.setting.config(0), traces=2000), build_tokenizer()))
        models = {name: stock_model(self.setting, 0) for name in (BASE, "kept")}
        bias, _ = add_prior(models["kept"], "kept")
        bias.strength = STRENGTH
        step: dict[str, list[float]] = {name: [] for name in models}
        inference: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(self.repeats + 1):
            for name, model in models.items():
                start = time.perf_counter()
                model(**batch, use_cache=False).loss.backward()
                step[name].append(time.perf_counter() - start)
                start = time.perf_counter()
                with torch.no_grad():
                    model(input_ids=batch["input_ids"], use_cache=False)
                inference[name].append(time.perf_counter() - start)
        medians = [{name: statistics.median(values[1:]) for name, values in part.items()} for part in (step, inference)]
        return {
            "step_time_ratio": medians[0]["kept"] / medians[0][BASE],
            "inference_time_ratio": medians[1]["kept"] / medians[1][BASE],
        }


def compare_priors(out: Path, seeds: int, say: Say) -> dict[str, Any]:
    """Make what is missing in ``out`` and return, a variant: mean cross-entropies and their differences to stock."""
    jobs = [PriorJob(variant, seed) for seed in range(seeds) for variant in VARIANTS]
    rows = run_jobs([*jobs, PriorTimeJob()], out, 1, say)
    times = rows.pop()
    table: dict[str, Any] = {name: times[name] for name in ("step_time_ratio", "inference_time_ratio")}
    for variant in VARIANTS:
        mine, base = ([row for row in rows if row["variant"] == name] for name in (variant, BASE))
        entry: dict[str, Any] = {}
        for metric in ("cross_entropy", "late_cross_entropy"):
            entry[metric] = statistics.fmean(row[metric] for row in mine)
            if variant != BASE:
                entry[f"{metric}_difference"] = seed_difference([r[metric] for r in base], [r[metric] for r in mine])
        table[variant] = entry
    return table
