"""Callbacks of a run: metrics as JSONL, checkpoints that are whole or not there, progress lines, warnings in words."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from reason_rl.algorithm.store import from_json, to_json
from reason_rl.errors import RunError
from reason_rl.rollout.processes import is_first
from reason_rl.rollout.weights import own_part
from reason_rl.run_folder import write_text
from reason_rl.trainer.doctor import advice

if TYPE_CHECKING:
    from rich.progress import Progress

    from reason_rl.trainer.grpo import ReasonGRPOTrainer

STATE_FILE = "algorithm_state.json"
COMPLETE_FILE = "complete.json"

METRIC_NAMES = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "entropy": "entropy",
    "kl": "kl",
    "clip_ratio/low_mean": "clip_low",
    "clip_ratio/high_mean": "clip_high",
    "sampling/importance_sampling_ratio/mean": "importance_ratio_mean",
    "sampling/sampling_logp_difference/max": "sampling_logp_difference_max",
}


def complete_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints that were written to the end, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if (path / COMPLETE_FILE).is_file()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def drop_incomplete(folder: Path) -> None:
    """Remove checkpoints that a killed or failed save left half-written; of several processes the first one does."""
    if not is_first():
        return
    for path in folder.glob("checkpoint-*"):
        if not (path / COMPLETE_FILE).is_file():
            shutil.rmtree(path)


class MetricsCallback(TrainerCallback):
    """Writes ``metrics.jsonl``, one row a logging step, and marks checkpoints that are whole and finite.

    Of several processes the first one does both.

    Args:
        metrics_file: rows after ``resumed_step`` are dropped from it.
        resumed_step: the step that training goes on from.
        names: what the trainer logs, and the name it goes by in a row.
    """

    def __init__(self, metrics_file: Path, resumed_step: int, names: Mapping[str, str]) -> None:
        self.metrics_file, self.names = metrics_file, names
        self.history: list[dict[str, Any]] = []
        if is_first():
            # What follows the last line end is a row that a full disk, or a kill, cut.
            lines = metrics_file.read_text().split("\n")[:-1] if metrics_file.exists() else []
            self.history = [row for row in map(json.loads, lines) if row["step"] <= resumed_step]
            write_text(metrics_file, "".join(json.dumps(row) + "\n" for row in self.history))
        self.before = self.history[-1]["seconds"] if self.history else 0.0
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training, those of an interrupted run included."""
        return round(self.before + time.monotonic() - self.started, 2)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append one row a logging step."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        row: dict[str, Any] = {"step": state.global_step, "seconds": self.seconds}
        row |= {key.removeprefix("reason/"): value for key, value in logs.items() if key.startswith("reason/")}
        row |= {ours: logs[theirs] for theirs, ours in self.names.items() if theirs in logs}
        self.history.append(row)
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write, last of all, the marker that makes the checkpoint count, once all ranks have written their part."""
        trained = ((name, p) for name, p in kwargs["model"].named_parameters() if p.requires_grad)
        bad = gather_object([name for name, p in trained if not torch.isfinite(own_part(p)).all()])
        if bad:
            raise RunError(
                f"weights are not finite at step {state.global_step} ({bad[0]}); the checkpoint before is good"
            )
        if state.is_world_process_zero:
            marker = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / COMPLETE_FILE
            write_text(marker, json.dumps({"step": state.global_step}))


class RunCallback(MetricsCallback):
    """Adds the algorithm's state to checkpoints, and gives the doctor's advice."""

    def __init__(self, metrics_file: Path, resumed_step: int = 0) -> None:
        super().__init__(metrics_file, resumed_step, METRIC_NAMES)
        self.trainer: ReasonGRPOTrainer | None = None
        self.warned: set[str] = set()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append one row a logging step, and warn in words, once a warning."""
        super().on_log(args, state, control, logs, **kwargs)
        for line in advice(self.history):
            if line not in self.warned:
                self.warned.add(line)
                print(f"warning: step {state.global_step}: {line}", file=sys.stderr, flush=True)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add the algorithm's state before the checkpoint is marked; all ranks take part."""
        trainer = self.trainer
        if trainer is None:
            return
        ahead = trainer.rollouts_ahead()
        if state.is_world_process_zero:
            saved = {
                "refill_position": trainer.refill.position,
                "store": to_json(trainer.store),
                **trainer.algorithm_state,
                **({"ahead": ahead} if any(ahead) else {}),
            }
            (Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / STATE_FILE).write_text(json.dumps(saved))
        super().on_save(args, state, control, **kwargs)


def restore_algorithm_state(trainer: ReasonGRPOTrainer, checkpoint: Path) -> None:
    """Load what ``RunCallback.on_save`` wrote."""
    saved = json.loads((checkpoint / STATE_FILE).read_text())
    trainer.refill.position = saved.pop("refill_position")
    trainer.store = from_json(saved.pop("store"))
    ahead = saved.pop("ahead", None)
    if ahead is not None:
        trainer.restore_ahead(ahead)
    trainer.algorithm_state = saved


class AllowanceCallback(TrainerCallback):
    """Ends training when the allowance of rollout tokens is spent; saves checkpoints at shares of it."""

    def __init__(self, allowance_tokens: int, updates_per_generation: int, save_at: Sequence[float] = ()) -> None:
        self.allowance_tokens = allowance_tokens
        self.updates_per_generation = updates_per_generation
        self.save_at = sorted(save_at)
        self.trainer: ReasonGRPOTrainer | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look at what was spent once all updates on a rollout batch are made."""
        if self.trainer is None or state.global_step % self.updates_per_generation:
            return
        spent = self.trainer.algorithm_state["rollout_tokens"] / self.allowance_tokens
        reached = [share for share in self.save_at if share <= spent]
        if reached:
            del self.save_at[: len(reached)]
            control.should_save = True
        if spent >= 1:
            control.should_training_stop = True


class MilestoneCallback(TrainerCallback):
    """Keeps the models that the budget's schedule calls worth keeping, each in a folder of its name."""

    def __init__(self, trainer: ReasonGRPOTrainer, folder: Path, updates_per_generation: int) -> None:
        self.trainer, self.folder, self.updates_per_generation = trainer, folder, updates_per_generation

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look once all updates on a rollout batch are made; a resumed run writes the same model again."""
        if state.global_step % self.updates_per_generation:
            return
        name = self.trainer.composition.budget.milestone(self.trainer.store.generation)
        if name is None:
            return
        self.trainer.save_model(str(self.folder / name))
        if state.is_world_process_zero:
            self.trainer.processing_class.save_pretrained(self.folder / name)


class ProgressCallback(TrainerCallback):
    """One live line for rollouts and one for optimizer steps, on the main process of a terminal."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.rollouts = progress.add_task("rollouts", total=None, detail="")
        self.steps = progress.add_task("steps", total=None, detail="")
        self.shown: dict[str, float] = {}

    def on_rollout(self, done: int, total: int) -> None:
        """Move the rollout line; handed to the backend."""
        self.progress.update(self.rollouts, completed=done, total=total)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the length of the run."""
        self.progress.update(self.steps, total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the step line."""
        self.progress.update(self.steps, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show reward, accuracy, tokens, share cut and kept groups."""
        logs = logs or {}
        if "reason/accuracy" in logs:
            detail = (
                f"reward {logs['reason/reward']:.2f}  accuracy {logs['reason/accuracy']:.0%}  "
                f"tokens {logs['reason/completion_tokens']:.0f}  cut {logs['reason/share_cut']:.0%}  "
                f"kept {logs['reason/groups_kept']:.0f}/{logs['reason/groups_drawn']:.0f}"
            )
            self.progress.update(self.steps, detail=detail)
