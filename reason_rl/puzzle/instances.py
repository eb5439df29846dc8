"""Instances of each size that a solver has solved, as problems; and the verifier that plays what a model answers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from reason_rl.answer.compare import Verdict
from reason_rl.answer.verify import Verifier
from reason_rl.errors import RecipeError
from reason_rl.problem.record import Problem
from reason_rl.puzzle import blocks, checkers, hanoi, river
from reason_rl.puzzle.play import Puzzle, Replay, State, parse_moves, reachable, replay, solve

FEWEST_MOVES = 2  # a start nearer to its goal is no puzzle


@dataclass(frozen=True)
class Kind:
    """One of the puzzles.

    Args:
        standard: the classical instance of a size.
        moved: the instance with another start.
        load: the instance from the fields that were written.
    """

    standard: Callable[[int], Any]
    moved: Callable[[Any, Any], Any]
    load: Callable[[Mapping[str, Any]], Any]


def kinds() -> dict[str, Kind]:
    """Return the puzzles by name."""
    return {
        "hanoi": Kind(hanoi.standard, _with_start, lambda f: hanoi.Hanoi(tuple(map(tuple, f["start"])))),
        "checkers": Kind(checkers.standard, _with_start, lambda f: checkers.Checkers(f["start"])),
        "river": Kind(
            river.standard,
            lambda puzzle, state: replace(puzzle, left=tuple(sorted(state[0])), boat_left=state[1]),
            lambda f: river.River(f["pairs"], f["boat"], tuple(f["left"]), f["boat_left"]),
        ),
        "blocks": Kind(blocks.standard, _with_start, lambda f: blocks.Blocks(tuple(f["start"]), tuple(f["goal"]))),
    }


def _with_start(puzzle: Any, state: Any) -> Any:
    return replace(puzzle, start=state)


def puzzle_problems(name: str, sizes: Sequence[int], per_size: int, seed: int) -> Iterator[Problem]:
    """Yield solved instances of each size, the classical one first, then starts drawn from its reachable positions.

    Of two starts that mirror each other one is taken. A size with fewer starts than asked for gives what it has.

    Args:
        name: of the puzzle.
        sizes: disks, pieces a colour, pairs, or blocks.
        per_size: instances of a size at most.
        seed: of the draw.

    Raises:
        RecipeError: for a size without a solution.
    """
    for size in sizes:
        kind = kinds()[name]
        classical = kind.standard(size)
        starts = _starts(classical, random.Random(f"{name} {size} {seed}"))
        count = 0
        for state in starts:
            puzzle = classical if state == classical.start else kind.moved(classical, state)
            path = solve(puzzle)
            if puzzle is classical and path is None:
                raise RecipeError(f"data.sizes: {name} of size {size} has no solution")
            if path is None or (puzzle is not classical and len(path) < FEWEST_MOVES):
                continue
            yield _problem(name, size, count, seed, puzzle, len(path))
            count += 1
            if count == per_size:
                break


def _starts(classical: Puzzle, rng: random.Random) -> Iterator[State]:
    yield classical.start
    others = reachable(classical)[1:]
    rng.shuffle(others)
    taken = {classical.start, classical.mirror(classical.start)}
    for state in others:
        if state not in taken:
            taken |= {state, classical.mirror(state)}
            yield state


def _problem(name: str, size: int, number: int, seed: int, puzzle: Any, shortest: int) -> Problem:
    answer = json.dumps({"puzzle": name, **asdict(puzzle)}, separators=(",", ":"))
    meta = {"family": name, "shortest_moves": shortest}
    return Problem(f"{name}-{size}-{number}-s{seed}", puzzle.question(), answer, size, f"puzzle/{name}", meta)


def load_puzzle(gold: str) -> Puzzle:
    """Return the instance that a problem's gold answer holds.

    >>> load_puzzle('{"puzzle": "checkers", "start": "R_B"}')
    Checkers(start='R_B')
    """
    fields = json.loads(gold)
    puzzle: Puzzle = kinds()[fields["puzzle"]].load(fields)
    return puzzle


def score(answer: str | None, gold: str) -> Replay | None:
    """Play an answer; None when it is no list of moves.

    >>> score('[["R", 0, 1], ["B", 2, 0], ["R", 1, 2]]', '{"puzzle": "checkers", "start": "R_B"}').solved
    True
    """
    moves = None if answer is None else parse_moves(answer)
    return None if moves is None else replay(load_puzzle(gold), moves)


class PuzzleVerifier(Verifier):
    """Plays the moves; right when all are legal and end at the goal, however many there are."""

    def judge(self, extracted: Sequence[str | None], gold: Sequence[str]) -> list[Verdict]:
        """Return one verdict a pair of answer and instance."""
        return [_verdict(score(answer, instance)) for answer, instance in zip(extracted, gold, strict=True)]


def _verdict(played: Replay | None) -> Verdict:
    if played is None:
        return Verdict(False, "no list of moves")
    return Verdict(
        played.solved, "at the goal" if played.solved else "not at the goal, or by a move that is not allowed"
    )
