"""What decoding asks of a stopping method: an edit of logits before drawing, and a rule that looks at the drawn token.

A rule is a small state machine of one row. At every think position it sees what was written, the token drawn for the next
position and, where it wants it, the state the token was drawn from. It answers with one action:

- ``GO``: write the drawn token.
- ``Insert(ids)``: write these tokens instead and go on.
- ``Exit(ids)``: write these instead, then decode the answer greedily and ask no more.
- ``Ask(suffix)``: try a continuation on a fork of the cache and ask again with what came out.
- ``Score(probe)``: score the states at this position and ask again with the score.

Rules never act on their own: the loop that hosts them keeps the cache, the budget and the random streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

from reason_rl.stopping.probe import Probe


@dataclass(frozen=True)
class Step:
    """All rows still being decoded, before a token is drawn.

    ``request`` is each row's place among the requests, stable while other rows finish.
    """

    request: Int[Tensor, " rows"]
    logits: Float[Tensor, "rows vocab"]
    thinking: Bool[Tensor, " rows"]
    think_tokens: Int[Tensor, " rows"]


class LogitEdit(Protocol):
    """Edits the raw logits of a step; keeps no state."""

    def __call__(self, step: Step) -> Float[Tensor, "rows vocab"]:
        """Return the logits to draw from."""
        ...


@dataclass(frozen=True)
class Trial:
    """What a side decode brought.

    Args:
        token_ids: written greedily after the suffix, the stop token included when it came.
        logps: their log-probabilities at temperature 1.
        entropy: of the token right after the suffix, in nats.
    """

    token_ids: tuple[int, ...]
    logps: tuple[float, ...]
    entropy: float


class Look(NamedTuple):
    """One row at one think position.

    Args:
        token_ids: completion tokens written so far.
        think_tokens: of these, those inside thinking.
        drawn: the token that would be written next.
        features: the states that the drawn token was drawn from, [width]; None unless the rule reads them.
        trial: the outcome of the side decode that the rule has just asked for.
        score: of these states, by the probe that the rule has just asked for.
    """

    token_ids: Sequence[int]
    think_tokens: int
    drawn: int
    features: Float[Tensor, " width"] | None = None
    trial: Trial | None = None
    score: float | None = None

    @property
    def last(self) -> int | None:
        """The token written last; None at the first position."""
        return self.token_ids[-1] if self.token_ids else None


@dataclass(frozen=True)
class Go:
    """Write the drawn token."""


@dataclass(frozen=True)
class Insert:
    """Write these tokens instead of the drawn one, then go on."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class Exit:
    """Write these tokens instead of the drawn one, then an answer of at most ``answer_tokens``, greedily."""

    ids: tuple[int, ...]
    answer_tokens: int


@dataclass(frozen=True)
class Ask:
    """Decode greedily after ``suffix`` on a fork of the row's cache: at most ``max_tokens``, up to a token of ``stop``."""

    suffix: tuple[int, ...]
    max_tokens: int
    stop: tuple[int, ...]


@dataclass(frozen=True)
class Score:
    """Score the states at this position by a probe; the loop scores all rows that want it in one go."""

    probe: Probe


Action: TypeAlias = Go | Insert | Exit | Ask | Score
GO = Go()


class ExitRule(Protocol):
    """The state machine of one row; the rule itself holds settings only, the state is passed in and out.

    ``layers``: which hidden states it reads (see :mod:`reason_rl.stopping.states`); empty = none.
    """

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose states the rule reads."""
        ...

    def start(self) -> Any:
        """Return the state of a row before its first token."""
        ...

    def decide(self, state: Any, look: Look) -> tuple[Any, Action]:
        """Return the new state and what to do."""
        ...


@dataclass(frozen=True)
class StopPolicy:
    """What decoding is to do about stopping: an edit, a rule, both or neither."""

    edit: LogitEdit | None = None
    rule: ExitRule | None = None


@dataclass(frozen=True)
class Elicitor:
    """The tokens that close thinking and open the answer, and how many answer tokens may follow them.

    The same elicitor must be used where a threshold is calibrated and where it is applied.
    """

    ids: tuple[int, ...]
    answer_tokens: int
    eos: tuple[int, ...]

    def ask(self) -> Ask:
        """Return the side decode that tells which answer an exit here would give."""
        return Ask(self.ids, self.answer_tokens, self.eos)

    def exit(self) -> Exit:
        """Return the exit that gives that answer."""
        return Exit(self.ids, self.answer_tokens)
