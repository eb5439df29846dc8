"""Scaled stopping as a logits processor of vLLM's model runner V2, the default on GPUs; not run on one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcessor

from reason_rl.stopping.thinking import Phase, ThinkTokens
from reason_rl.stopping.vllm_strength import StopRequest, edit_rows, from_arguments


def phase_of_history(history: Tensor, prompt_tokens: Tensor, written: Tensor, tokens: ThinkTokens) -> Phase:
    """Return the phase of each row from its whole history, prompt included.

    Args:
        history: token ids [rows, places]; what lies beyond ``written`` is of no meaning.
        prompt_tokens: of each row.
        written: places of each row that hold a token, the prompt's included.
        tokens: the ids that open and close thinking.

    >>> ids = torch.tensor([[9, 5, 9, 9, 5], [5, 6, 9, 5, 9], [9, 5, 9, 6, 9]])
    >>> phase_of_history(ids, torch.tensor([2, 2, 2]), torch.tensor([4, 5, 5]), ThinkTokens(end=6, start=5, eos=(1,)))
    Phase(thinking=tensor([ True,  True, False]), think_tokens=tensor([2, 1, 2]))
    """
    place = torch.arange(history.shape[1], device=history.device)[None]
    in_prompt = place < prompt_tokens[:, None]
    generated = ~in_prompt & (place < written[:, None])
    if tokens.start is None:
        starts = torch.zeros_like(generated)
        opened = torch.ones_like(generated[:, 0])
    else:
        starts = history == tokens.start
        last = [torch.where(in_prompt & which, place, -1).amax(dim=1) for which in (starts, history == tokens.end)]
        opened, starts = last[0] > last[1], starts & generated
    # Inside from the token after the start on, or from the first one where the prompt opened thinking.
    begun = generated & (opened[:, None] | (starts.cumsum(dim=1) - starts.long() > 0))
    ends = begun & (history == tokens.end)
    inside = begun & (ends.cumsum(dim=1) - ends.long() == 0)
    thinking = (opened | starts.any(dim=1)) & ~ends.any(dim=1)
    return Phase(thinking, inside.sum(dim=1))


class ScaledStop(LogitsProcessor):
    """Scales the stop token of the requests that ask for it, each with its own strength.

    The phase is read off the tokens on the device at every step, so a request that was interrupted goes on as it was, and a
    slot that is used again remembers nothing.
    """

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        if vllm_config.speculative_config is not None:
            raise ValueError("scaled stopping does not go with speculative decoding")
        self.states = req_states
        self.asked: dict[int, StopRequest] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise ValueError for stop arguments that cannot be."""
        from_arguments(sampling_params.extra_args)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Take over what the request in a slot asks for, and say whether that is anything."""
        self.asked.pop(req_idx, None)
        asked = from_arguments(sampling_params.extra_args)
        if asked is not None:
            self.asked[req_idx] = asked
        return asked is not None

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        """Edit the logits [rows, vocabulary] in place."""
        slots = ctx.idx_mapping_np.tolist()
        rows = [row for row, slot in enumerate(slots) if slot in self.asked]
        if not rows:
            return logits
        if len(slots) != len(logits):
            raise RuntimeError(f"scaled stopping got {len(logits)} rows of {len(slots)} requests")
        for tokens in {self.asked[slots[row]].tokens for row in rows}:
            self._edit(logits, ctx, [row for row in rows if self.asked[slots[row]].tokens == tokens], tokens)
        return logits

    def _edit(self, logits: Tensor, ctx: LogitsContext, rows: list[int], tokens: ThinkTokens) -> None:
        index = torch.tensor(rows, device=logits.device)
        slots = ctx.idx_mapping[index].long()
        width = int(ctx.seq_lens_upper_bound_np.max())
        history, prompt_tokens = self.states.all_token_ids.gpu[slots, :width], self.states.prompt_len.gpu[slots]
        where = phase_of_history(history, prompt_tokens, ctx.pos[index] + 1, tokens)
        edit_rows(logits, rows, [self.asked[int(ctx.idx_mapping_np[row])] for row in rows], where)
