"""Openings: the first completion tokens of a row, put there instead of sampled, and the chance with which they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reason_rl.errors import RecipeError


@dataclass(frozen=True)
class Opening:
    """Tokens that a row begins with.

    Args:
        token_ids: the tokens, which count as completion tokens; none = the row is sampled as it comes.
        share: which share of a group's rows gets this opening, in (0, 1); it is the probability of the choice.
        budget_tokens: completion tokens of such a row at most, the opening included; None = the row's own budget.
        trained: whether the tokens enter the loss. If so, their old log-probability is that of the choice.
    """

    token_ids: tuple[int, ...]
    share: float
    budget_tokens: int | None = None
    trained: bool = True

    @property
    def logps(self) -> tuple[float, ...]:
        """Log-probability of each token under the sampler: the choice is made at the first, the rest follows.

        >>> [round(logp, 4) for logp in Opening((6, 9), 0.5).logps]
        [-0.6931, 0.0]
        """
        return (math.log(self.share), *(0.0,) * (len(self.token_ids) - 1)) if self.token_ids else ()

    def cap(self, budget_tokens: int) -> int:
        """Return the completion tokens that a row with this opening may use, given its own budget.

        >>> Opening((6,), 0.5, budget_tokens=40).cap(80)
        40
        """
        return budget_tokens if self.budget_tokens is None else min(budget_tokens, self.budget_tokens)


def check_openings(openings: Sequence[Opening], group_size: int) -> None:
    """Check that openings share out every row of a group and that each gets at least one.

    Raises:
        RecipeError: when shares do not add up to 1, are 0 or 1 (the other choice would have log-probability minus
            infinity), an opening would get no row, or none has tokens.
    """
    total = sum(opening.share for opening in openings)
    if not math.isclose(total, 1.0):
        raise RecipeError(f"algorithm.openings: the shares add up to {total:g}, not to 1")
    for opening in openings:
        if not 0 < opening.share < 1:
            raise RecipeError(f"algorithm.openings: a share of {opening.share:g} leaves nothing to compare with")
    if not any(opening.token_ids for opening in openings):
        raise RecipeError("algorithm.openings: none of them has tokens, so that all rows would be sampled as they come")
    if min(counts(openings, group_size)) < 1:
        raise RecipeError(f"algorithm.openings: a group of {group_size} rows is too small for these shares")


def counts(openings: Sequence[Opening], group_size: int) -> list[int]:
    """Return how many rows of a group each opening gets: ``round(share * group_size)``, the last one takes the rest.

    >>> counts([Opening((6,), 0.5), Opening((9,), 0.5)], 8)
    [4, 4]
    """
    given = [round(opening.share * group_size) for opening in openings[:-1]]
    return [*given, group_size - sum(given)]


def assign(openings: Sequence[Opening], rows: int, group_size: int) -> list[Opening]:
    """Return the opening of each row, shared out alike in every group.

    >>> [opening.token_ids for opening in assign([Opening((6,), 0.5), Opening((9,), 0.5)], 4, 4)]
    [(6,), (6,), (9,), (9,)]

    Source: AdaptThink (arXiv 2505.13417) eq. 8, which forces one of two first tokens, each with probability 0.5; any
    number of openings of any length is ours.
    """
    group = [o for o, count in zip(openings, counts(openings, group_size), strict=True) for _ in range(count)]
    return group * (rows // group_size)


def as_tensors(openings: Sequence[Opening | None]) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens of each row's opening [rows], their log-probabilities [rows, width], and whether they are trained [rows].

    >>> as_tensors([Opening((6,), 0.5), None])[0].tolist()
    [1, 0]
    """
    logps = [opening.logps if opening is not None else () for opening in openings]
    width = max(map(len, logps))
    padded = torch.tensor([[*row, *(0.0,) * (width - len(row))] for row in logps])
    trained = torch.tensor([opening is None or opening.trained for opening in openings])
    return torch.tensor([len(row) for row in logps]), padded, trained
