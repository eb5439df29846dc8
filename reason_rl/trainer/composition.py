"""A method as a composition: the policies that one run is made of."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from reason_rl.algorithm.advantage import Baseline, Scale, advantages
from reason_rl.algorithm.budget import BudgetPolicy
from reason_rl.algorithm.curriculum import Curriculum
from reason_rl.algorithm.filter import Keep, keep_groups
from reason_rl.algorithm.opening import Opening, assign
from reason_rl.algorithm.quartiles import QuartileCounts
from reason_rl.algorithm.reward import Reward
from reason_rl.algorithm.selection import Select, difficulty_weight, halves, selected, surprise
from reason_rl.algorithm.store import Policy, Store, facts
from reason_rl.algorithm.summaries import SummaryRule
from reason_rl.rollout.backend import sampling_seed
from reason_rl.rollout.batch import RolloutBatch
from reason_rl.trainer.seam import RowPlan


@dataclass(frozen=True)
class AdvantageRule:
    """How rewards become advantages; names as in the recipe's ``algorithm.advantage``."""

    baseline: Baseline | Literal["halves"] = "group_mean"
    scale: Scale = "group_std"
    correct_bonus: float = 0.0
    select: Select = "all"
    select_rows: int | None = None
    halves_by: Literal["length", "surprise"] = "length"
    long_half_weight: float = 1.0
    between_halves: float | Literal["accuracy", "error"] = 0.5
    difficulty_weight: bool = False

    def measure(self, batch: RolloutBatch) -> Tensor:
        """Return what stands beside rewards and verdicts, float [rows]: completion tokens, or what splits the groups."""
        return surprise(batch) if self.halves_by == "surprise" else batch.length.float()

    def __call__(
        self,
        rewards: Tensor,
        measure: Tensor,
        correct: Tensor,
        group_size: int | Sequence[int],
        rows_kept: Tensor | None = None,
    ) -> Tensor:
        """Return one advantage a row, [rows], from rewards, measures and verdicts [rows].

        ``group_size``: rows a group, or those of each, which only the plain baselines know. ``rows_kept``: rollouts selected
        of each group, [groups], instead of ``select_rows`` of each.
        """
        if not isinstance(group_size, int):
            return self._plain(rewards, measure, correct, group_size)
        count = rows_kept if rows_kept is not None else self.select_rows or group_size
        rewards = torch.where(selected(rewards, measure, group_size, self.select, count), rewards, torch.nan)
        if self.baseline == "halves":
            on: Literal["high", "low"] = "high" if self.halves_by == "length" else "low"
            result = halves(rewards, measure, group_size, self.long_half_weight, self._mu(rewards), on)
        else:
            result = self._plain(rewards, measure, correct, group_size)
        return difficulty_weight(result, correct, group_size) if self.difficulty_weight else result

    def _plain(self, rewards: Tensor, measure: Tensor, correct: Tensor, group_size: int | Sequence[int]) -> Tensor:
        assert self.baseline != "halves"
        return advantages(
            rewards,
            group_size,
            baseline=self.baseline,
            scale=self.scale,
            lengths=measure,
            correct=correct,
            correct_bonus=self.correct_bonus,
        )

    def _mu(self, rewards: Tensor) -> float:
        """Return the weight of the comparison between halves, for the rewards of this batch."""
        if isinstance(self.between_halves, float):
            return self.between_halves
        mean = float(rewards.nanmean().nan_to_num())
        return mean if self.between_halves == "accuracy" else 1 - mean


@dataclass(frozen=True)
class FilterRule:
    """Which groups are trained on, judged by which metric, and whether dropped ones are replaced by new rollouts."""

    keep: Keep = "all"
    metric: Literal["reward", "correct"] = "reward"
    refill: bool = False
    max_rounds: int = 10


@dataclass(frozen=True)
class Composition:
    """Everything a method varies. The defaults are plain GRPO, which changes nothing about stock TRL."""

    reward: Reward
    budget: BudgetPolicy
    filter: FilterRule = FilterRule()
    advantage: AdvantageRule = AdvantageRule()
    overlong: Literal["penalise", "mask", "keep"] = "keep"
    kl_type: Literal["k2", "k3"] = "k3"
    openings: tuple[Opening, ...] = ()
    summaries: SummaryRule | None = None
    variants: tuple[str, ...] = ()
    prices: Policy | None = None
    targets: Policy | None = None
    curriculum: Curriculum | None = None
    selection: QuartileCounts | None = None
    controller: Policy | None = None
    seed: int = 0

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The policies that have a state in the store."""
        all_of_them = (self.targets, self.prices, self.curriculum, self.selection, self.controller)
        return tuple(policy for policy in all_of_them if policy is not None)

    def known(self, store: Store, problem_ids: Sequence[str]) -> dict[str, Tensor]:
        """Return what rewards may know of each row beside its rollout, float [rows]."""
        told = [policy.known(store, problem_ids) for policy in self.policies]
        return dict(ChainMap(*told, facts(store, problem_ids)))

    def draw(
        self, store: Store, problem_ids: Sequence[str], count: int, round_index: int, parts: int = 1
    ) -> list[int] | None:
        """Return the numbers of the problems that the curriculum draws for a round of all ranks; None without one."""
        if self.curriculum is None:
            return None
        seed = sampling_seed(self.seed, "curriculum", store.generation, round_index)
        return self.curriculum.draw(store, problem_ids, count, seed, parts)

    def group_sizes(self, problem_ids: Sequence[str]) -> tuple[int, ...] | None:
        """Return the rows of each group where the curriculum makes them differ: rows of a problem are one group."""
        if not problem_ids or self.curriculum is None or not self.curriculum.sizes_differ:
            return None
        return tuple(len(list(rows)) for _, rows in groupby(problem_ids))

    def kept(self, batch: RolloutBatch, rewards: Tensor) -> Tensor:
        """Return which groups of a round are trained on (bool [groups])."""
        metric = rewards if self.filter.metric == "reward" else batch.correct
        return keep_groups(metric, batch.group_size, self.filter.keep)

    def advantages(
        self,
        rewards: Tensor,
        measure: Tensor,
        correct: Tensor,
        kept: Tensor,
        group_size: int,
        store: Store | None = None,
        group_sizes: Sequence[int] | None = None,
    ) -> Tensor:
        """Return advantages [rows] over the kept groups of the whole batch; rows of other groups get 0.

        ``group_sizes``: rows of each group where they differ, instead of ``group_size`` each; all are kept then.
        """
        if group_sizes is not None:
            return self.advantage(rewards, measure, correct, group_sizes)
        rows = kept.repeat_interleave(group_size)
        result = torch.zeros_like(rewards)
        if not rows.any():
            return result
        rewards, measure, correct = rewards[rows], measure[rows], correct[rows]
        rows_kept = None
        if self.selection is not None:
            state = self.selection.initial_state() if store is None else store.states[self.selection.name]
            rows_kept = self.selection.rows_kept(state, correct, group_size)
        result[rows] = self.advantage(rewards, measure, correct, group_size, rows_kept)
        return result

    def figures(self, batch: RolloutBatch) -> dict[str, Tensor]:
        """Return accuracy and completion tokens of each opening and of each variant of the prompts, nan for other rows."""
        parts: dict[str, list[bool]] = {}
        if self.openings:
            chosen = assign(self.openings, len(batch.problem_id), batch.group_size)
            parts |= {f"opening_{i}": [own is o for own in chosen] for i, o in enumerate(self.openings)}
        parts |= {name: [own == name for own in batch.columns["variant"]] for name in self.variants}
        figures = {}
        for name, rows in parts.items():
            figures[f"accuracy_{name}"] = torch.where(torch.tensor(rows), batch.correct, torch.nan)
            figures[f"tokens_{name}"] = torch.where(torch.tensor(rows), batch.length.float(), torch.nan)
        return figures

    def row_plan(
        self, budgets: Sequence[int], seeds: Sequence[int], group_size: int, problem_ids: Sequence[str] = ()
    ) -> RowPlan:
        """Return what a round of rollouts wants of each row, from the budgets (completion tokens) and seeds of the rows.

        ``problem_ids`` of the rows tell groups apart where their sizes differ.
        """
        stop_ids = () if self.summaries is None else (self.summaries.end_think_id,)
        if not self.openings:
            return RowPlan(tuple(budgets), tuple(seeds), stop_ids=stop_ids, group_sizes=self.group_sizes(problem_ids))
        openings = assign(self.openings, len(budgets), group_size)
        capped = tuple(opening.cap(budget) for opening, budget in zip(openings, budgets, strict=True))
        return RowPlan(capped, tuple(seeds), tuple(openings), stop_ids=stop_ids)

    def seeds(self, problem_ids: Sequence[str], step: int, round_index: int | str) -> tuple[int, ...]:
        """Return one sampling seed a row, fixed by (run seed, step, round, problem, how often it came before)."""
        seen: Counter[str] = Counter()
        seeds = []
        for problem_id in problem_ids:
            seeds.append(sampling_seed(self.seed, step, round_index, problem_id, seen[problem_id]))
            seen[problem_id] += 1
        return tuple(seeds)
