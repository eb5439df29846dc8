"""Patience: stop when the tried answer has not changed for a number of times."""

from __future__ import annotations

from collections.abc import Sequence

from reason_rl.stopping.cues import Cues
from reason_rl.stopping.rule import Elicitor
from reason_rl.stopping.rules.consistency import AnswerConsistency, AnswerOf, Run, Same, extend_run, same_text


def patience_exit(answers: Sequence[str], patience: int) -> int | None:
    """Return after how many answers patience runs out, from 1; None when it does not.

    A counter goes up when an answer equals the one before and back to 0 otherwise; the exit is where it is ``patience``.

    >>> [patience_exit("10001111", patience) for patience in (1, 2, 3, 4)]
    [3, 4, 8, None]

    Source: PABEE (Zhou et al., NeurIPS 2020), with classifiers of layers; here answers along a trace.
    """
    run = Run(None, 0)
    for number, answer in enumerate(answers, start=1):
        run = extend_run(run, answer)
        if run.length == patience + 1:
            return number
    return None


def patient(
    patience: int, cues: Cues, elicitor: Elicitor, answer_of: AnswerOf, same: Same = same_text
) -> AnswerConsistency:
    """Return the rule that exits when the answer at a cue has stayed the same ``patience`` times.

    Raises:
        ValueError: for a patience below 1.
    """
    if patience < 1:
        raise ValueError(f"patience {patience} is below 1")
    return AnswerConsistency(cues, elicitor, answer_of, patience + 1, same)
