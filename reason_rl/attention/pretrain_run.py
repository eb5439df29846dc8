"""What a recipe of task pretrain changes in attention: a prior, on worked traces of the tiny world, or temperatures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason_rl.attention.ssa import SSAOptions, add_ssa
from reason_rl.attention.ssa_files import save_ssa
from reason_rl.attention.supervised import SupervisedPrior
from reason_rl.world.pretrain import batches, real_tokens
from reason_rl.world.tokenizer import build_tokenizer

if TYPE_CHECKING:
    from reason_rl.recipe.attention_specs import AttentionSection, PriorSpec
    from reason_rl.world.pretrain import Attached, PretrainConfig

CALIBRATION_SEED, HELD_OUT_SEED = 1_000_003, 1_000_033


@dataclass(frozen=True)
class Temperatures:
    """Selective temperatures of a model that is pretrained: learned with it, and saved beside it."""

    model: Any
    options: SSAOptions

    def before(self, step: int, share: float) -> None:
        """Change nothing as the run goes on."""

    def watching(self) -> AbstractContextManager[None]:
        """Watch nothing."""
        return nullcontext()

    def term(self, step: int) -> float:
        """Add nothing to the loss."""
        return 0.0

    def end(self) -> None:
        """Change nothing at the end."""

    def save(self, folder: Path) -> None:
        """Write the temperatures beside the model."""
        save_ssa(self.model, self.options, folder)

    def figures(self) -> dict[str, float]:
        """Log nothing."""
        return {}


def attached(section: AttentionSection | None, config: PretrainConfig) -> Callable[[Any], Attached] | None:
    """Return what puts an attention section on the model that is pretrained; None = nothing."""
    if section is None or section.ssa is None:
        return None if section is None or section.prior is None else prior_of(section.prior, config)
    options = SSAOptions(**section.ssa.model_dump(exclude={"alone"}))

    def attach(model: Any) -> Temperatures:
        add_ssa(model, options, config.seed)
        return Temperatures(model, options)

    return attach


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
    drawn, tokenizer = replace(config, seed=seed, traces=count, curriculum_share=0.0), build_tokenizer()
    found = islice(batches(drawn, tokenizer, split), count)
    return [{**batch, "attention_mask": real_tokens(batch["input_ids"], tokenizer)} for batch in found]
