"""NoThinking: thinking is closed before it starts; the anchor of every exit curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reason_rl.stopping.rule import GO, Action, Insert, Look


@dataclass(frozen=True)
class NoThinking:
    """Writes a finished think block at once; the answer is then sampled as ever.

    Args:
        ids: what is written, a sentence that says that thinking is done and the end-of-think token.
        end: id of the end-of-think token.

    Raises:
        ValueError: unless the ids close thinking exactly once.

    >>> NoThinking((30, 31, 6), end=6).decide(None, Look([], 0, drawn=9))[1]
    Insert(ids=(30, 31, 6))

    Source: NoThinking (arXiv 2504.09858), which puts the block into the prompt; here it counts as completion tokens.
    """

    ids: tuple[int, ...]
    end: int
    layers: ClassVar[tuple[int, ...]] = ()

    def __post_init__(self) -> None:
        if self.ids.count(self.end) != 1:
            raise ValueError(f"the ids close thinking {self.ids.count(self.end)} times, once is wanted")

    def start(self) -> None:
        """Return no state."""
        return

    def decide(self, state: None, look: Look) -> tuple[None, Action]:
        """Write the block at the first think position."""
        return None, Insert(self.ids) if look.think_tokens == 0 else GO
