"""The record of one problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VARIANT_MARK = "@"
PLAIN = "plain"


def variant_id(problem_id: str, variant: str) -> str:
    """Return the id of a problem asked in a variant of its prompt: a problem of its own to histories and pass rates.

    >>> variant_id("p-58bf025caf", "short")
    'p-58bf025caf@short'
    """
    return problem_id if variant == PLAIN else f"{problem_id}{VARIANT_MARK}{variant}"


def variant_of(problem_id: str) -> str:
    """Return the variant in an id of :func:`variant_id`.

    >>> variant_of("p-58bf025caf@short"), variant_of("p-58bf025caf")
    ('short', 'plain')
    """
    return problem_id.rpartition(VARIANT_MARK)[2] if VARIANT_MARK in problem_id else PLAIN


@dataclass(frozen=True)
class Problem:
    """One problem with its gold answer.

    ``id`` is stable across runs: it keys histories, caches and paired comparisons. ``meta`` holds what else the source
    gives, as plain JSON, for instance ``{"family": "chain", "shortest_think_tokens": 12}``.
    """

    id: str
    prompt: str
    answer: str
    level: int | None = None
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
