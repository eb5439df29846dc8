"""The prior on attention in task sft: TRL's SFTTrainer, told before each update, with a further term of the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from accelerate.utils import DistributedType
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from reason_rl.attention.memberships import padded
from reason_rl.attention.supervised import Batch, SupervisedPrior
from reason_rl.errors import RecipeError
from reason_rl.trainer.temperatures import KeepsTemperatures

if TYPE_CHECKING:
    from reason_rl.recipe.attention_specs import PriorSpec

ROWS = 16  # of a pass over calibrating or held-out rows


class PriorSFTTrainer(KeepsTemperatures, SFTTrainer):
    """TRL's trainer whose loss may have the prior's term; everything else is TRL's."""

    prior: SupervisedPrior | None = None

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Add the term of the prior, if it is one of the loss."""
        prior = self.prior
        if prior is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with prior.watching():
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        term = prior.term(self.state.global_step) / self.current_gradient_accumulation_steps
        return (loss[0] + term, loss[1]) if return_outputs else loss + term


class PriorCallback(TrainerCallback):
    """Tells the prior how far the run is, and adds what it says to the logs; it comes before what writes them."""

    def __init__(self, prior: SupervisedPrior) -> None:
        self.prior = prior

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the strength of the coming update."""
        self.prior.before(state.global_step, state.global_step / max(1, state.max_steps))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the weight, and what Guardian decided last."""
        if logs is not None:
            logs |= self.prior.figures()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the strength that the trained model keeps."""
        self.prior.end()


def attach_prior(
    trainer: PriorSFTTrainer, spec: PriorSpec, held_out: Sequence[Mapping[str, Any]], pad: int, seed: int
) -> None:
    """Put a recipe's prior on the trainer's model.

    Args:
        trainer: its dataset gives the rows that content memberships are calibrated on.
        held_out: rows that are not trained on, for Guardian's metric.
        pad: id of the padding token.

    Raises:
        RecipeError: for sharded weights, rows that do not fit, or a model that takes no prior.
    """
    if trainer.accelerator.distributed_type == DistributedType.FSDP:
        raise RecipeError("attention.prior: reads weights outside of the forward pass, which FSDP shards; use DDP")
    rows = trainer.train_dataset
    assert isinstance(rows, Dataset)
    longest = max(len(ids) for ids in (*rows["input_ids"], *(row["input_ids"] for row in held_out)))
    if longest > spec.reference_tokens:
        raise RecipeError(
            f"attention.prior.reference_tokens: is {spec.reference_tokens}, but a row has {longest} tokens; set it to at "
            "least that"
        )
    model = trainer.accelerator.unwrap_model(trainer.model)
    some = rows.select(range(min(spec.calibration_traces, len(rows))))
    trainer.prior = SupervisedPrior(
        model, spec, lambda: batches(list(some), pad, model.device), batches(held_out, pad, model.device), seed
    )
    trainer.callback_handler.callbacks.insert(0, PriorCallback(trainer.prior))


def batches(rows: Sequence[Mapping[str, Any]], pad: int, device: Any = None) -> list[Batch]:
    """Return rows as padded batches with labels, -100 where there is padding.

    >>> (batch,) = batches([{"input_ids": [5, 6], "labels": [-100, 6]}, {"input_ids": [7], "labels": [7]}], 0)
    >>> batch["labels"].tolist()
    [[-100, 6], [7, -100]]
    """
    found: list[Batch] = []
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        labels = padded([row["labels"] for row in some], -100, device)["input_ids"]
        found.append({**padded([row["input_ids"] for row in some], pad, device), "labels": labels})
    return found
