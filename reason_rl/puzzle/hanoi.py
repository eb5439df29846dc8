"""The Tower of Hanoi, from any legal position, all disks to the last peg."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

from reason_rl.puzzle.play import Move

Pegs = tuple[tuple[int, ...], ...]
PEGS = 3


def standard(size: int) -> Hanoi:
    """Return the classical instance: all disks on the first peg, ``2**size - 1`` moves."""
    return Hanoi((tuple(range(size, 0, -1)), (), ()))


@dataclass(frozen=True)
class Hanoi:
    """Disks by peg, the lowest first; a move is (disk, from peg, to peg), pegs counted from 1.

    Source: the environments of arXiv 2506.06941; starts other than the classical one are ours.
    """

    start: Pegs

    def moves(self, state: Pegs) -> Iterator[Move]:
        """Yield every legal move."""
        for i, j in permutations(range(PEGS), 2):
            if state[i] and (not state[j] or state[j][-1] > state[i][-1]):
                yield state[i][-1], i + 1, j + 1

    def step(self, state: Pegs, move: Move) -> Pegs | None:
        """Return the pegs after a move, None when it is not legal."""
        if move not in set(self.moves(state)):
            return None
        disk, source, target = move
        pegs = [list(peg) for peg in state]
        pegs[source - 1].pop()
        pegs[target - 1].append(disk)
        return tuple(map(tuple, pegs))

    def solved(self, state: Pegs) -> bool:
        """Say whether all disks are on the last peg."""
        return not any(state[:-1])

    def mirror(self, state: Pegs) -> Pegs:
        """Exchange the two pegs that are not the goal."""
        return state[1], state[0], state[2]

    def question(self) -> str:
        """Return the task in words."""
        disks = sum(map(len, self.start))
        pegs = "\n".join(f"Peg {i}: {list(peg) or 'empty'}" for i, peg in enumerate(self.start, start=1))
        return (
            f"Tower of Hanoi with {disks} disks (1 is the smallest) and 3 pegs. Disks on each peg, from bottom to top:\n"
            f"{pegs}\nOne disk is moved at a time, only the top disk of a peg can be moved, and no disk may lie on a "
            f"smaller one. Move all disks to peg 3. Give the moves as a JSON list of [disk, from peg, to peg]."
        )
