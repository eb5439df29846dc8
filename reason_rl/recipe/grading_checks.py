"""Whether a data section and the grading fit together: problems with several right answers are no matter of equality."""

from __future__ import annotations

from typing import Any

from reason_rl.problem.gym import needs_gym_verifier


def grading_complaint(data: Any, verify: str) -> str | None:
    """Return what is wrong with grading this data that way, None when nothing is.

    >>> from types import SimpleNamespace
    >>> grading_complaint(SimpleNamespace(use="puzzle"), "math")
    'math: data puzzle is graded by playing the moves; set puzzle'
    """
    if data is None:
        return None
    wanted = None
    if data.use == "puzzle":
        wanted, reason = "puzzle", "data puzzle is graded by playing the moves"
    elif data.use == "reasoning_gym" and needs_gym_verifier(data.task):
        wanted, reason = "gym", f"{data.task} has several right answers"
    if wanted is not None:
        return None if verify == wanted else f"{verify}: {reason}; set {wanted}"
    return (
        f"{verify}: is for data that has instances to check against, not for {data.use}"
        if verify in {"puzzle", "gym"}
        else None
    )
