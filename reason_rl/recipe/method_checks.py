"""Checks of openings, summaries, and prices against the rest of the recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator

from reason_rl.recipe.method_specs import SummariesSpec
from reason_rl.recipe.policies import CuresCurriculumSpec, FixedBudgetSpec
from reason_rl.recipe.schema import AlgorithmSection, Recipe

Complaint = tuple[tuple[str, ...], str]

PLAIN = "plain"
TOKEN_ADVANTAGE_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo")
GROUPS_FOR_A_BATCH_SCALE = 8  # our choice: with one group, the batch's deviation is the group's


def check_methods(recipe: Recipe, group_size: int) -> Iterator[Complaint]:
    """Yield (key path, message) for everything that would fail, or silently mean something else, later."""
    algorithm = recipe.algorithm
    assert algorithm is not None
    if algorithm.openings:
        yield from _openings(recipe, algorithm, group_size)
    if algorithm.summaries is not None:
        yield from _summaries(recipe, algorithm, algorithm.summaries)
    if algorithm.reference is not None and recipe.difficulty is not None:
        yield ("algorithm", "reference"), "measures what difficulty.table holds already; name one of the two"
    if isinstance(algorithm.curriculum, CuresCurriculumSpec) and algorithm.curriculum.problems is not None:
        yield from _differing_groups(algorithm)
    yield from _variants(recipe, algorithm)


def _differing_groups(algorithm: AlgorithmSection) -> Iterator[Complaint]:
    """Yield what cannot be done where problems have different numbers of rollouts."""
    rule = algorithm.advantage
    if rule.baseline == "halves" or rule.select != "all" or rule.difficulty_weight:
        yield ("algorithm", "advantage"), "with halves, select or difficulty_weight needs groups of one size"
    if algorithm.filter.keep != "all":
        yield ("algorithm", "filter", "keep"), f"{algorithm.filter.keep} needs groups of one size; use all"
    if algorithm.openings or algorithm.summaries is not None:
        yield (
            ("algorithm", "curriculum", "problems"),
            "is not for openings and summaries, which share out groups of one size",
        )


def _openings(recipe: Recipe, algorithm: AlgorithmSection, group_size: int) -> Iterator[Complaint]:
    key = ("algorithm", "openings")
    shares = [opening.share for opening in algorithm.openings]
    if not math.isclose(sum(shares), 1.0):
        yield key, f"the shares add up to {sum(shares):g}, not to 1"
    elif min(round(share * group_size) for share in shares) < 1:
        yield key, f"a group of {group_size} rollouts is too small for the share {min(shares):g}"
    if recipe.rollout.importance_correction == "none":
        yield (
            ("rollout", "importance_correction"),
            "none computes no old probabilities, which openings replace by their shares; use token_truncate",
        )


def _summaries(recipe: Recipe, algorithm: AlgorithmSection, spec: SummariesSpec) -> Iterator[Complaint]:
    key = ("algorithm", "summaries")
    if spec.budgets != sorted(set(spec.budgets)) or spec.budgets[0] <= 0:
        yield (*key, "budgets"), f"{spec.budgets} do not grow from above 0"
    budget = algorithm.budget
    if not isinstance(budget, FixedBudgetSpec):
        yield (
            ("algorithm", "budget", "use"),
            f"{budget.use} is not for summaries, whose traces share one budget; use fixed",
        )
    elif budget.tokens != spec.budgets[-1]:
        yield (
            ("algorithm", "budget", "tokens"),
            f"is {budget.tokens}, but summaries end at {spec.budgets[-1]} think tokens",
        )
    if algorithm.targets is not None:
        yield (
            ("algorithm", "targets"),
            "are not for summaries: their probes end at the end-of-think token, without an answer",
        )
    if isinstance(algorithm.curriculum, CuresCurriculumSpec) and algorithm.curriculum.probe_rollouts:
        yield (
            ("algorithm", "curriculum", "probe_rollouts"),
            "is not for summaries, as a probe ends at the end-of-think token, without an answer; use 0",
        )
    if recipe.model.end_think_token is None:
        yield ("model", "end_think_token"), "is null; summaries need a model that thinks"
    if algorithm.openings:
        yield ("algorithm", "openings"), "are not for summaries"
    if algorithm.filter.keep != "all":
        yield ("algorithm", "filter", "keep"), f"{algorithm.filter.keep} is not for summaries; use all"
    if algorithm.overlong == "mask":
        yield ("algorithm", "overlong"), "mask would take the traces out that were cut at the last budget; use keep"
    loss = recipe.trainer.get("loss_type", "dapo")
    if loss not in TOKEN_ADVANTAGE_LOSSES:
        yield ("trainer", "loss_type"), f"{loss} has one advantage a row, summaries give one a token; use dr_grpo"
    if recipe.trainer.get("importance_sampling_level", "token") != "token":
        yield ("trainer", "importance_sampling_level"), "summaries give one advantage a token; use token"


def _variants(recipe: Recipe, algorithm: AlgorithmSection) -> Iterator[Complaint]:
    prompt = recipe.prompt
    asked = {*prompt.variants, *([PLAIN] if prompt.plain_share > 0 or not prompt.variants else [])}
    if PLAIN in prompt.variants:
        yield ("prompt", "variants"), f"{PLAIN} is the name of the prompt without any of them"
    if prompt.ask is not None and prompt.ask not in prompt.variants:
        yield (
            ("prompt", "ask"),
            f"{prompt.ask} is none of the variants {', '.join(prompt.variants) or '(there are none)'}",
        )
    if algorithm.prices is None:
        return
    priced = set(algorithm.prices.prices)
    if asked - priced:
        yield ("algorithm", "prices", "prices"), f"lack the variants {', '.join(sorted(asked - priced))}"
    if priced - asked:
        yield ("algorithm", "prices", "prices"), f"name what prompt.variants lacks: {', '.join(sorted(priced - asked))}"


def check_scale(recipe: Recipe, groups: int, reward_name: str) -> Iterator[Complaint]:
    """Yield what is wrong with the scale for a reward whose factors the group's standard deviation cancels.

    Where all answers of a group are right, ``(r - mean) / std`` does not change with the price of a token, so every level
    would be pushed equally hard.

    Args:
        groups: groups of a rollout batch on one process.
        reward_name: name of the reward's file.
    """
    assert recipe.algorithm is not None
    rule, key = recipe.algorithm.advantage, ("algorithm", "advantage", "scale")
    if rule.scale.startswith("group_std"):
        yield (
            key,
            f"{rule.scale} cancels the prices of {reward_name} in groups that are all right, so that all levels are "
            "shortened alike; use batch_std_rewards, batch_seq or none",
        )
    elif rule.scale.startswith("batch_") and groups < GROUPS_FOR_A_BATCH_SCALE:
        yield (
            key,
            f"{rule.scale} over {groups} groups is nearly the deviation of one group, which cancels the prices of "
            f"{reward_name}; roll out at least {GROUPS_FOR_A_BATCH_SCALE} groups a process, or use none",
        )
    if len(set(recipe.algorithm.prices.prices.values()) if recipe.algorithm.prices else ()) < 2:
        yield ("algorithm", "prices"), f"{reward_name} needs at least two levels with different prices"
