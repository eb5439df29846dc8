"""Turns sampled rows into a graded RolloutBatch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from reason_rl.answer.response import Find, answer_in
from reason_rl.answer.verify import Verifier
from reason_rl.rollout.backend import Sample
from reason_rl.rollout.batch import RolloutBatch

OWN_COLUMNS = frozenset({"prompt", "problem_id"})


@dataclass(frozen=True)
class Moment:
    """Where in the run a round of rollouts is: optimizer step, progress in [0, 1], version of the policy."""

    step: int
    progress: float
    policy_version: int


@dataclass(frozen=True)
class Grader:
    """Decodes, splits at the end-of-think token, finds the answer and verifies; ``end_think_id`` None = no thinking part.

    ``find``: where the answer stands, as in the recipe's ``answer.find``.
    """

    tokenizer: PreTrainedTokenizerBase
    verifier: Verifier
    end_think_id: int | None
    find: Find = "box"

    def think_length(self, completion_ids: Sequence[int]) -> int:
        """Return the think tokens: up to and including the first end-of-think token, or all when it never came."""
        if self.end_think_id is not None and self.end_think_id in completion_ids:
            return list(completion_ids).index(self.end_think_id) + 1
        return len(completion_ids)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of one row of token ids."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def text(self, sample: Sample) -> str:
        """Return a completion with the special tokens in it, but without the end token of one that finished."""
        ids = sample.token_ids
        # Tags of thinking may be special tokens too, so that not all of these can be left out.
        ended = sample.finish_reason != "length" and ids and ids[-1] != self.end_think_id
        return self.decode(ids[:-1] if ended and not self.decode(ids[-1:], skip_special_tokens=True) else ids)

    def answer_text(self, completion_ids: Sequence[int], *, closed: bool = False) -> str | None:
        """Return the text after thinking; None when the model should close its thinking and did not.

        ``closed``: the prompt has closed it already, and closing it again is an error.
        """
        if closed:
            return (
                None if self.end_think_id in completion_ids else self.decode(completion_ids, skip_special_tokens=True)
            )
        if self.end_think_id is None:
            return self.decode(completion_ids, skip_special_tokens=True)
        if self.end_think_id not in completion_ids:
            return None
        after = list(completion_ids)[self.think_length(completion_ids) :]
        return self.decode(after, skip_special_tokens=True)

    def extracted(self, completion_ids: Sequence[int], *, closed: bool = False) -> str | None:
        """Return the answer given after thinking."""
        text = self.answer_text(completion_ids, closed=closed)
        return None if text is None else answer_in(text, self.find)

    def grade(
        self,
        rows: Sequence[Mapping[str, Any]],
        prompt_ids: Sequence[Sequence[int]],
        samples: Sequence[Sample],
        budgets: Sequence[int],
        moment: Moment,
        group_size: int,
        *,
        closed: bool = False,
    ) -> RolloutBatch:
        """Build the batch of one round; rows without an answer stay unscored (nan), and a rollout that was cut is wrong.

        ``closed``: the prompts close the thinking, so the completions are answers and have no think tokens. Where a short
        answer ends is not what it is judged by: it may be cut (AnytimeReasoner, arXiv 2505.13438, judges its text).
        """
        completions = [sample.token_ids for sample in samples]
        answers = [row.get("answer") for row in rows]
        given = [self.extracted(ids, closed=closed) for ids in completions]
        verdicts = self.verifier.verify(given, [a or "" for a in answers])
        written = torch.tensor(
            [float("nan") if a is None else float(v) for a, v in zip(answers, verdicts, strict=True)]
        )
        cut = torch.tensor([sample.finish_reason == "length" and not closed for sample in samples])
        return RolloutBatch(
            group_size=group_size,
            problem_id=tuple(row["problem_id"] for row in rows),
            prompt_ids=tuple(tuple(ids) for ids in prompt_ids),
            completion_ids=tuple(tuple(ids) for ids in completions),
            text=tuple(self.text(sample) for sample in samples),
            length=torch.tensor([len(ids) for ids in completions]),
            think_length=torch.tensor([0 if closed else self.think_length(ids) for ids in completions]),
            finish_reason=tuple(sample.finish_reason for sample in samples),
            budget=torch.tensor(list(budgets)),
            correct=torch.where(cut, written * 0, written),
            written=written,
            sampling_logps=tuple(tuple(sample.logps) for sample in samples),
            forced=tuple(sample.forced for sample in samples) if any(sample.forced for sample in samples) else None,
            columns={key: tuple(row[key] for row in rows) for key in rows[0] if key not in OWN_COLUMNS},
            step=moment.step,
            progress=moment.progress,
            policy_version=moment.policy_version,
        )
