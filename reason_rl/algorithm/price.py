"""Prices: what a completion costs by the variant of its prompt, lowered where a variant loses accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reason_rl.algorithm.reward import Reward, Rows
from reason_rl.algorithm.store import Observed, Policy, State, Store
from reason_rl.errors import RecipeError
from reason_rl.problem.record import variant_of
from reason_rl.rollout.batch import RolloutBatch


def priced(max_tokens: int, free_tokens: int = 0) -> Reward:
    """Return the factor ``1 - price * max(0, min(length, max) - free) / max``, lengths in completion tokens.

    Reads what ``algorithm.prices`` tells of each row.

    Raises:
        RecipeError: when ``max_tokens`` is not above ``free_tokens``, or a row has no price.

    >>> from reason_rl.rollout.batch import example_batch
    >>> batch = example_batch([1] * 4, [1000, 2000, 4000, 9000], known={"price": [0.5] * 4})
    >>> priced(8000)(batch).tolist()
    [0.9375, 0.875, 0.75, 0.5]

    Source: our reading of TLDR (arXiv 2505.07961), whose abstract says length-regularised GRPO with short, medium and long
    traces and no more; the formula is our choice.
    """
    if not 0 <= free_tokens < max_tokens:
        raise RecipeError(f"tldr: max_tokens {max_tokens} is not above free_tokens {free_tokens}")

    def reward(batch: RolloutBatch) -> Rows:
        prices = batch.known.get("price")
        if prices is None or prices.isnan().any():
            raise RecipeError("tldr: a row has no price; set algorithm.prices for every variant of the prompt")
        paid = batch.length.float().clamp(max=max_tokens) - free_tokens
        return 1 - prices * paid.clamp(min=0) / max_tokens

    return reward


@dataclass(frozen=True)
class GuardedPrices(Policy):
    """A price a variant, which rises from 0 during the warm-up and falls while the variant's accuracy is too low.

    ``price = prices[variant] * share[variant] * min(1, generation / warmup)``. The running accuracy of a variant, over all
    rollouts (cut ones are wrong), is compared with what it was at the end of the warm-up: below it by more than
    ``accuracy_loss``, the share is multiplied by ``fall``, else by ``rise`` up to 1.

    Source: our choice throughout (TLDR, arXiv 2505.07961, publishes no schedule).
    """

    prices: Mapping[str, float]
    warmup_generations: int = 0
    accuracy_loss: float = 0.05
    smoothing: float = 0.9
    fall: float = 0.9
    rise: float = 1.02
    name = "prices"

    def initial_state(self) -> State:
        """Return full shares and no accuracies."""
        return {"generation": 0, "accuracy": {}, "start": {}, "share": dict.fromkeys(self.prices, 1.0)}

    def after_generation(self, state: State, groups: Sequence[Observed]) -> State:
        """Return the state with the accuracies of the generation and the shares that follow from them."""
        generation = state["generation"] + 1
        accuracy = {**state["accuracy"], **self._running(state["accuracy"], groups)}
        start = dict(state["start"])
        share = dict(state["share"])
        for variant, value in accuracy.items():
            if generation < self.warmup_generations:
                continue
            if variant not in start:
                start[variant] = value
            elif value < start[variant] - self.accuracy_loss:
                share[variant] *= self.fall
            else:
                share[variant] = min(1.0, share[variant] * self.rise)
        return {"generation": generation, "accuracy": accuracy, "start": start, "share": share}

    def known(self, store: Store, problem_ids: Sequence[str]) -> dict[str, Tensor]:
        """Return ``price``, float [rows]; nan for a variant without one."""
        state: Mapping[str, Any] = store.states[self.name]
        warm = min(1.0, state["generation"] / self.warmup_generations) if self.warmup_generations else 1.0
        now = {variant: price * state["share"][variant] * warm for variant, price in self.prices.items()}
        return {"price": torch.tensor([now.get(variant_of(name), torch.nan) for name in problem_ids])}

    def _running(self, before: Mapping[str, float], groups: Sequence[Observed]) -> dict[str, float]:
        """Return the running accuracy of each variant that was rolled out."""
        right: dict[str, float] = {}
        scored: dict[str, int] = {}
        for group in groups:
            variant = variant_of(group.problem_id)
            right[variant] = right.get(variant, 0) + group.right
            scored[variant] = scored.get(variant, 0) + group.scored
        new = {variant: right[variant] / count for variant, count in scored.items() if count and variant in self.prices}
        keep = self.smoothing
        return {v: keep * before[v] + (1 - keep) * value if v in before else value for v, value in new.items()}
