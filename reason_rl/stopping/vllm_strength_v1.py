"""Scaled stopping as a logits processor of vLLM's model runner V1, the one that CPUs use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, process_dict_updates

from reason_rl.stopping.thinking import Phase
from reason_rl.stopping.vllm_strength import StopRequest, edit_rows, from_arguments


@dataclass
class Row:
    """A request under way; ``output_ids`` is vLLM's own list, which grows, ``read`` is how far it was looked at."""

    asked: StopRequest
    output_ids: Sequence[int]
    thinking: bool
    closed: bool = False
    think_tokens: int = 0
    read: int = 0

    def catch_up(self) -> None:
        """Move the phase on by what was written since the last step.

        Raises:
            RuntimeError: when vLLM has not filled in a token yet.
        """
        tokens = self.asked.tokens
        for token in self.output_ids[self.read :]:
            if token < 0:
                raise RuntimeError("vLLM did not say which token was written; scaled stopping cannot go on")
            if self.thinking:
                self.think_tokens += 1
                if token == tokens.end:
                    self.thinking, self.closed = False, True
            elif not self.closed and token == tokens.start:
                self.thinking = True
        self.read = len(self.output_ids)


class ScaledStop(LogitsProcessor):
    """Scales the stop token of the requests that ask for it, each with its own strength.

    Pass it as ``LLM(logits_processors=[ScaledStop])`` or ``vllm serve --logits-processors``; a request asks with the
    arguments of :func:`reason_rl.stopping.vllm_strength.to_arguments`. vLLM refuses it beside speculative decoding.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.rows: dict[int, Row] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise ValueError for stop arguments that cannot be."""
        from_arguments(sampling_params.extra_args)

    def is_argmax_invariant(self) -> bool:
        """Greedy choices change too."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests as they come, go and change places."""
        process_dict_updates(self.rows, batch_update, self._row)

    def _row(self, params: SamplingParams, prompt_ids: list[int] | None, output_ids: list[int]) -> Row | None:
        asked = from_arguments(params.extra_args)
        if asked is None:
            return None
        if prompt_ids is None:
            raise ValueError("scaled stopping needs the prompt as token ids")
        return Row(asked, output_ids, asked.tokens.opened_by(prompt_ids))

    def apply(self, logits: Tensor) -> Tensor:
        """Edit the logits [rows, vocabulary] in place."""
        for row in self.rows.values():
            row.catch_up()
        rows = {place: row for place, row in self.rows.items() if row.thinking}
        if rows:
            counts = torch.tensor([row.think_tokens for row in rows.values()], device=logits.device)
            where = Phase(torch.ones_like(counts, dtype=torch.bool), counts)
            edit_rows(logits, list(rows), [row.asked for row in rows.values()], where)
        return logits
