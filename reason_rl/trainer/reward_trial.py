"""Tries a reward on a few made-up rollouts before anything expensive starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reason_rl.algorithm.store import Reference, start_store
from reason_rl.answer.compare import Verdict
from reason_rl.answer.verify import Verifier
from reason_rl.errors import RecipeError, RunError
from reason_rl.models import end_think_id
from reason_rl.problem.prompt import to_dataset
from reason_rl.rollout.backend import Sample
from reason_rl.rollout.batch import RolloutBatch
from reason_rl.rollout.grading import Grader, Moment
from reason_rl.trainer.reference import by_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from reason_rl.problem.record import Problem
    from reason_rl.recipe.schema import Recipe
    from reason_rl.trainer.composition import Composition

GROUPS = 2
KINDS = 4  # of rollouts: short right, long right, wrong, cut
THOUGHT = "so 1 + 1 = 2 . "
SHARES = ("pass_rate",)  # the other facts that a store gains are completion tokens


class EveryOther(Verifier):
    """Calls the first half of each four rollouts right, whatever they say."""

    def judge(self, extracted: Sequence[str | None], gold: Sequence[str]) -> list[Verdict]:
        """Return one verdict a rollout."""
        return [Verdict(row % KINDS < KINDS // 2, "made up") for row in range(len(extracted))]


def try_reward(
    method: Composition, recipe: Recipe, problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Call the reward on made-up rollouts of the first problems: right and wrong, short, long and cut.

    Once with what the store knows at the start of the run, once with all that it may know later.

    Raises:
        RecipeError: when the reward fails, or returns no numbers that could be learned from.
    """
    batch = trial_batch(method, recipe, problems, tokenizer)
    later = {name: _filled(name, values, batch) for name, values in batch.known.items()}
    for known in (batch.known, later):
        try:
            values = method.reward(replace(batch, known=known))
        except RunError as error:
            raise RecipeError(f"{error} (tried on {len(batch.problem_id)} made-up rollouts)") from error
        if values.isnan().all():
            raise RecipeError(f"{recipe.reward_file()}: the reward of all rows is nan; do the problems have answers?")


def trial_batch(
    method: Composition, recipe: Recipe, problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase
) -> RolloutBatch:
    """Return two groups of rollouts that nobody sampled, graded as in training, with the recipe's columns and facts."""
    group_size = int(recipe.trainer.get("num_generations", 8))
    dataset = to_dataset(problems[:GROUPS], recipe.prompt)
    rows = [dataset[group % len(dataset)] for group in range(GROUPS) for _ in range(group_size)]
    budget, end = method.budget.largest(), recipe.model.end_think_token
    samples = [_sample(row, budget, end or "", tokenizer) for row in range(len(rows))]
    grader = Grader(tokenizer, EveryOther(), end_think_id(tokenizer, end), recipe.answer.find)
    prompts = [tokenizer("1 + 1", add_special_tokens=False)["input_ids"]] * len(rows)
    batch = grader.grade(rows, prompts, samples, [budget] * len(rows), Moment(0, 0.0, 0), group_size)
    references = {problem.id: Reference(2, 1, budget / 2) for problem in problems[:GROUPS] if _compares(recipe)}
    store = start_store(method.policies, by_prompt(references, problems[:GROUPS], recipe.prompt))
    sizes = (group_size,) * GROUPS if method.curriculum is not None and method.curriculum.sizes_differ else None
    return replace(batch, known=method.known(store, batch.problem_id), group_sizes=sizes)


def _sample(row: int, budget: int, end_think: str, tokenizer: PreTrainedTokenizerBase) -> Sample:
    """Return a rollout of one of the four kinds."""
    kind = row % KINDS
    thought = THOUGHT * (1 + kind)
    cut = kind == KINDS - 1
    text = thought if cut else f"{thought}{end_think} \\boxed{{ 2 }}"
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])[:budget]
    return Sample(ids, (-1.0,) * len(ids), "length" if cut else "stop")


def _compares(recipe: Recipe) -> bool:
    """Tell whether training begins with what another model reached on each problem."""
    return recipe.difficulty is not None or (recipe.algorithm is not None and recipe.algorithm.reference is not None)


def _filled(name: str, values: Tensor, batch: RolloutBatch) -> Tensor:
    """Return a fact as it may be once each problem was seen; what a reference lacks, it lacks for good."""
    if name.startswith("reference_"):
        return values
    return torch.where(values.isnan(), 0.5 if name in SHARES else batch.budget / 2, values)
