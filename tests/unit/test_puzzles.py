"""The four puzzles: shortest solutions are the known ones, simulators refuse what is not legal, instances are solved."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.errors import RecipeError
from reason_rl.problem.sources import load_problems
from reason_rl.puzzle import blocks, checkers, hanoi, river
from reason_rl.puzzle.instances import PuzzleVerifier, load_puzzle, puzzle_problems, score
from reason_rl.puzzle.play import parse_moves, replay, solve
from reason_rl.recipe.load import load_recipe
from reason_rl.recipe.schema import PuzzleData
from reason_rl.recipe.suite import load_suite

SHORTEST = {
    "hanoi": {n: 2**n - 1 for n in range(1, 8)},
    "checkers": {n: (n + 1) ** 2 - 1 for n in range(1, 6)},
    "river": {1: 1, 2: 5, 3: 11, 4: 9, 5: 11},
    "blocks": {2: 3, 3: 6, 4: 7, 5: 10, 6: 11},
}
STANDARD = {
    "hanoi": hanoi.standard,
    "checkers": checkers.standard,
    "river": river.standard,
    "blocks": blocks.standard,
}
SMALL = {"hanoi": 3, "checkers": 2, "river": 3, "blocks": 4}


@pytest.mark.parametrize("name", SHORTEST)
def test_shortest_solutions_have_the_known_length_and_solve(name):
    for size, moves in SHORTEST[name].items():
        puzzle = STANDARD[name](size)
        path = solve(puzzle)
        played = replay(puzzle, path)
        assert len(path) == moves
        assert played.solved
        assert not replay(puzzle, path[:-1]).solved


@pytest.mark.parametrize(("size", "boat", "moves"), [(2, 3, 3), (3, 3, 5), (4, 2, None), (6, 3, None)])
def test_river_crossings_by_boat(size, boat, moves):
    path = solve(river.standard(size, boat))
    assert (path and len(path)) == moves


def test_a_size_without_solution_is_refused():
    with pytest.raises(RecipeError, match=r"data.sizes: river of size 6 has no solution"):
        list(puzzle_problems("river", [6], 1, 0))


@pytest.mark.parametrize("name", SMALL)
def test_random_legal_play_never_fails_and_a_bad_move_is_found_where_it_is(name):
    rng = random.Random(name)
    puzzle = STANDARD[name](SMALL[name])
    for _ in range(20):
        state, moves = puzzle.start, []
        for _ in range(15):
            legal = list(puzzle.moves(state))
            if not legal:
                break
            moves.append(rng.choice(legal))
            state = puzzle.step(state, moves[-1])
        at = rng.randrange(len(moves))
        bad = [*moves[:at], ("Z", 9, 9), *moves[at + 1 :]]
        assert replay(puzzle, moves).valid_prefix == len(moves)
        assert replay(puzzle, bad).first_error == replay(puzzle, bad).valid_prefix == at


@pytest.mark.parametrize(
    ("puzzle", "move"),
    [
        (hanoi.standard(2), (2, 1, 3)),
        (hanoi.standard(2), (1, 1, 1)),
        (hanoi.standard(2), (1, 0, 3)),
        (hanoi.standard(2), (1, 1)),
        (checkers.standard(1), ("R", 1, 0)),
        (checkers.standard(1), ("R", 0, 2)),
        (river.standard(2), ()),
        (river.standard(2), ("a1", "a1")),
        (river.standard(2), ("a1", "A2")),
        (river.standard(2), ("a1", "A1", "a2")),
        (river.standard(2), ("A1",)),
        (river.standard(2), ("a3",)),
        (blocks.standard(3), ("A", 1, 2)),
        (blocks.standard(3), ("B", 1, 4)),
    ],
)
def test_illegal_moves_are_refused(puzzle, move):
    assert puzzle.step(puzzle.start, move) is None


@pytest.mark.parametrize("name", SMALL)
def test_instances_are_solvable_distinct_and_the_same_each_time(name):
    sizes = sorted(SHORTEST[name])[1:4]
    problems = list(puzzle_problems(name, sizes, 4, seed=3))
    assert problems == list(puzzle_problems(name, sizes, 4, seed=3))
    assert len({problem.prompt for problem in problems}) == len({problem.id for problem in problems}) == len(problems)
    for problem in problems:
        puzzle = load_puzzle(problem.answer)
        path = solve(puzzle)
        assert puzzle.question() == problem.prompt
        assert len(path) == problem.meta["shortest_moves"] >= 2
        assert score(json.dumps(path), problem.answer).solved
    starts = [load_puzzle(problem.answer) for problem in problems]
    mirrored = [one for one in starts if one.mirror(one.start) != one.start]
    assert not {one.start for one in mirrored} & {one.mirror(one.start) for one in mirrored}


def test_an_answer_longer_than_needed_is_right_and_an_empty_or_broken_one_is_wrong():
    gold = next(iter(puzzle_problems("hanoi", [1], 1, 0))).answer
    answers = [
        "[[1, 1, 3]]",
        "[[1, 1, 2], [1, 2, 3]]",
        "[]",
        None,
        "[[1, 1, 3]",
        "[[true, 1, 3]]",
        "[[1, 1, 3], [1, 3, 1]]",
    ]
    with PuzzleVerifier() as verifier:
        verdicts = verifier.verify(answers, [gold] * len(answers))
    assert verdicts == [True, True, False, False, False, False, False]


@given(
    st.text(max_size=60) | st.recursive(st.integers() | st.text(max_size=2), st.lists, max_leaves=12).map(json.dumps)
)
def test_no_text_makes_the_simulators_fail(text):
    moves = parse_moves(text)
    if moves is not None:
        for name, size in SMALL.items():
            assert replay(STANDARD[name](size), moves).moves == len(moves)


def test_text_of_any_size_is_read_in_bounded_time():
    assert parse_moves("[" * 150_000) is None
    assert parse_moves("[[" + "9" * 100_000 + "]]") is None
    assert parse_moves(" " * 300_000) is None


@pytest.mark.parametrize("name", SHORTEST)
def test_suites_hold_and_a_wrong_checksum_or_count_does_not(name):
    suite = load_suite(name).suite
    problems = load_problems(suite.eval.data)
    assert len(problems) == suite.eval.data.count
    assert {problem.level for problem in problems} == set(suite.eval.data.sizes)
    with pytest.raises(RecipeError, match=r"expected 0{64}: not the problems that are meant"):
        load_problems(suite.eval.data.model_copy(update={"sha256": "0" * 64}))
    with pytest.raises(RecipeError, match=rf"puzzle {name} has \d+ problems, 7 are expected"):
        load_problems(suite.eval.data.model_copy(update={"count": 7}))


def test_puzzles_must_be_played_not_compared(tmp_path):
    with pytest.raises(
        RecipeError, match=r"answer.verify: math: data puzzle is graded by playing the moves; set puzzle"
    ):
        load_suite("hanoi", ["answer.verify=math"])
    with pytest.raises(RecipeError, match=r"puzzle: is for data that has instances to check against"):
        load_suite("smoke", ["answer.verify=puzzle"])
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: [recipes/tiny/dler.yaml]\neval: {data: {use: puzzle, name: hanoi, sizes: [2]}}\n")
    with pytest.raises(RecipeError):
        load_recipe(str(recipe))
    assert PuzzleData(use="puzzle", name="hanoi", sizes=[2]).per_size == 1
