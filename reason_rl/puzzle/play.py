"""What a puzzle is, how a list of moves is played, and the shortest solution by breadth-first search."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

State = Hashable
Move = tuple[Any, ...]
LONGEST_ANSWER = 200_000  # characters of a move list; the longest that a suite asks for has under 2,000


class Puzzle(Protocol):
    """One instance: where it starts, what may be done, and when it is solved."""

    @property
    def start(self) -> State:
        """The first position."""
        ...

    def moves(self, state: Any) -> Iterator[Move]:
        """Yield every legal move."""
        ...

    def step(self, state: Any, move: Move) -> State | None:
        """Return the position after a move; None for a move that is not legal, whatever it is made of."""
        ...

    def solved(self, state: Any) -> bool:
        """Say whether this is the goal."""
        ...

    def question(self) -> str:
        """Return the task in words, with the form of the answer."""
        ...

    def mirror(self, state: Any) -> State:
        """Return the position that differs by a symmetry only, which may be the position itself."""
        ...


@dataclass(frozen=True)
class Replay:
    """What a list of moves did.

    Args:
        solved: all moves were legal and the last position is the goal.
        valid_prefix: legal moves before the first that is not.
        first_error: index of that move; None when all were legal.
        moves: in the list.
    """

    solved: bool
    valid_prefix: int
    first_error: int | None
    moves: int


def replay(puzzle: Puzzle, moves: Sequence[Move]) -> Replay:
    """Play moves until one is illegal; a list without moves solves nothing.

    Args:
        puzzle: the instance.
        moves: as parsed.

    >>> from reason_rl.puzzle.hanoi import Hanoi
    >>> replay(Hanoi(((1,), (), ())), [(1, 1, 3)])
    Replay(solved=True, valid_prefix=1, first_error=None, moves=1)
    >>> replay(Hanoi(((2, 1), (), ())), [(1, 1, 3), (2, 1, 3)])
    Replay(solved=False, valid_prefix=1, first_error=1, moves=2)
    """
    state = puzzle.start
    for index, move in enumerate(moves):
        following = puzzle.step(state, move)
        if following is None:
            return Replay(False, index, index, len(moves))
        state = following
    return Replay(bool(moves) and puzzle.solved(state), len(moves), None, len(moves))


def parse_moves(text: str) -> list[Move] | None:
    """Return the moves of an answer, a JSON list of lists of numbers and names; None for anything else.

    >>> parse_moves("[[1, 1, 3], [2, 1, 2]]")
    [(1, 1, 3), (2, 1, 2)]
    >>> parse_moves("[1, 2]"), parse_moves("[" * 9999), parse_moves("[[[1]]]")
    (None, None, None)
    """
    if len(text) > LONGEST_ANSWER:
        return None
    try:
        moves = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(moves, list) or not all(isinstance(move, list) for move in moves):
        return None
    # True is an int to Python, and no peg.
    plain = all(type(part) in (int, str) for move in moves for part in move)
    return [tuple(move) for move in moves] if plain else None


def solve(puzzle: Puzzle) -> list[Move] | None:
    """Return a shortest list of moves to the goal; None when there is none.

    >>> from reason_rl.puzzle.hanoi import Hanoi
    >>> solve(Hanoi(((2, 1), (), ())))
    [(1, 1, 2), (2, 1, 3), (1, 2, 3)]
    """
    came: dict[State, tuple[State, Move] | None] = {puzzle.start: None}
    waiting = deque([puzzle.start])
    while waiting:
        state = waiting.popleft()
        if puzzle.solved(state):
            return _path(came, state)
        for move in puzzle.moves(state):
            following = puzzle.step(state, move)
            if following is not None and following not in came:
                came[following] = (state, move)
                waiting.append(following)
    return None


def reachable(puzzle: Puzzle) -> list[State]:
    """Return every position that can be reached from the start, nearest first."""
    seen = {puzzle.start: None}
    waiting = deque([puzzle.start])
    while waiting:
        state = waiting.popleft()
        for move in puzzle.moves(state):
            following = puzzle.step(state, move)
            if following is not None and following not in seen:
                seen[following] = None
                waiting.append(following)
    return list(seen)


def _path(came: dict[State, tuple[State, Move] | None], state: State) -> list[Move]:
    path = []
    while (before := came[state]) is not None:
        state, move = before
        path.append(move)
    return path[::-1]
