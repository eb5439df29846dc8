"""EAT: stop when the entropy after a trial end-of-think has settled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from reason_rl.stopping.cues import Cues
from reason_rl.stopping.rule import GO, Action, Ask, Elicitor, Look


class Moving(NamedTuple):
    """Exponential moving mean and variance of a series, and how many values were seen."""

    mean: float
    variance: float
    seen: int


def follow(state: Moving, value: float, rate: float) -> Moving:
    """Return mean and variance after one more value.

    ``m = a x + (1 - a) m``, ``v = a (x - m)^2 + (1 - a) v``; the first value sets the mean and leaves the variance.

    >>> state = Moving(0.0, 1.0, 0)
    >>> for x in (1.4, 1.2, 1.3, 0.3):
    ...     state = follow(state, x, 0.2)
    ...     print(round(state.mean, 4), round(state.variance, 5))
    1.4 1.0
    1.36 0.80512
    1.348 0.64456
    1.1384 0.65623
    """
    if state.seen == 0:
        return Moving(value, state.variance, 1)
    mean = rate * value + (1 - rate) * state.mean
    return Moving(mean, rate * (value - mean) ** 2 + (1 - rate) * state.variance, state.seen + 1)


@dataclass(frozen=True)
class EntropyAfterThink:
    """At each cue one forward pass asks how uncertain the token after a closed thinking is; exits when that is steady.

    Args:
        cues: ends of lines, in the paper.
        suffix: closes thinking, for the look only.
        elicitor: how the answer is given after an exit.
        threshold: on the moving variance of the entropy in nats.
        rate: of the moving averages, 0.2; the paper sweeps 0.015 to 0.3.
        min_looks: cues before an exit; 25 in the released code.
        first_variance: 1, our choice: from 0, as released, the rule fires at once without ``min_looks``.

    Source: EAT (arXiv 2509.26522), released code.
    """

    cues: Cues
    suffix: tuple[int, ...]
    elicitor: Elicitor
    threshold: float
    rate: float = 0.2
    min_looks: int = 25
    first_variance: float = 1.0
    layers: ClassVar[tuple[int, ...]] = ()

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate {self.rate} is not in (0, 1]")

    def start(self) -> Moving:
        """Return no values."""
        return Moving(0.0, self.first_variance, 0)

    def decide(self, state: Moving, look: Look) -> tuple[Moving, Action]:
        """Look at the entropy at a cue, and exit when it has settled."""
        if look.trial is not None:
            state = follow(state, look.trial.entropy, self.rate)
            settled = state.seen >= self.min_looks and state.variance < self.threshold
            return state, self.elicitor.exit() if settled else GO
        return state, Ask(self.suffix, 0, ()) if self.cues.at(look.token_ids, look.think_tokens) else GO
