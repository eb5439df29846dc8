"""River crossing: actors and their agents, and a boat for a few; no actor may be with a foreign agent unprotected."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from reason_rl.puzzle.play import Move

People = frozenset[str]
Banks = tuple[People, bool]  # who is on the left bank, and whether the boat is


def people(pairs: int) -> People:
    """Return actors a1, a2 ... and agents A1, A2 ..."""
    return frozenset(f"{kind}{i}" for i in range(1, pairs + 1) for kind in "aA")


def safe(group: People) -> bool:
    """Say whether every actor of a group has its own agent there, or no agent is.

    >>> safe(frozenset({"a1", "A1", "A2"})), safe(frozenset({"a1", "A2"})), safe(frozenset({"a1", "a2"}))
    (True, False, True)
    """
    agents = {who[1:] for who in group if who[0] == "A"}
    return not agents or all(who[1:] in agents for who in group if who[0] == "a")


def standard(size: int, boat: int | None = None) -> River:
    """Return the instance with everybody on the left bank; the boat holds two up to three pairs, then three."""
    return River(size, boat or (2 if size <= 3 else 3), tuple(sorted(people(size))), True)


@dataclass(frozen=True)
class River:
    """Who starts on the left bank with the boat's place; a move is a tuple of those aboard.

    Args:
        pairs: of actor and agent.
        boat: people it holds.
        left: on the left bank at first.
        boat_left: where the boat is at first.

    Source: the environments of arXiv 2506.06941. Unlike there, sizes that have no solution (a boat of three for six pairs, of
    two for four) are refused by the generator.
    """

    pairs: int
    boat: int
    left: tuple[str, ...]
    boat_left: bool

    @property
    def start(self) -> Banks:
        """The first position."""
        return frozenset(self.left), self.boat_left

    def moves(self, state: Banks) -> Iterator[Move]:
        """Yield every legal crossing."""
        left, boat_left = state
        here = sorted(left if boat_left else people(self.pairs) - left)
        for count in range(1, self.boat + 1):
            for aboard in combinations(here, count):
                if self._after(state, frozenset(aboard)) is not None:
                    yield aboard

    def step(self, state: Banks, move: Move) -> Banks | None:
        """Return the banks after a crossing, None when it is not legal."""
        left, boat_left = state
        here = left if boat_left else people(self.pairs) - left
        aboard = frozenset(move)
        if not 1 <= len(move) <= self.boat or len(aboard) != len(move) or not aboard <= here:
            return None
        return self._after(state, aboard)

    def _after(self, state: Banks, aboard: People) -> Banks | None:
        left, boat_left = state
        following = left - aboard if boat_left else left | aboard
        groups = (aboard, following, people(self.pairs) - following)
        return (following, not boat_left) if all(map(safe, groups)) else None

    def solved(self, state: Banks) -> bool:
        """Say whether nobody is left on the left bank."""
        return not state[0]

    def mirror(self, state: Banks) -> Banks:
        """Return the position itself."""
        return state

    def question(self) -> str:
        """Return the task in words."""
        banks = {"left": sorted(self.left), "right": sorted(people(self.pairs) - set(self.left))}
        where = "\n".join(f"{side.capitalize()} bank: {', '.join(who) or 'nobody'}" for side, who in banks.items())
        return (
            f"{self.pairs} actors (a1, a2, ...) and their {self.pairs} agents (A1, A2, ...) cross a river in a boat that "
            f"holds at most {self.boat} people and cannot cross empty.\n{where}\n"
            f"The boat is at the {'left' if self.boat_left else 'right'} bank. No actor may be with another actor's agent, "
            f"on a bank or in the boat, unless the actor's own agent is there too. Bring everybody to the right bank. "
            f'Give the crossings as a JSON list of lists of those aboard, such as [["a1", "A1"], ["A1"]].'
        )
