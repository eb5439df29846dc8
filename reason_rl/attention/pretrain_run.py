"""The prior of a recipe of task pretrain, on worked traces of the tiny world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from reason_rl.attention.supervised import SupervisedPrior
from reason_rl.world.pretrain import batches
from reason_rl.world.tokenizer import build_tokenizer

if TYPE_CHECKING:
    from reason_rl.recipe.attention_specs import PriorSpec
    from reason_rl.world.pretrain import PretrainConfig

CALIBRATION_SEED, HELD_OUT_SEED = 1_000_003, 1_000_033


def prior_of(spec: PriorSpec, config: PretrainConfig) -> Callable[[Any], SupervisedPrior]:
    """Return what puts a recipe's prior on the model that is pretrained.

    Content memberships are calibrated on traces of training problems; Guardian's metric is of traces of calibration problems.
    """

    def attach(model: Any) -> SupervisedPrior:
        if spec.mode == "bias":
            model.set_attn_implementation("sdpa")
        rows = 0 if spec.guardian is None else spec.guardian.held_out_traces
        held_out = _traces(config, HELD_OUT_SEED, rows, "calibration") if rows else []
        return SupervisedPrior(
            model,
            spec,
            lambda: _traces(config, CALIBRATION_SEED, spec.calibration_traces, "train"),
            held_out,
            config.seed,
        )

    return attach


def _traces(config: PretrainConfig, seed: int, count: int, split: str) -> list[dict[str, Any]]:
    drawn = replace(config, seed=seed, traces=count, curriculum_share=0.0)
    return list(islice(batches(drawn, build_tokenizer(), split), count))
