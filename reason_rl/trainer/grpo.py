"""The one RL trainer: trl.GRPOTrainer with its rollouts, groups and advantages handed to the algorithm layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PrinterCallback
from trl import GRPOTrainer

from reason_rl.algorithm.filter import select_until_full
from reason_rl.algorithm.kl import k2
from reason_rl.errors import RunError
from reason_rl.rollout.backend import Backend, SamplingOptions
from reason_rl.rollout.batch import RolloutBatch
from reason_rl.rollout.grading import Grader, Moment
from reason_rl.trainer.chunks import in_chunks
from reason_rl.trainer.compat import check_trl
from reason_rl.trainer.composition import Composition
from reason_rl.trainer.rounds import Output, exclude_from_loss, join, take_rows, trained_tokens
from reason_rl.trainer.sampler import GroupSampler, RefillStream
from reason_rl.trainer.seam import BackendSeam, RowPlan
from reason_rl.trainer.statistics import round_statistics


@dataclass(frozen=True)
class Round:
    """One round of rollouts on this rank: TRL's output, the graded batch, rewards [rows] and kept groups [groups]."""

    output: Output
    batch: RolloutBatch
    rewards: Tensor
    kept: Tensor


class ReasonGRPOTrainer(GRPOTrainer):
    """GRPOTrainer that wraps, and never copies, TRL's methods.

    Rows of a generation batch are whole groups of G consecutive rows on one rank. A generation step runs one or more
    rounds: sample with per-row budgets and seeds, grade, reward, decide which groups are kept; with ``filter.refill`` new
    prompts are drawn until the batch is full. Advantages are computed once, over the final batch of all ranks.
    """

    def __init__(
        self,
        *args: Any,
        composition: Composition,
        grader: Grader,
        backend: Backend,
        sampling: SamplingOptions,
        on_rollout: Any = None,
        chunk_rows: int | None = None,
        allowance_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_trl()
        self.chunk_rows, self.allowance_tokens = chunk_rows, allowance_tokens
        self.composition, self.grader = composition, grader
        self.algorithm_state: dict[str, Any] = {"budget": composition.budget.initial_state(), "rollout_tokens": 0}
        self._rows: list[dict[str, Any]] = []
        self._graded: tuple[RolloutBatch, Tensor] | None = None
        self._policy_logps: Tensor | None = None
        super().__init__(*args, reward_funcs=[self.composed_reward], **kwargs)
        self.remove_callback(PrinterCallback)
        self.use_vllm, self.vllm_mode = True, "external"
        self._last_loaded_step = -1
        self.vllm_generation = BackendSeam(backend, sampling, on_rollout)
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        self.refill = RefillStream(len(self.train_dataset), self.args.seed, rank, world)

    # Seams of TRL

    def _get_train_sampler(self, dataset: Any = None) -> GroupSampler:
        return GroupSampler(
            data_source=self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )

    def composed_reward(self, completion_ids: list[list[int]], **_columns: Any) -> list[float | None]:
        """Grade the rows that were just sampled and return their composed reward; TRL calls this once a round."""
        seam = self.vllm_generation
        prompt_ids = [self._prompt_tokens(row) for row in self._rows]
        moment = Moment(self.state.global_step, self._progress(), seam.version)
        assert seam.plan is not None
        batch = self.grader.grade(self._rows, prompt_ids, seam.samples, seam.plan.budgets, moment, self.num_generations)
        rewards = self.composition.reward(batch).to(torch.float32)
        self._graded = (batch, rewards)
        return [None if math.isnan(value) else value for value in rewards.tolist()]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Output:
        wanted = len(inputs) // self.num_generations
        rounds = [self._round(inputs, 0)]
        while self.composition.filter.refill and len(rounds) < self.composition.filter.max_rounds:
            missing = self._largest(wanted - sum(int(r.kept.sum()) for r in rounds))
            if missing <= 0:
                break
            rows = [self.train_dataset[i] for i in self.refill.take(self._refill_groups(missing, wanted, rounds))]
            rows = [row for row in rows for _ in range(self.num_generations)]
            rounds.append(self._round(rows, len(rounds)))
        output = self._final_batch(rounds, wanted)
        self._observe(rounds)
        return output

    def compute_loss(
        self, model: Any, inputs: Output, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Add the k2 form of the KL term, which TRL lacks; everything else is TRL's."""
        if self.composition.kl_type == "k3" or self.args.beta == 0.0:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        beta = float(self.args.beta)
        self.beta = 0.0
        try:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        finally:
            self.beta = beta
        return loss + beta * self._k2_term(inputs)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        compute = super()._get_per_token_logps_and_entropies
        if self.chunk_rows is None:
            result = compute(model, input_ids, attention_mask, logits_to_keep, batch_size, **kwargs)
        elif kwargs.get("compute_aux_loss"):
            raise RunError("update.chunk_rows: the load-balancing loss of a mixture of experts needs whole batches")
        else:
            logps, entropies = in_chunks(
                lambda ids, mask, width: compute(model, ids, mask, width, **kwargs)[:2],
                input_ids,
                attention_mask,
                logits_to_keep,
                self.chunk_rows,
            )
            assert logps is not None
            result = (logps, entropies, None)
        if result[0].requires_grad:
            self._policy_logps = result[0]
        return result

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Stop before the weights are touched when the loss is not finite."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            problems = ", ".join(sorted({row["problem_id"] for row in self._rows})[:8])
            raise RunError(
                f"loss is {loss.item()} at step {self.state.global_step + 1}; the weights were not updated and the last "
                f"checkpoint is good; try a lower trainer.learning_rate (problems of the batch: {problems} ...)"
            )
        return loss

    # Rounds

    def _round(self, rows: list[dict[str, Any]], index: int) -> Round:
        """Sample, grade and judge one round of whole groups."""
        self._rows = rows
        ids = [row["problem_id"] for row in rows]
        step = self.state.global_step
        budgets = self.composition.budget.assign(
            ids, _columns(rows), self.algorithm_state["budget"], step, self._progress()
        )
        seeds = self.composition.seeds(ids, step, index)
        self.vllm_generation.plan = RowPlan(tuple(int(b) for b in budgets), seeds)
        output = super()._generate_and_score_completions(rows)
        assert self._graded is not None
        batch, rewards = self._graded
        return Round(output, batch, rewards, self.composition.kept(batch, rewards))

    def _refill_groups(self, missing: int, wanted: int, rounds: list[Round]) -> int:
        """Return how many groups to draw next, the same on all ranks: enough at the share kept so far, with a margin."""
        local = torch.tensor([float(sum(int(r.kept.sum()) for r in rounds)), float(sum(len(r.kept) for r in rounds))])
        kept, drawn = self.accelerator.gather(local.to(self.accelerator.device)[None]).sum(dim=0).tolist()
        return min(wanted, math.ceil(1.25 * missing / max(kept / drawn, 0.1)))

    def _final_batch(self, rounds: list[Round], wanted: int) -> Output:
        """Join the first ``wanted`` kept groups of all rounds, filled up with groups that stay out of the loss."""
        group_size = self.num_generations
        output = join([r.output for r in rounds], self._tokenizer.pad_token_id) if len(rounds) > 1 else rounds[0].output
        kept = torch.cat([r.kept for r in rounds])
        groups = select_until_full(kept, wanted)
        rows = (groups[:, None] * group_size + torch.arange(group_size)).flatten()
        if len(rounds) > 1:
            output = take_rows(output, rows)
        columns = [
            torch.cat([pick(r) for r in rounds])[rows]
            for pick in (lambda r: r.rewards, lambda r: r.batch.length.float(), lambda r: r.batch.correct)
        ]
        excluded = ~kept[groups].repeat_interleave(group_size)
        if self.composition.overlong == "mask":
            excluded |= torch.cat([r.batch.truncated for r in rounds])[rows]
        output["advantages"] = self._advantages(columns, kept[groups]).to(output["advantages"].device)
        if self._largest(int(excluded.any())):
            output = exclude_from_loss(output, excluded.to(self.accelerator.device))
        output["num_items_in_batch"] = self.accelerator.gather(trained_tokens(output)).sum()
        self._relog_advantages(rounds, rows, output["advantages"])
        return output

    def _advantages(self, columns: list[Tensor], kept: Tensor) -> Tensor:
        """Compute advantages over the batch of all ranks and return this rank's rows."""
        device = self.accelerator.device
        local = torch.stack([*columns, kept.repeat_interleave(self.num_generations).float()], dim=1).to(device)
        rewards, lengths, correct, keep = self.accelerator.gather(local).cpu().unbind(dim=1)
        groups = keep.view(-1, self.num_generations)[:, 0].bool()
        result = self.composition.advantages(rewards, lengths, correct, groups, self.num_generations)
        start = self.accelerator.process_index * len(local)
        return result[start : start + len(local)]

    def _relog_advantages(self, rounds: list[Round], rows: Tensor, values: Tensor) -> None:
        """Put the advantages really used into TRL's completions table; rows that were dropped show 0."""
        column = self._logs["advantages"]
        used = torch.zeros(sum(len(r.rewards) for r in rounds))
        used[rows] = values.cpu()
        for _ in range(min(len(column), len(used) * self.accelerator.num_processes)):
            column.pop()
        for part in used.split([len(r.rewards) for r in rounds]):
            column.extend(gather_object(part.tolist()))

    def _observe(self, rounds: list[Round]) -> None:
        """Log what was rolled out on all ranks and let the budget policy learn from it."""
        batches = [r.batch for r in rounds]
        gathered = gather_object([round_statistics(r.batch, r.rewards, r.kept) for r in rounds])
        for name in gathered[0]["sums"]:
            total, count = (sum(entry[part][name] for entry in gathered) for part in ("sums", "counts"))
            self._metrics["train"][f"reason/{name}"].append(total / max(count, 1))
        self._metrics["train"]["reason/rounds"].append(float(len(rounds)))
        self._metrics["train"]["reason/groups_kept"].append(float(sum(entry["kept"] for entry in gathered)))
        self._metrics["train"]["reason/groups_drawn"].append(float(sum(entry["drawn"] for entry in gathered)))
        self.algorithm_state["rollout_tokens"] += int(sum(e["sums"]["completion_tokens"] for e in gathered))
        self._metrics["train"]["reason/rollout_tokens"].append(float(self.algorithm_state["rollout_tokens"]))
        pass_rates = [rate for entry in gathered for rate in entry["pass_rates"]]
        policy = self.composition.budget
        self.algorithm_state["budget"] = policy.update(self.algorithm_state["budget"], pass_rates)
        self._rows = [{"problem_id": name} for batch in batches for name in batch.problem_id[:: self.num_generations]]

    # Small helpers

    def _k2_term(self, inputs: Output) -> Tensor:
        """Return the token mean, over the generation batch, of 0.5 (logp - ref_logp)^2."""
        assert self._policy_logps is not None
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        window = self.current_gradient_accumulation_steps / self.args.steps_per_generation
        tokens = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes * window
        kl = k2(self._policy_logps, inputs["ref_per_token_logps"])
        mean = (kl * mask).sum().detach() / mask.sum().clamp(min=1)
        self._metrics["train"]["kl"].append(self.accelerator.gather(mean).mean().item())
        return (kl * mask).sum() / tokens

    def _largest(self, value: int) -> int:
        """Return the largest of the ranks' values, so that all ranks decide alike."""
        return int(self.accelerator.gather(torch.tensor([value], device=self.accelerator.device)).max())

    def _progress(self) -> float:
        """Return the share of the run that is done: of its steps, or of its rollout tokens where they end it before."""
        done = self.state.global_step / max(1, self.state.max_steps)
        if self.allowance_tokens is not None:
            done = max(done, self.algorithm_state["rollout_tokens"] / self.allowance_tokens)
        return min(1.0, done)

    def _prompt_tokens(self, row: Mapping[str, Any]) -> list[int]:
        return self._tokenize_prompts([row["prompt"]])[0][0]


def _columns(rows: list[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    return {key: tuple(row[key] for row in rows) for key in rows[0] if key not in ("prompt", "problem_id")}
