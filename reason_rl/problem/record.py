"""The record of one problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
