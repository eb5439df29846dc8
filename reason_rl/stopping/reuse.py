"""Is a certificate used on problems that come like those it rests on?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from reason_rl.problem.record import Problem


class Population(TypedDict):
    """Where calibration problems came from and which levels were among them."""

    sources: list[str]
    levels: list[int]


def population(problems: Sequence[Problem]) -> Population:
    """Return where problems come from (what their rows say of it, else the file or data set) and their levels.

    >>> population([Problem("a", "1 + 1", "2", source="slice-1", meta={"source": "gsm8k"})])
    {'sources': ['gsm8k'], 'levels': []}
    """
    levels = {problem.level for problem in problems if problem.level is not None}
    sources = {str(problem.meta.get("source") or problem.source) for problem in problems}
    return {"sources": sorted(sources), "levels": sorted(levels)}


def not_exchangeable(
    problems: Sequence[Problem], calibrated: Population, used: Sequence[str], what: str = "calibrated or fitted on"
) -> list[str]:
    """Return why a guarantee over other problems says nothing about these; empty when nothing speaks against it.

    What can be told from the problems alone: some were used before, they come from another source, or they are of other
    levels. That problems come like others is never proved by it.

    Args:
        problems: that the certified rule is used on.
        calibrated: the population of the calibration problems.
        used: ids of problems that probe or threshold have seen.
        what: what those were used for.

    >>> seen = Problem("a", "1 + 1", "2", level=1, source="world")
    >>> not_exchangeable([seen], {"sources": ["world"], "levels": [1, 2]}, ["a"])
    ['1 of 1 problems (a ...) were calibrated or fitted on', 'levels 1; calibrated on levels 1, 2']
    """
    reasons = []
    shared = sorted({problem.id for problem in problems} & set(used))
    if shared:
        reasons.append(f"{len(shared)} of {len(problems)} problems ({shared[0]} ...) were {what}")
    here = population(problems)
    for name in ("sources", "levels"):
        mine, theirs = here[name], calibrated[name]
        if mine != theirs:
            shown = [", ".join(map(str, values)) or "none" for values in (mine, theirs)]
            reasons.append(f"{name} {shown[0]}; calibrated on {name} {shown[1]}")
    return reasons
