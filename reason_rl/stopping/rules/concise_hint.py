"""ConciseHint: the model is reminded to be brief while it thinks, at growing intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reason_rl.stopping.rule import GO, Action, Insert, Look


def interval(tokens: int, first: int = 128, growth: float = 0.2, longest: int = 1024) -> int:
    """Return the tokens until the next hint: ``min(longest, floor(first + growth * tokens))``.

    >>> [interval(tokens) for tokens in (0, 128, 500, 2000, 4480)]
    [128, 153, 228, 528, 1024]

    Source: ConciseHint (arXiv 2506.18810), released code.
    """
    return min(longest, int(first + growth * tokens))


@dataclass(frozen=True)
class ConciseHint:
    """Writes a hint in place of the drawn token whenever the interval since the last one is over.

    Hints count as completion tokens. The released code puts them into the middle of the last segment and reads everything
    after them again; here they are only ever appended, so the cache stays valid.

    Args:
        hint: tokens of the hint.
        first: interval before the first hint, in tokens.
        growth: by how much the interval grows a token.
        longest: interval at most.
    """

    hint: tuple[int, ...]
    first: int = 128
    growth: float = 0.2
    longest: int = 1024
    layers: ClassVar[tuple[int, ...]] = ()

    def __post_init__(self) -> None:
        if self.first < 1 or self.longest < self.first or self.growth < 0:
            raise ValueError("1 <= first <= longest and growth >= 0 do not hold")

    def start(self) -> int:
        """Return where the first hint is due."""
        return interval(0, self.first, self.growth, self.longest)

    def decide(self, state: int, look: Look) -> tuple[int, Action]:
        """Write the hint when it is due."""
        if len(look.token_ids) < state:
            return state, GO
        written = len(look.token_ids) + len(self.hint)
        return written + interval(written, self.first, self.growth, self.longest), Insert(self.hint)
