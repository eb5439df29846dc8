"""Answer consistency: stop when answers tried in a row agree. With presets of Dynasor, and Certaindex."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from reason_rl.answer.verify import normalised
from reason_rl.stopping.cues import Cues
from reason_rl.stopping.rule import GO, Action, Elicitor, Look

AnswerOf = Callable[[Sequence[int]], str | None]
Same = Callable[[str, str], bool]


def same_text(one: str, other: str) -> bool:
    """Tell whether two answers are the same, white space aside.

    >>> same_text("12  30", " 12 30"), same_text("1", "2")
    (True, False)
    """
    return normalised(one) == normalised(other)


class Run(NamedTuple):
    """The answer tried last, and how many in a row were the same."""

    answer: str | None
    length: int


def extend_run(run: Run, answer: str | None, same: Same = same_text) -> Run:
    """Return the run after one more answer; an empty answer ends it.

    >>> run = Run(None, 0)
    >>> for answer in ("1", "0", "0", None):
    ...     run = extend_run(run, answer)
    ...     print(run)
    Run(answer='1', length=1)
    Run(answer='0', length=1)
    Run(answer='0', length=2)
    Run(answer=None, length=0)
    """
    if not answer:
        return Run(None, 0)
    agrees = run.answer is not None and same(run.answer, answer)
    return Run(answer, run.length + 1 if agrees else 1)


@dataclass(frozen=True)
class AnswerConsistency:
    """At each cue the answer of an exit there is tried; after ``agree`` equal ones in a row the exit is taken.

    Args:
        cues: where answers are tried, ``Cues(frozenset(), every=64)`` for instance.
        elicitor: how the answer is opened, in trial and exit alike.
        answer_of: finds the answer in elicitor and trial tokens; None for none, or for one that hedges.
        agree: equal answers in a row; 3 is our choice.
        same: when two answers are equal.

    Source: answer convergence (arXiv 2506.02536) with sentences as cues; Dynasor (arXiv 2412.20993) with chunks.
    """

    cues: Cues
    elicitor: Elicitor
    answer_of: AnswerOf
    agree: int = 3
    same: Same = same_text
    layers: ClassVar[tuple[int, ...]] = ()

    def __post_init__(self) -> None:
        if self.agree < 1:
            raise ValueError(f"agree {self.agree} is below 1")

    def start(self) -> Run:
        """Return an empty run."""
        return Run(None, 0)

    def decide(self, state: Run, look: Look) -> tuple[Run, Action]:
        """Try an answer at a cue, and exit when enough agree."""
        if look.trial is not None:
            run = extend_run(state, self.answer_of((*self.elicitor.ids, *look.trial.token_ids)), self.same)
            return run, self.elicitor.exit() if run.length >= self.agree else GO
        return state, self.elicitor.ask() if self.cues.at(look.token_ids, look.think_tokens) else GO


class Effort(NamedTuple):
    """How many answers must agree, and the think tokens between them."""

    agree: int
    every: int


# Dynasor's levels: dynasor/core/cot.py.
DYNASOR = {
    "mild": Effort(8, 64),
    "low": Effort(5, 64),
    "mid": Effort(3, 64),
    "high": Effort(2, 64),
    "crazy": Effort(2, 32),
}


def certaindex(answers: Sequence[str]) -> float:
    """Return how certain several sampled answers are: ``1 - H / log2 n``, H their entropy in bits; 1 for a single one.

    >>> round(certaindex(list("11122311")), 4)
    0.5671

    Raises:
        ValueError: without answers.

    Source: Dynasor (arXiv 2412.20993).
    """
    if not answers:
        raise ValueError("certaindex of no answers")
    if len(answers) == 1:
        return 1.0
    shares = [answers.count(answer) / len(answers) for answer in set(answers)]
    return 1 + sum(share * math.log2(share) for share in shares) / math.log2(len(answers))
