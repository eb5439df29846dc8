"""The thinking phase of a row: which tokens open and close it, and how far along a row is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from jaxtyping import Bool, Int
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class ThinkTokens:
    """The ids that matter to stopping.

    Args:
        end: closes thinking.
        start: opens it; None when thinking is open from the first token on.
        eos: ids that end a completion.
    """

    end: int
    start: int | None
    eos: tuple[int, ...]

    def opened_by(self, prompt_ids: Sequence[int]) -> bool:
        """Tell whether a prompt leaves thinking open: its last start token comes after its last end token.

        >>> tokens = ThinkTokens(end=6, start=5, eos=(1,))
        >>> tokens.opened_by([3, 9, 5]), tokens.opened_by([3, 5, 9, 6]), tokens.opened_by([3, 9])
        (True, False, False)
        """
        if self.start is None:
            return True
        for token in reversed(prompt_ids):
            if token in (self.start, self.end):
                return token == self.start
        return False


class Phase(NamedTuple):
    """Whether each row is thinking, and how many think tokens it has written."""

    thinking: Bool[Tensor, " rows"]
    think_tokens: Int[Tensor, " rows"]


def phase(generated: Int[Tensor, "rows tokens"], opened: Bool[Tensor, " rows"], tokens: ThinkTokens) -> Phase:
    """Return the phase of each row, from its tokens alone.

    Thinking opens once (at the prompt's end, or after the first start token) and closes for good at the first end token:
    a start token written again neither re-opens it nor resets the count.

    Args:
        generated: ids after the prompt.
        opened: whether the prompt left thinking open.
        tokens: the ids that open and close thinking.

    >>> import torch
    >>> ids = torch.tensor([[5, 9, 9, 5, 9], [9, 9, 6, 5, 9]])
    >>> phase(ids, torch.tensor([False, True]), ThinkTokens(end=6, start=5, eos=(1,)))
    Phase(thinking=tensor([ True, False]), think_tokens=tensor([4, 3]))
    """
    starts = generated == tokens.start if tokens.start is not None else generated.new_zeros(generated.shape).bool()
    # Inside from the token after the start on, or from the first token when the prompt opened thinking.
    begun = opened[:, None] | (starts.cumsum(dim=1) - starts.long() > 0)
    ends = (generated == tokens.end) & begun
    inside = begun & (ends.cumsum(dim=1) - ends.long() == 0)
    thinking = (opened | starts.any(dim=1)) & ~ends.any(dim=1)
    return Phase(thinking, inside.sum(dim=1))


def think_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end: str | None = "</think>", start: str = "<think>"
) -> ThinkTokens:
    """Return the ids of a model's thinking tokens, looked up by name.

    Raises:
        RecipeError: for a model without thinking, or whose end-of-think marker is not one token.
    """
    from reason_rl.errors import RecipeError
    from reason_rl.models import end_think_id, eos_ids

    end_id = end_think_id(tokenizer, end)
    if end_id is None:
        raise RecipeError("model.end_think_token: stopping needs a model that closes its thinking with a token")
    return ThinkTokens(end_id, tokenizer.get_vocab().get(start), tuple(eos_ids(model, tokenizer)))


def whole_completion(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> ThinkTokens:
    """Return the ids for a model that does not think: all of a completion counts as thinking, and its end closes it.

    Where several ids end a completion, the first of the model's generation config is the one that a scaled stop scales.
    """
    from reason_rl.models import eos_ids

    configured = model.generation_config.eos_token_id if model.generation_config else None
    first = configured[0] if isinstance(configured, list) else configured
    end = tokenizer.eos_token_id if first is None else first
    return ThinkTokens(int(end), None, tuple(eos_ids(model, tokenizer)))
