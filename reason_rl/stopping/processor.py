"""Scaled stopping inside ``model.generate``: a logits processor, run before sampling temperature, top-k and top-p."""

from __future__ import annotations

import torch
from transformers import LogitsProcessor

from reason_rl.stopping.temperature import StopOptions, TemperatureStop, row_strengths, scale_stop
from reason_rl.stopping.thinking import ThinkTokens, phase


class TemperatureStopProcessor(LogitsProcessor):
    """Scales the stop token while a row thinks; the phase is read off the ids, so nothing is kept between steps.

    Pass it as ``model.generate(..., logits_processor=[processor])``. The phase travels with beams and returned sequences.

    Args:
        strength: one for all prompts, or one each; above 1 stops earlier, below 1 later.
        tokens: the ids that open and close thinking.
        prompt_ids: the left-padded prompts that ``generate`` is given, [prompts, tokens].
        options: mode, gate and limits.

    Raises:
        ValueError: for a strength that is not above 0, or not one a prompt.
    """

    def __init__(
        self,
        strength: float | tuple[float, ...],
        tokens: ThinkTokens,
        prompt_ids: torch.LongTensor,
        options: StopOptions | None = None,
    ) -> None:
        if isinstance(strength, tuple) and len(strength) != len(prompt_ids):
            raise ValueError(f"{len(strength)} strengths for {len(prompt_ids)} prompts")
        edit = TemperatureStop(strength, tokens, options or StopOptions())
        self.strength, self.tokens, self.options = edit.strength, edit.tokens, edit.options
        self.prompt_tokens = prompt_ids.shape[1]
        self.opened = torch.tensor([tokens.opened_by(row) for row in prompt_ids.tolist()])

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Return the edited scores [rows, vocabulary]; rows are prompts, each repeated for its beams or samples."""
        copies = len(input_ids) // len(self.opened)
        request = torch.arange(len(self.opened), device=scores.device).repeat_interleave(copies)
        where = phase(input_ids[:, self.prompt_tokens :], self.opened.to(scores.device)[request], self.tokens)
        strength = row_strengths(self.strength, request, scores)
        return scale_stop(scores, strength, where, self.tokens, self.options)  # type: ignore[return-value]
