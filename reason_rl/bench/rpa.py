"""The RPA prior as an attention bias against none: language modelling from scratch at equal parameters, data and updates.

Text is mathematics problems with solutions. Both sides choose their learning rate from the same grid, on validation text; all
figures are of test text.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason_rl.bench.jobs import Job, Row, Say, run_jobs
from reason_rl.bench.paired import seed_difference

if TYPE_CHECKING:
    from torch import Tensor

    from reason_rl.attention.supervised import SupervisedPrior
    from reason_rl.bench.text import Text
    from reason_rl.recipe.attention_specs import PriorSpec

BASE = "stock"
RATES = (3e-4, 1e-3, 3e-3, 6e-3)
CALIBRATION_SEED = 1_000_003
# What attention.prior says for each variant, beside reference and mode; the published constants are the paper's.
VARIANTS: dict[str, dict[str, Any] | None] = {
    BASE: None,
    "static": {"fall": None},
    "static_strong": {"weight": 1.0, "tau": 0.68, "warm": 0.15, "fall": None},  # as strong as the listing
    "annealed": {},
    "content": {"variant": "content", "fall": None, "begin": 0.1},
    "published": {"variant": "published", "weight": 1.0, "tau": 0.68, "warm": 0.15, "fall": None},
    "guardian": {"fall": None, "guardian": {"every": 25, "window": 3, "held_out_traces": 32}},
}


@dataclass(frozen=True)
class Setting:
    """Size and length of a run: a Llama of 0.92M parameters on 1.2M tokens; all our choice."""

    updates: int = 600
    rate_updates: int = 200
    rows: int = 8
    context: int = 256
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    test_rows: int = 400
    map_tiles: int = 32


@dataclass(frozen=True)
class RateJob:
    """Train one side for a while at one learning rate and take its cross-entropy on validation text."""

    side: str
    rate: float
    setting: Setting = Setting()

    @property
    def key(self) -> str:
        """Side and learning rate."""
        return f"rpa-rate-{self.side}-{self.rate:g}"

    def __call__(self) -> Row:
        """Return the cross-entropy."""
        from reason_rl.bench.text import load_text

        text = load_text(self.setting.context)
        model, _ = trained(self.side, 0, self.rate, replace(self.setting, updates=self.setting.rate_updates), text)
        found = token_losses(model, text.valid[: self.setting.test_rows]).mean().item()
        return {"side": self.side, "rate": self.rate, "updates": self.setting.rate_updates, "cross_entropy": found}


@dataclass(frozen=True)
class PriorJob:
    """Train one variant with one seed and evaluate it."""

    variant: str
    seed: int
    rate: float
    setting: Setting = Setting()

    @property
    def key(self) -> str:
        """Variant and seed."""
        return f"rpa-{self.variant}-seed{self.seed}"

    def __call__(self) -> Row:
        """Return the cross-entropy on test text, of all tokens and of those of the second half of a context."""
        from reason_rl.bench.text import load_text

        text = load_text(self.setting.context)
        model, prior = trained(self.variant, self.seed, self.rate, self.setting, text)
        losses = token_losses(model, text.test[: self.setting.test_rows])
        row: Row = {
            "variant": self.variant,
            "seed": self.seed,
            "rate": self.rate,
            "updates": self.setting.updates,
            "parameters": sum(p.numel() for p in model.parameters()),
            "characters_a_token": text.characters_a_token,
            "cross_entropy": losses.mean().item(),
            "late_cross_entropy": losses[:, losses.shape[1] // 2 :].mean().item(),
        }
        if prior is not None and prior.decisions:
            row["decisions"] = [{name: round(value, 5) for name, value in one.items()} for one in prior.decisions]
        if self.seed == 0:
            row["attention"] = attention_map(model, text.test[:16], self.setting, prior)
        return row


def spec_of(variant: str, setting: Setting) -> PriorSpec | None:
    """Return the section ``attention.prior`` of a variant, None for stock.

    >>> spec_of("stock", Setting()) is None, spec_of("content", Setting()).variant
    (True, 'content')
    """
    from reason_rl.recipe.attention_specs import PriorSpec

    options = VARIANTS[variant]
    return None if options is None else PriorSpec(reference_tokens=setting.context, mode="bias", **options)


def make_model(setting: Setting, seed: int) -> Any:
    """Return a fresh Llama with sdpa attention, which every variant has; the same seed gives the same weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from reason_rl.bench.text import VOCABULARY

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=setting.hidden_size,
        intermediate_size=3 * setting.hidden_size,
        num_hidden_layers=setting.layers,
        num_attention_heads=setting.heads,
        num_key_value_heads=setting.heads,
        max_position_embeddings=setting.context,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("sdpa")
    return model


def trained(variant: str, seed: int, rate: float, setting: Setting, text: Text) -> tuple[Any, SupervisedPrior | None]:
    """Train with AdamW, linear warm-up over 2 % and linear decay over the second half, no weight decay."""
    import torch

    from reason_rl.attention.supervised import SupervisedPrior

    model, spec, prior = make_model(setting, seed), spec_of(variant, setting), None
    if spec is not None:
        rows = spec.calibration_traces
        held_out = text.valid[: spec.guardian.held_out_traces if spec.guardian else 0].split(setting.rows)
        prior = SupervisedPrior(
            model,
            spec,
            lambda: islice(text.batches(setting.rows, CALIBRATION_SEED), rows // setting.rows),
            [{"input_ids": chunk, "labels": chunk} for chunk in held_out],
            seed,
        )
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    model.train()
    for step, batch in enumerate(islice(text.batches(setting.rows, seed), setting.updates)):
        share = step / setting.updates
        optimizer.param_groups[0]["lr"] = rate * min(1.0, share / 0.02 + 1e-3, 2 * (1 - share))
        if prior is not None:
            prior.before(step, share)
        model(**batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    if prior is not None:
        prior.end()
    return model.eval(), prior


def token_losses(model: Any, chunks: Tensor) -> Tensor:
    """Return the cross-entropy of each token but the first of each chunk, in nats, [chunks, tokens - 1]."""
    import torch
    from torch.nn.functional import cross_entropy

    model.eval()
    with torch.no_grad():
        return torch.cat(
            [
                cross_entropy(
                    model(input_ids=some, use_cache=False).logits[:, :-1].transpose(1, 2), some[:, 1:], reduction="none"
                )
                for some in chunks.split(16)
            ]
        )


def attention_map(model: Any, chunks: Tensor, setting: Setting, prior: SupervisedPrior | None) -> list[list[float]]:
    """Return attention of a query tile to a key tile, summed over the keys, a mean over queries, rows, heads and layers."""
    import torch

    from reason_rl.attention.kl import AttentionKL
    from reason_rl.attention.source import PriorSource

    source = PriorSource() if prior is None or prior.bias is None else prior.bias.source
    watch = AttentionKL(model, source, setting.context, tuple(range(setting.layers)), setting.context)
    with torch.no_grad():
        with watch.collecting():
            model(input_ids=chunks, use_cache=False)
        found = [one.mean(dim=(0, 1)) for one, _ in watch.attention(0.0 if prior is None else prior.weight)]
    size = setting.context // setting.map_tiles
    tiles = torch.stack(found).mean(dim=0).view(setting.map_tiles, size, setting.map_tiles, size)
    return [[round(value, 4) for value in row] for row in tiles.sum(dim=3).mean(dim=1).tolist()]


def chosen_rates(rows: Sequence[Row]) -> dict[str, float]:
    """Return each side's learning rate of the lowest validation cross-entropy.

    >>> chosen_rates([{"side": "stock", "rate": rate, "cross_entropy": loss} for rate, loss in ((1e-3, 3.0), (3e-3, 2.0))])
    {'stock': 0.003}
    """
    best: dict[str, Row] = {}
    for row in rows:
        if row["side"] not in best or row["cross_entropy"] < best[row["side"]]["cross_entropy"]:
            best[row["side"]] = row
    return {side: row["rate"] for side, row in best.items()}


def rate_jobs() -> list[Job]:
    """Return the runs that the learning rates are chosen by; the static prior stands for all variants of it."""
    return [RateJob(side, rate) for rate in RATES for side in (BASE, "static")]


def prior_jobs(rates: dict[str, float], seeds: Sequence[int]) -> list[Job]:
    """Return the runs of all variants."""
    sides = {variant: BASE if variant == BASE else "static" for variant in VARIANTS}
    return [PriorJob(variant, seed, rates[sides[variant]]) for seed in seeds for variant in VARIANTS]


def compare_priors(out: Path, seeds: int, workers: int, say: Say) -> dict[str, Any]:
    """Make what is missing in ``out`` and return, a variant: mean cross-entropies and their differences to stock."""
    rates = chosen_rates(run_jobs(rate_jobs(), out, workers, say))
    rows = run_jobs(prior_jobs(rates, range(seeds)), out, workers, say)
    table: dict[str, Any] = {"rates": rates}
    for variant in VARIANTS:
        mine, base = ([row for row in rows if row["variant"] == name] for name in (variant, BASE))
        entry: dict[str, Any] = {"parameters": mine[0]["parameters"]}
        for metric in ("cross_entropy", "late_cross_entropy"):
            entry[metric] = statistics.fmean(row[metric] for row in mine)
            if variant != BASE:
                entry[f"{metric}_difference"] = seed_difference([r[metric] for r in base], [r[metric] for r in mine])
        table[variant] = entry
    return table
