"""The one RL trainer: trl.GRPOTrainer with its rollouts, groups and advantages handed to the algorithm layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PrinterCallback
from trl import GRPOTrainer

from reason_rl.algorithm.filter import select_until_full
from reason_rl.algorithm.kl import k2
from reason_rl.algorithm.opening import as_tensors
from reason_rl.algorithm.store import Observed, Probe, Reference, after_generation, after_probe, observed, start_store
from reason_rl.algorithm.summaries import Credit
from reason_rl.errors import RunError
from reason_rl.rollout.backend import Backend, SamplingOptions
from reason_rl.rollout.batch import RolloutBatch
from reason_rl.rollout.grading import Grader, Moment
from reason_rl.rollout.weights import check_readable
from reason_rl.trainer.chunks import Needed, in_chunks, in_chunks_of_needed, needed_rows
from reason_rl.trainer.compat import check_trl
from reason_rl.trainer.composition import Composition
from reason_rl.trainer.extra_loss import ExtraLoss
from reason_rl.trainer.lag import Ahead, Lag
from reason_rl.trainer.rounds import (
    Output,
    append,
    exclude_from_loss,
    join,
    padded_logps,
    take_rows,
    trained_tokens,
    with_openings,
)
from reason_rl.trainer.sampler import GroupSampler, RefillStream
from reason_rl.trainer.seam import BackendSeam, RowPlan
from reason_rl.trainer.statistics import round_statistics
from reason_rl.trainer.temperatures import KeepsTemperatures


@dataclass(frozen=True)
class Round:
    """One round of rollouts on this rank: TRL's output, the graded batch, rewards [rows] and kept groups [groups].

    Where traces are summarised, the summaries are a round of their own, and ``credit`` holds the advantages of both.
    """

    output: Output
    batch: RolloutBatch
    rewards: Tensor
    kept: Tensor
    summaries: Round | None = None
    credit: Credit | None = None


class ReasonGRPOTrainer(KeepsTemperatures, GRPOTrainer):
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
        skip_zero_advantage: bool = False,
        sampled_logps: bool = False,
        allowance_tokens: int | None = None,
        references: Mapping[str, Reference] | None = None,
        extra_loss: ExtraLoss | None = None,
        lag: int = 0,
        **kwargs: Any,
    ) -> None:
        check_trl()
        self.extra_loss = extra_loss
        self.chunk_rows, self.allowance_tokens = chunk_rows, allowance_tokens
        self.sampled_logps, self.skip_zero_advantage = sampled_logps, skip_zero_advantage
        self._needed: Needed | None = None
        self._sampler_logps: list[list[float]] | None = None
        self.composition, self.grader = composition, grader
        self.store = start_store(composition.policies, references)
        self.algorithm_state: dict[str, Any] = {"rollout_tokens": 0}
        self._rows: list[dict[str, Any]] = []
        self._graded: tuple[RolloutBatch, Tensor] | None = None
        self._policy_logps: Tensor | None = None
        super().__init__(*args, reward_funcs=[self.composed_reward], **kwargs)
        check_readable(self.accelerator.state)
        self.remove_callback(PrinterCallback)
        self.use_vllm, self.vllm_mode = True, "external"
        self._last_loaded_step = -1
        self.vllm_generation = BackendSeam(backend, sampling, on_rollout)
        self.lag = Lag(self.vllm_generation, self.accelerator.wait_for_everyone) if lag else None
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        self.refill = RefillStream(len(self.train_dataset), self.args.seed, rank, world)
        self.problem_ids = tuple(self.train_dataset["problem_id"])

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
        moment = Moment(self.state.global_step, self._progress(), seam.sampled_version)
        plan = seam.plan
        assert plan is not None
        size = plan.group_size or self.num_generations
        batch = self.grader.grade(
            self._rows, seam.prompt_ids, seam.samples, plan.budgets, moment, size, closed=plan.closed
        )
        batch = replace(batch, known=self.composition.known(self.store, batch.problem_id), group_sizes=plan.group_sizes)
        rewards = self.composition.reward(batch).to(torch.float32)
        self._graded = (batch, rewards)
        return [None if math.isnan(value) else value for value in rewards.tolist()]

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        plan = self.vllm_generation.plan
        if plan is not None and plan.prompt_ids is not None:
            return [list(ids) for ids in plan.prompt_ids], None, {}
        return super()._tokenize_prompts(prompts)

    def _generate(self, prompts: list[Any]) -> Any:
        result = super()._generate(prompts)
        if self.sampled_logps:
            self._sampler_logps = result[4]
        # Before the importance ratio: what was written for the policy must not enter it.
        drawn = self.vllm_generation.drawn_tokens()
        return result if drawn is None else (*result[:2], drawn, *result[3:])

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Output:
        wanted = len(inputs) // self.num_generations
        ahead = self.lag.take() if self.lag else None
        self._probe()
        rounds = [self._round(ahead.rows if ahead else self._drawn(wanted, 0) or inputs, 0, ahead)]
        while self.composition.filter.refill and len(rounds) < self.composition.filter.max_rounds:
            missing = self._largest(wanted - sum(int(r.kept.sum()) for r in rounds))
            if missing <= 0:
                break
            count, index = self._refill_groups(missing, wanted, rounds), len(rounds)
            rounds.append(self._round(self._drawn(count, index) or self._repeated(self.refill.take(count)), index))
        output = self._final_batch(rounds, wanted)
        self._observe(rounds)
        if self.lag:
            self._sample_ahead(self.lag, inputs if ahead else None, wanted)
        return output

    def compute_loss(
        self, model: Any, inputs: Output, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Add a further term where the run has one; everything else is TRL's."""
        extra = self.extra_loss
        factor = 0.0 if extra is None else extra.factor(self._progress(), self.store)
        if extra is None or factor == 0.0:
            return self._policy_loss(model, inputs, return_outputs, num_items_in_batch)
        with extra.watching():
            loss = self._policy_loss(model, inputs, return_outputs, num_items_in_batch)
        term = extra.term(self.state.global_step)
        self._metrics["train"][f"reason/{extra.name}"].append(self.accelerator.gather(term.detach()).mean().item())
        self._metrics["train"][f"reason/{extra.name}_weight"].append(factor)
        for name, value in extra.figures(self.store).items():
            self._metrics["train"][f"reason/{name}"].append(value)
        return loss + factor / self.current_gradient_accumulation_steps * term

    def _policy_loss(self, model: Any, inputs: Output, return_outputs: bool, num_items_in_batch: Any) -> Tensor:
        """Add the k2 form of the KL term, which TRL lacks."""
        if self.skip_zero_advantage and self.model.training and not self.aux_loss_enabled:
            self._needed = needed_rows(inputs, self._most)
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
        if self._sampler_logps is not None:
            # The first pass after sampling is that of the policy before the update.
            known, self._sampler_logps = padded_logps(self._sampler_logps, logits_to_keep), None
            return known.to(input_ids.device), None, None
        compute = super()._get_per_token_logps_and_entropies
        needed, self._needed = self._needed, None
        if self.chunk_rows is None and needed is None:
            result = compute(model, input_ids, attention_mask, logits_to_keep, batch_size, **kwargs)
        elif kwargs.get("compute_aux_loss"):
            raise RunError("update.chunk_rows: the load-balancing loss of a mixture of experts needs whole batches")
        else:
            parts = (input_ids, attention_mask, logits_to_keep, self.chunk_rows or len(input_ids))

            def part(ids: Tensor, mask: Tensor, width: int) -> Any:
                return compute(model, ids, mask, width, **kwargs)[:2]

            logps, entropies = in_chunks_of_needed(part, *parts, needed) if needed else in_chunks(part, *parts)
            assert logps is not None
            result = (logps, entropies, None)
        if result[0].requires_grad:
            self._policy_logps = result[0]
        return result

    def _most(self, count: int) -> int:
        return int(self.accelerator.gather(torch.tensor([count], device=self.accelerator.device)).max())

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

    def _repeated(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """Return the rows of the data set with these numbers, each as a whole group."""
        return [row for row in map(self.train_dataset.__getitem__, indices) for _ in range(self.num_generations)]

    def _drawn(self, groups: int, index: int) -> list[dict[str, Any]] | None:
        """Return this rank's rows of what the curriculum draws for a round; None without a curriculum."""
        world = self.accelerator.num_processes
        drawn = self.composition.draw(self.store, self.problem_ids, groups * world, index, world)
        start = self.accelerator.process_index * groups
        return None if drawn is None else self._repeated(drawn[start : start + groups])

    def _probe(self) -> None:
        """Roll out what policies want measured before this generation; nothing of it is trained on."""
        for policy in self.composition.policies:
            probe = policy.probe(self.store, self.problem_ids)
            if probe is not None:
                groups = gather_object(self._roll_out(probe))
                self.algorithm_state["rollout_tokens"] += sum(sum(group.tokens) for group in groups)
                self.store = after_probe(self.store, policy, groups)

    def _roll_out(self, probe: Probe) -> list[Observed]:
        """Return this rank's share of a probe, sampled from the present weights at the largest budget."""
        seam, step = self.vllm_generation, self.state.global_step
        if self._last_loaded_step != step:
            seam.sync_weights()
            self._last_loaded_step = step
        mine = set(probe.problem_ids[self.accelerator.process_index :: self.accelerator.num_processes])
        indices = [i for i, name in enumerate(self.problem_ids) if name in mine]
        if not indices:
            return []
        rows = [row for row in map(self.train_dataset.__getitem__, indices) for _ in range(probe.rollouts)]
        budgets = [self.composition.budget.largest()] * len(rows)
        seeds = self.composition.seeds([row["problem_id"] for row in rows], step, "probe")
        seam.plan = self.composition.row_plan(budgets, seeds, probe.rollouts)
        prompt_ids = self._tokenize_prompts([row["prompt"] for row in rows])[0]
        seam.generate(prompt_ids)
        moment = Moment(step, self._progress(), seam.version)
        return observed(self.grader.grade(rows, prompt_ids, seam.samples, budgets, moment, probe.rollouts))

    def _plan(self, rows: list[dict[str, Any]], step: int, index: int) -> RowPlan:
        """Return budgets, seeds and openings of a round's rows."""
        ids = [row["problem_id"] for row in rows]
        budgets = self.composition.budget.assign(ids, _columns(rows), self.store, step, self._progress())
        seeds = self.composition.seeds(ids, step, index)
        return self.composition.row_plan(budgets.tolist(), seeds, self.num_generations, ids)

    def _sample_ahead(self, lag: Lag, rows: list[dict[str, Any]] | None, wanted: int) -> None:
        """Begin the rollouts of the next batch; the first time its rows come from the refill stream, then they follow on."""
        step = self.state.global_step + self.args.steps_per_generation * self.num_iterations // (
            self.args.gradient_accumulation_steps
        )
        if step >= self.state.max_steps:
            return
        rows = self._drawn(wanted, 0) or rows or self._repeated(self.refill.take(wanted))
        plan = self._plan(rows, step, 0)
        self.vllm_generation.plan = plan
        lag.start(rows, plan, self._tokenize_prompts([row["prompt"] for row in rows])[0])

    def rollouts_ahead(self) -> list[Any]:
        """Return the rollouts under way on each rank, as JSON, once they are done; all ranks take part."""
        ahead = self.lag.ahead if self.lag else None
        return gather_object([None if ahead is None else ahead.to_json()])

    def restore_ahead(self, saved: list[Any]) -> None:
        """Put back what :meth:`rollouts_ahead` returned.

        Raises:
            RunError: when the run is resumed with another number of processes, or without the lag that it had.
        """
        mine = saved[self.accelerator.process_index] if len(saved) == self.accelerator.num_processes else None
        if self.lag is None or mine is None:
            raise RunError(
                f"the checkpoint holds rollouts made ahead by {len(saved)} processes; resume with as many and rollout.lag: 1"
            )
        places = {name: place for place, name in enumerate(self.problem_ids)}
        rows = [self.train_dataset[places[name]] for name in mine["problem_ids"]]
        seeds, ids = tuple(mine["seeds"]), mine["problem_ids"]
        plan = self.composition.row_plan(mine["budgets"], seeds, self.num_generations, ids)
        self.lag.restore(mine, rows, plan)

    def _round(self, rows: list[dict[str, Any]], index: int, ahead: Ahead | None = None) -> Round:
        """Sample, grade and judge one round of whole groups, unless it was sampled ahead."""
        self._rows = rows
        plan = ahead.plan if ahead else self._plan(rows, self.state.global_step, index)
        if ahead:
            self.vllm_generation.sampled = (ahead.samples.result(), ahead.version)
        output, batch, rewards = self._sample(rows, plan)
        if plan.openings is not None:
            output = with_openings(output, *as_tensors(plan.openings))
        drawn = Round(output, batch, rewards, self.composition.kept(batch, rewards))
        return drawn if self.composition.summaries is None else self._with_summaries(drawn, rows, index)

    def _sample(self, rows: list[dict[str, Any]], plan: RowPlan) -> tuple[Output, RolloutBatch, Tensor]:
        """Let TRL sample and score rows by a plan; return its output with our graded batch and rewards [rows]."""
        self._rows = rows
        self.vllm_generation.plan = plan
        output = super()._generate_and_score_completions(rows)
        assert self._graded is not None
        return (output, *self._graded)

    def _with_summaries(self, traces: Round, rows: list[dict[str, Any]], index: int) -> Round:
        """Sample the summaries of a round of traces, and let their rewards credit both."""
        rule = self.composition.summaries
        assert rule is not None
        contexts = rule.contexts(traces.batch)
        chosen = [rows[context.row] for context in contexts]
        names = [row["problem_id"] for row in chosen]
        seeds = self.composition.seeds(names, self.state.global_step, f"{index}/summaries")
        plan = RowPlan(
            budgets=(rule.tokens,) * len(contexts),
            seeds=seeds,
            prompt_ids=tuple(context.token_ids for context in contexts),
            group_size=rule.samples,
            closed=True,
        )
        output, batch, right = self._sample(chosen, plan)
        self._rows = rows
        credit = rule.credit(traces.batch, contexts, right)
        summaries = Round(output, batch, right, torch.ones(batch.groups, dtype=torch.bool))
        judged = replace(traces.batch, correct=credit.accuracy[:, -1])
        return Round(traces.output, judged, credit.accuracy[:, -1], traces.kept, summaries, credit)

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
        measure = self.composition.advantage.measure
        columns = [
            torch.cat([pick(r) for r in rounds])[rows]
            for pick in (lambda r: r.rewards, lambda r: measure(r.batch), lambda r: r.batch.correct)
        ]
        excluded = ~kept[groups].repeat_interleave(group_size)
        if self.composition.overlong == "mask":
            excluded |= torch.cat([r.batch.truncated for r in rounds])[rows]
        values = self._advantages(columns, kept[groups], rounds[0].batch.group_sizes)
        output["advantages"] = values.to(output["advantages"].device)
        if self._largest(int(excluded.any())):
            output = exclude_from_loss(output, excluded.to(self.accelerator.device))
        if rounds[0].summaries is not None:
            output = self._append_summaries(output, rounds[0])
            rounds = [rounds[0], rounds[0].summaries]
            rows = torch.arange(len(output["advantages"]))
        output["num_items_in_batch"] = self.accelerator.gather(trained_tokens(output)).sum()
        self._relog_advantages(rounds, rows, output["advantages"])
        return output

    def _append_summaries(self, output: Output, traces: Round) -> Output:
        """Return the traces with an advantage a token, and their summaries as rows after them."""
        assert traces.summaries is not None
        assert traces.credit is not None
        device = output["advantages"].device
        output = {**output, "advantages": traces.credit.traces.to(device)}
        further = {**traces.summaries.output, "advantages": traces.credit.summaries.to(device)}
        return append(output, further, self._tokenizer.pad_token_id)

    def _advantages(self, columns: list[Tensor], kept: Tensor, own_sizes: tuple[int, ...] | None) -> Tensor:
        """Compute advantages over the batch of all ranks and return this rank's rows."""
        device = self.accelerator.device
        local = torch.stack([*columns, kept.repeat_interleave(self.num_generations).float()], dim=1).to(device)
        rewards, measures, correct, keep = self.accelerator.gather(local).cpu().unbind(dim=1)
        groups = keep.view(-1, self.num_generations)[:, 0].bool()
        sizes = None if own_sizes is None else [size for part in gather_object([own_sizes]) for size in part]
        result = self.composition.advantages(
            rewards, measures, correct, groups, self.num_generations, self.store, sizes
        )
        start = self.accelerator.process_index * len(local)
        return result[start : start + len(local)]

    def _relog_advantages(self, rounds: list[Round], rows: Tensor, values: Tensor) -> None:
        """Put the advantages really used into TRL's completions table; rows that were dropped show 0."""
        column = self._logs["advantages"]
        used = torch.zeros(sum(len(r.rewards) for r in rounds))
        used[rows] = (values if values.ndim == 1 else values.mean(dim=1)).cpu()
        for _ in range(min(len(column), len(used) * self.accelerator.num_processes)):
            column.pop()
        for part in used.split([len(r.rewards) for r in rounds]):
            column.extend(gather_object(part.tolist()))

    def _observe(self, rounds: list[Round]) -> None:
        """Log what was rolled out on all ranks and let the budget policy learn from it."""
        batches = [r.batch for r in rounds]
        gathered = gather_object([round_statistics(r.batch, r.rewards, r.kept, self._figures(r)) for r in rounds])
        for name in gathered[0]["sums"]:
            total, count = (sum(entry[part][name] for entry in gathered) for part in ("sums", "counts"))
            if count:
                self._metrics["train"][f"reason/{name}"].append(total / count)
        self._metrics["train"]["reason/rounds"].append(float(len(rounds)))
        self._metrics["train"]["reason/groups_kept"].append(float(sum(entry["kept"] for entry in gathered)))
        self._metrics["train"]["reason/groups_drawn"].append(float(sum(entry["drawn"] for entry in gathered)))
        spent = sum(e["sums"]["completion_tokens"] + e["sums"].get("summary_tokens", 0) for e in gathered)
        self.algorithm_state["rollout_tokens"] += int(spent)
        self._metrics["train"]["reason/rollout_tokens"].append(float(self.algorithm_state["rollout_tokens"]))
        groups = [group for entry in gathered for group in entry["groups"]]
        self.store = after_generation(self.store, self.composition.policies, groups)
        self._rows = [{"problem_id": name} for batch in batches for name in batch.problem_id[:: self.num_generations]]

    def _figures(self, drawn: Round) -> dict[str, Tensor]:
        """Return what is logged of each row beyond what all methods have, float [rows], nan where a row does not count."""
        figures = self.composition.figures(drawn.batch)
        rule, summaries, credit = self.composition.summaries, drawn.summaries, drawn.credit
        if rule is not None and summaries is not None and credit is not None:
            figures |= {f"accuracy_at_{b}": at for b, at in zip(rule.budgets, credit.accuracy.unbind(1), strict=True)}
            figures["summary_tokens"] = summaries.batch.length.view(len(drawn.rewards), -1).sum(dim=1).float()
        return figures

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


def _columns(rows: list[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    return {key: tuple(row[key] for row in rows) for key in rows[0] if key not in ("prompt", "problem_id")}
