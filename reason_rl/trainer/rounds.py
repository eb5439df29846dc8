"""Pure functions on the dictionaries that TRL's generation step returns: take rows, join rounds, fill up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEFT_PADDED = frozenset({"prompt_ids", "prompt_mask"})
TRAINED = "tool_mask"  # TRL's name for "1 = token of the policy that enters the loss"

Output = dict[str, Tensor]


def take_rows(output: Output, rows: Tensor) -> Output:
    """Return the given rows of every per-row tensor; 0-dim tensors are left as they are."""
    return {key: value if value.ndim == 0 else value[rows.to(value.device)] for key, value in output.items()}


def _pad_to(value: Tensor, width: int, key: str, pad_token_id: int) -> Tensor:
    missing = width - value.shape[1]
    if missing == 0:
        return value
    filler = pad_token_id if key.endswith("_ids") else 0
    sides = (missing, 0) if key in LEFT_PADDED else (0, missing)
    return torch.nn.functional.pad(value, sides, value=filler)


def join(outputs: list[Output], pad_token_id: int) -> Output:
    """Concatenate the outputs of several rounds, prompts padded left and completions right to a common width.

    Sequence-level importance ratios have one column and are not padded. 0-dim tensors keep the first round's value.
    """
    joined = {}
    for key, first in outputs[0].items():
        values = [output[key] for output in outputs]
        if first.ndim == 2:
            width = max(value.shape[1] for value in values)
            values = [_pad_to(value, width, key, pad_token_id) for value in values]
        joined[key] = first if first.ndim == 0 else torch.cat(values)
    return joined


def exclude_from_loss(output: Output, excluded: Tensor) -> Output:
    """Return the output with the marked rows (bool [rows]) taken out of the loss, but left in attention."""
    trained = output.get(TRAINED, torch.ones_like(output["completion_mask"]))
    return {**output, TRAINED: trained * (~excluded).to(trained)[:, None]}


def padded_logps(logps: Sequence[Sequence[float]], width: int) -> Tensor:
    """Return log-probabilities a token as a tensor [rows, width], padded right with 0.

    >>> padded_logps([[-0.5], [-1.0, -2.0]], 2).tolist()
    [[-0.5, 0.0], [-1.0, -2.0]]
    """
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in logps])


def with_openings(output: Output, forced: Tensor, logps: Tensor, trained: Tensor) -> Output:
    """Return the output with what its rows begin with told apart from what was sampled.

    Old log-probabilities of an opening are those of the choice of it; an opening that is not trained leaves the loss.

    Args:
        forced: tokens of each row's opening, [rows].
        logps: log-probabilities of the choice at those places, [rows, width], width up to that of the completions.
        trained: which rows' openings are trained, bool [rows].

    Raises:
        ValueError: when the output has no old log-probabilities to replace.
    """
    if "old_per_token_logps" not in output:
        raise ValueError("openings need old log-probabilities; set rollout.importance_correction")
    mask = output["completion_mask"]
    forced, logps, trained = forced.to(mask.device), logps.to(mask.device), trained.to(mask.device)
    place = torch.arange(mask.shape[1], device=mask.device) < forced[:, None]
    given = torch.nn.functional.pad(logps, (0, mask.shape[1] - logps.shape[1]))
    result = dict(output)
    for key in ("old_per_token_logps", "sampling_per_token_logps"):
        result[key] = torch.where(place, given, output[key])
    if not trained.all():
        left = output.get(TRAINED, torch.ones_like(mask))
        result[TRAINED] = left * (~place | trained[:, None]).to(left)
    return result


def append(output: Output, further: Output, pad_token_id: int) -> Output:
    """Return the rows of both; advantages are given a row or a token, and become one a token."""
    return join([_by_token(output), _by_token(further)], pad_token_id)


def _by_token(output: Output) -> Output:
    values = output["advantages"]
    width = output["completion_ids"].shape[1]
    spread = values[:, None].expand(-1, width) if values.ndim == 1 else _pad_to(values, width, "advantages", 0)
    return {**output, "advantages": spread}


def trained_tokens(output: Output) -> Tensor:
    """Return the number of completion tokens of these rows that enter the loss."""
    mask = output["completion_mask"]
    return (mask * output[TRAINED] if TRAINED in output else mask).sum()
