"""Selective temperatures in a training run: put on the trainer's model, saved wherever it is saved, read again on resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import DistributedType

from reason_rl.attention.ssa import SSAOptions, add_ssa, train_ssa_only
from reason_rl.attention.ssa_files import has_ssa, load_ssa, read_ssa, restore_ssa, save_ssa
from reason_rl.errors import RecipeError
from reason_rl.models import load_model, refuse_kept, resolve_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from reason_rl.recipe.attention_specs import SSASpec
    from reason_rl.recipe.schema import ModelSection, Recipe

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


class KeepsTemperatures:
    """A trainer that writes temperatures wherever it saves weights (checkpoints, kept models, the trained one).

    Weight decay leaves them alone: it would draw them to where they began. ``beside``: is told the folder, on the process
    that writes.
    """

    beside: Callable[[Path], None] | None = None

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Return the names of the parameters that decay."""
        names: list[str] = super().get_decay_parameter_names(model)  # type: ignore[misc]
        return [name for name in names if ".ssa" not in name]

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)  # type: ignore[misc]
        if self.beside is not None:
            self.beside(Path(output_dir or self.args.output_dir))  # type: ignore[attr-defined]


def starting_model(recipe: Recipe, section: ModelSection | None = None) -> PreTrainedModel:
    """Return the model that training starts from, without temperatures, which are put on once there is an adapter.

    Args:
        recipe: what is trained.
        section: which model; None = the recipe's.

    Raises:
        RecipeError: when it cannot be loaded, or something stays in its attention that training would not save.
    """
    model = load_model(section or recipe.model, temperatures=_section(recipe) is None)
    refuse_kept(
        model, "which this training would not save; start from another model, or set attention.ssa for the latter"
    )
    return model


def attach_temperatures(trainer: Any, recipe: Recipe, checkpoint: Path | None) -> None:
    """Put the temperatures that a recipe asks for on the trainer's model: new ones, or those that it starts with.

    Args:
        trainer: a ``KeepsTemperatures`` whose adapter, if any, is on its model, and whose optimizer is not made yet.
        recipe: without attention.ssa nothing is done.
        checkpoint: that training goes on from.

    Raises:
        RecipeError: for sharded weights, another architecture, or a start with other temperatures.
    """
    spec = _section(recipe)
    if spec is None:
        return
    if trainer.accelerator.distributed_type in SHARDED:
        raise RecipeError("attention.ssa: is saved from whole weights, which FSDP and DeepSpeed shard; use DDP")
    model = trainer.accelerator.unwrap_model(trainer.model)
    options, start = SSAOptions(**spec.model_dump(exclude={"alone"})), Path(resolve_model(recipe.model.path))
    if has_ssa(start):
        _check_start(recipe, options, read_ssa(start)[0])
        load_ssa(model, start)
    else:
        add_ssa(model, options, recipe.seed)
    if spec.alone:
        train_ssa_only(model)
    if checkpoint is not None:
        restore_ssa(model, read_ssa(checkpoint)[1], str(checkpoint))
    trainer.beside = lambda folder: save_ssa(model, options, folder)


def _section(recipe: Recipe) -> SSASpec | None:
    return recipe.attention.ssa if recipe.attention else None


def _check_start(recipe: Recipe, asked: SSAOptions, held: SSAOptions) -> None:
    if held != asked:
        raise RecipeError(f"attention.ssa: {recipe.model.path} has other temperatures, {held}; ask for those")
    if recipe.algorithm is not None and recipe.algorithm.kl.coefficient:
        raise RecipeError("algorithm.kl.coefficient: the reference would be without the start's temperatures; set 0")
