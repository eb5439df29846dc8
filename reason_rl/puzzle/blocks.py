"""Blocks world: lettered blocks on three stacks are rearranged, one top block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, zip_longest
from string import ascii_uppercase

from reason_rl.puzzle.play import Move

Stacks = tuple[str, ...]
STACKS = 3


def standard(size: int) -> Blocks:
    """Return two alphabetical stacks to be interleaved from their tops on the first place, right one first.

    >>> standard(3)
    Blocks(start=('AB', 'C', ''), goal=('CBA', '', ''))
    """
    half = (size + 1) // 2
    left, right = ascii_uppercase[:half], ascii_uppercase[half:size]
    both = zip_longest(reversed(right), reversed(left), fillvalue="")
    return Blocks((left, right, ""), ("".join(a + b for a, b in both), "", ""))


@dataclass(frozen=True)
class Blocks:
    """Stacks as strings from bottom to top; a move is (block, from stack, to stack), stacks counted from 1.

    Source: the environments of arXiv 2506.06941; starts other than the two alphabetical stacks are ours.
    """

    start: Stacks
    goal: Stacks

    def moves(self, state: Stacks) -> Iterator[Move]:
        """Yield every legal move."""
        for i, j in permutations(range(STACKS), 2):
            if state[i]:
                yield state[i][-1], i + 1, j + 1

    def step(self, state: Stacks, move: Move) -> Stacks | None:
        """Return the stacks after a move, None when it is not legal."""
        if move not in set(self.moves(state)):
            return None
        block, source, target = move
        stacks = list(state)
        stacks[source - 1] = stacks[source - 1][:-1]
        stacks[target - 1] += block
        return tuple(stacks)

    def solved(self, state: Stacks) -> bool:
        """Say whether the stacks are as wanted."""
        return state == self.goal

    def mirror(self, state: Stacks) -> Stacks:
        """Return the position itself."""
        return state

    def question(self) -> str:
        """Return the task in words."""
        sides = [
            "\n".join(f"Stack {i}: {' '.join(stack) or 'empty'}" for i, stack in enumerate(stacks, start=1))
            for stacks in (self.start, self.goal)
        ]
        return (
            f"Blocks lie on three stacks, written from bottom to top:\n{sides[0]}\nOne block is moved at a time, from the "
            f"top of a stack to the top of another. Reach\n{sides[1]}\n"
            f"Give the moves as a JSON list of [block, from stack, to stack]."
        )
