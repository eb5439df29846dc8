"""Checker jumping: two colours on a line change sides; red goes right only, blue left only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from reason_rl.puzzle.play import Move

RED, GAP, BLUE = "R", "_", "B"


def standard(size: int) -> Checkers:
    """Return the classical instance: ``size`` pieces a colour, ``(size + 1)**2 - 1`` moves."""
    return Checkers(RED * size + GAP + BLUE * size)


@dataclass(frozen=True)
class Checkers:
    """A row such as RR_BB; a move is (piece, from place, to place), places counted from 0.

    Source: the environments of arXiv 2506.06941; starts other than the classical one are ours.
    """

    start: str

    def moves(self, state: str) -> Iterator[Move]:
        """Yield every legal move: a slide into the gap, or a jump over one piece of the other colour."""
        gap = state.index(GAP)
        for piece, step, other in ((RED, 1, BLUE), (BLUE, -1, RED)):
            for distance in (1, 2):
                place = gap - step * distance
                if not 0 <= place < len(state) or state[place] != piece:
                    continue
                if distance == 1 or state[gap - step] == other:
                    yield piece, place, gap

    def step(self, state: str, move: Move) -> str | None:
        """Return the row after a move, None when it is not legal."""
        if move not in set(self.moves(state)):
            return None
        piece, source, target = move
        row = list(state)
        row[source], row[target] = GAP, piece
        return "".join(row)

    def solved(self, state: str) -> bool:
        """Say whether the colours have changed sides."""
        half = len(state) // 2
        return state == BLUE * half + GAP + RED * half

    def mirror(self, state: str) -> str:
        """Read the row from the other end with colours exchanged."""
        return state[::-1].translate(str.maketrans(RED + BLUE, BLUE + RED))

    def question(self) -> str:
        """Return the task in words."""
        half = len(self.start) // 2
        return (
            f"A row of {len(self.start)} places, numbered from 0, holds {half} red (R) and {half} blue (B) checkers and "
            f"one gap (_):\n{' '.join(self.start)}\nRed checkers move to the right only, blue ones to the left only: one "
            f"place into the gap, or over exactly one checker of the other colour into the gap. Reach\n"
            f"{' '.join(BLUE * half + GAP + RED * half)}\n"
            f'Give the moves as a JSON list of ["R" or "B", from place, to place].'
        )
