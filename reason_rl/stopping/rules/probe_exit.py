"""Exits decided by a probe of hidden states at cue points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from reason_rl.stopping.cues import Cues
from reason_rl.stopping.probe import Probe
from reason_rl.stopping.rule import GO, Action, Elicitor, Look, Score

Scored = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class ProbeExit:
    """Exits at the first cue whose probe score is above the threshold; the cue stays in the text.

    The state is what was scored: (completion tokens, score) of each cue.

    Args:
        probe: fitted on the same model, layers, cues and elicitor.
        layers: whose states the probe reads.
        cues: where it is asked.
        elicitor: how the answer is opened.
        threshold: from a certificate; infinity never exits.
        min_think_tokens: no exit before; raising it keeps a certificate only where cues may be skipped.

    Source: LYNX (arXiv 2512.05325); there the cue is cut off, which would need the state before it.
    """

    probe: Probe
    layers: tuple[int, ...]
    cues: Cues
    elicitor: Elicitor
    threshold: float
    min_think_tokens: int = 0

    def start(self) -> Scored:
        """Return nothing scored."""
        return ()

    def decide(self, state: Scored, look: Look) -> tuple[Scored, Action]:
        """Score a cue, and exit above the threshold."""
        if look.score is not None:
            state = (*state, (len(look.token_ids), look.score))
            return state, self.elicitor.exit() if look.score > self.threshold else GO
        asked = look.think_tokens >= self.min_think_tokens and self.cues.at(look.token_ids, look.think_tokens)
        return state, self._score if asked else GO

    @cached_property
    def _score(self) -> Score:
        return Score(self.probe)


@dataclass(frozen=True)
class QExit:
    """Exits when the chance to have stopped by now, were each score a stopping probability, is above ``quantile``.

    ``CDF_k = 1 - prod_{i <= k} (1 - score_i)``; several lukewarm cues add up, where a threshold waits for one hot one.

    Args:
        probe, layers, cues, elicitor: as for :class:`ProbeExit`.
        quantile: in [0, 1), 0.5 in the paper.

    Source: PALBERT (arXiv 2204.03276), Q-exit over layers; here over cues.
    """

    probe: Probe
    layers: tuple[int, ...]
    cues: Cues
    elicitor: Elicitor
    quantile: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.quantile < 1:
            raise ValueError(f"quantile {self.quantile} is not in [0, 1)")

    def start(self) -> float:
        """Return the chance not to have stopped before the first cue: 1."""
        return 1.0

    def decide(self, state: float, look: Look) -> tuple[float, Action]:
        """Multiply in the score of a cue, and exit above the quantile."""
        if look.score is not None:
            left = state * (1 - look.score)
            return left, self.elicitor.exit() if 1 - left > self.quantile else GO
        return state, Score(self.probe) if self.cues.at(look.token_ids, look.think_tokens) else GO
