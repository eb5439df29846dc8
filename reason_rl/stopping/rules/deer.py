"""DEER: try an answer where the model is about to reconsider, and stop when it is sure of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from reason_rl.stopping.rule import GO, Action, Ask, Elicitor, Look

Average = Literal["mean", "geometric", "min"]


def confidence(logps: Sequence[float], average: Average, skipped: int = 1) -> float:
    """Return how sure a trial answer is: the mean of its tokens' probabilities, without the first ``skipped``.

    0 when no token is left.

    >>> logps = [math.log(p) for p in (0.99, 0.98, 0.6, 0.97)]
    >>> [round(confidence(logps, average), 4) for average in ("mean", "geometric", "min")]
    [0.85, 0.8293, 0.6]
    >>> round(confidence(logps, "mean", skipped=0), 4), confidence([-0.1], "mean")
    (0.885, 0.0)

    Source: DEER (arXiv 2504.15895), released code for vLLM, which skips one token and fails for a trial of one.
    """
    used = list(logps[skipped:])
    if not used:
        return 0.0
    if average == "mean":
        return sum(map(math.exp, used)) / len(used)
    return math.exp(sum(used) / len(used)) if average == "geometric" else math.exp(min(used))


@dataclass(frozen=True)
class Deer:
    """Before a reconsidering word is written, an answer is tried in its place; above the threshold thinking is closed.

    The trial is greedy (the released vLLM code samples it) and reads nothing after the word. The state is the trials so far.

    Args:
        words: ids that start a reconsidering word, ``Wait`` and ``Alternatively`` in the paper.
        trial: tokens that ask for an answer without closing thinking.
        stop: ids that end a trial, the closing brace for instance.
        elicitor: how the answer is given after an exit.
        threshold: 0.95 in the paper.
        average: how token probabilities become one.
        skipped: tokens of the trial that do not count.
        trial_tokens: tokens of a trial at most.
        max_trials: afterwards thinking goes on unasked.
    """

    words: frozenset[int]
    trial: tuple[int, ...]
    stop: tuple[int, ...]
    elicitor: Elicitor
    threshold: float = 0.95
    average: Average = "mean"
    skipped: int = 1
    trial_tokens: int = 20
    max_trials: int = 10
    layers: ClassVar[tuple[int, ...]] = ()

    def start(self) -> int:
        """Return no trials."""
        return 0

    def decide(self, state: int, look: Look) -> tuple[int, Action]:
        """Try an answer in place of a reconsidering word, and exit when it is sure."""
        if look.trial is not None:
            sure = confidence(look.trial.logps, self.average, self.skipped) > self.threshold
            return state, self.elicitor.exit() if sure else GO
        if look.drawn not in self.words or state == self.max_trials:
            return state, GO
        return state + 1, Ask(self.trial, self.trial_tokens, self.stop)
