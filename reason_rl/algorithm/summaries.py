"""Summaries: short answers sampled after a thinking trace was cut at a budget, as rows of their own in the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reason_rl.algorithm.anytime import (
    Prior,
    Variance,
    prior_weights,
    segment_advantages,
    spread_over_tokens,
    summary_advantages,
)
from reason_rl.rollout.batch import RolloutBatch


@dataclass(frozen=True)
class Context:
    """What one summary goes on from: the trace's row, the token ids, and whether a finished trace is used whole."""

    row: int
    token_ids: tuple[int, ...]
    whole: bool


@dataclass(frozen=True)
class Credit:
    """Advantages a token of the traces and a row of the summaries, and the accuracy of each trace at each budget."""

    traces: Float[Tensor, "rows tokens"]
    summaries: Float[Tensor, " summaries"]
    accuracy: Float[Tensor, "rows m"]


@dataclass(frozen=True)
class SummaryRule:
    """At which budgets traces are cut and how the summaries written there are credited.

    Args:
        budgets: think tokens after which a trace is cut, growing; the last one is the budget of the traces.
        cut_ids: tokens put after a cut trace; they end in the end-of-think token.
        answer_ids: tokens put before every summary.
        end_think_id: the token that ends a trace.
        samples: summaries of each trace and budget.
        tokens: completion tokens of a summary.
        prior, decay, variance: of the traces' advantages, see ``algorithm.anytime.segment_advantages``.
        train: train the summaries of all budgets, or of the last one alone.
    """

    budgets: tuple[int, ...]
    cut_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    end_think_id: int
    samples: int = 4
    tokens: int = 128
    prior: Prior = "uniform"
    decay: float = 0.5
    variance: Variance = "brpo"
    train: Literal["all", "last"] = "all"

    def __post_init__(self) -> None:
        prior_weights(self.prior, self.budgets)

    @property
    def further_tokens(self) -> int:
        """Tokens that a sequence may have beyond its prompt and a whole trace.

        >>> SummaryRule((8, 16), cut_ids=(6,), answer_ids=(7, 9), end_think_id=6, tokens=20).further_tokens
        23
        """
        return len(self.cut_ids) + len(self.answer_ids) + self.tokens

    def contexts(self, traces: RolloutBatch) -> list[Context]:
        """Return what each summary goes on from, traces x budgets x samples of them in this order.

        A trace longer than the budget, or one that was cut at the last budget, is cut and closed; a finished one is used
        whole. Token ids are put together, text is never tokenised again.

        Source: AnytimeReasoner (arXiv 2505.13438) and its released code.
        """
        contexts = []
        for row, (prompt, trace) in enumerate(zip(traces.prompt_ids, traces.completion_ids, strict=True)):
            for budget in self.budgets:
                whole = len(trace) <= budget and traces.finish_reason[row] != "length"
                end = () if whole else self.cut_ids
                ids = (*prompt, *trace[:budget], *end, *self.answer_ids)
                contexts += [Context(row, ids, whole)] * self.samples
        return contexts

    def credit(self, traces: RolloutBatch, contexts: list[Context], right: Float[Tensor, " summaries"]) -> Credit:
        """Return the advantages that right (1) and wrong (0) summaries give to traces and to themselves.

        A trace that ended without closing its thinking earns nothing where it is used whole.

        Source: AnytimeReasoner (arXiv 2505.13438) eq. 6-9 and section 2.3.
        """
        shape = (traces.groups, traces.group_size, len(self.budgets), self.samples)
        unclosed = [self.end_think_id not in ids for ids in traces.completion_ids]
        lost = torch.tensor([context.whole and unclosed[context.row] for context in contexts])
        earned = torch.where(lost, 0.0, right.nan_to_num()).view(shape)
        accuracy = earned.mean(dim=-1)
        segments = segment_advantages(accuracy, self.budgets, self.prior, self.decay, self.variance)
        width = int(traces.length.max())
        by_token = spread_over_tokens(segments.flatten(0, 1), traces.length, self.budgets, width)
        own = summary_advantages(earned, _numbers(contexts)[:: self.samples].view(shape[:-1]))
        if self.train == "last":
            own[:, :, :-1] = 0.0
        return Credit(by_token, own.flatten(), accuracy.flatten(0, 1))


def _numbers(contexts: list[Context]) -> Int[Tensor, " summaries"]:
    """Return a number a context, the same where one trace is gone on from at the same place."""
    places: dict[tuple[int, tuple[int, ...]], int] = {}
    return torch.tensor([places.setdefault((c.row, c.token_ids), len(places)) for c in contexts])
