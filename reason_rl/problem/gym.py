"""Which tasks of reasoning-gym are used, and how each is graded: by us, never by its own scorer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from reason_rl.errors import RecipeError

# One right answer, short and exact: graded as text or as a number.
ONE_ANSWER_NAMES = """
    aiw base_conversion basic_arithmetic binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic
    chain_sum circuit_logic color_cube_rotation count_bits count_primes decimal_arithmetic decimal_chain_sum dice
    family_relationships fraction_simplification gcd gsm_symbolic isomorphic_strings largest_island lcm leg_counting
    letter_counting list_functions manipulate_matrix maze needle_haystack number_filtering number_sequence
    number_sorting path_star prime_factorization products ransom_note rectangle_count rotate_matrix rotten_oranges
    simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation
    string_splitting string_synthesis syllogism time_intervals word_sequence_reversal word_sorting zebra_puzzles
"""
ONE_ANSWER = frozenset(ONE_ANSWER_NAMES.split())
# Several right answers: what grading needs to know of the instance, by task.
SEVERAL_ANSWERS: Mapping[str, tuple[str, ...]] = {
    "countdown": ("numbers", "target"),
    "graph_color": ("puzzle",),
    "jugs": ("puzzle",),
    "n_queens": ("puzzle",),
    "palindrome_generation": ("letters",),
    "shortest_path": ("matrix", "solution"),
}
REFUSED: Mapping[str, str] = {
    "game_of_life_halting": "its gold answers are not reliable: its scorer takes any text for right",
    "puzzle24": "its scorer never looks at the numbers of the question; countdown is graded here",
    "tower_of_hanoi": "use data puzzle hanoi, which is played move by move",
    "intermediate_integration": "right answers differ by form, and its scorer evaluates them as code",
    "simple_integration": "right answers differ by form, and its scorer evaluates them as code",
    "polynomial_multiplication": "right answers differ by form, and its scorer evaluates them as code",
}


def check_task(task: str) -> None:
    """Refuse a task that is not on the list.

    >>> check_task("chain_sum")
    >>> check_task("puzzle24")
    Traceback (most recent call last):
    ...
    reason_rl.errors.RecipeError: data.task: puzzle24 is not used: its scorer never looks at the numbers of the question; ...

    Raises:
        RecipeError: saying why.
    """
    if task not in ONE_ANSWER and task not in SEVERAL_ANSWERS:
        reason = REFUSED.get(task, "it has several right answers or none on record, and no grading here")
        raise RecipeError(f"data.task: {task} is not used: {reason}")


def needs_gym_verifier(task: str) -> bool:
    """Say whether answers must be checked against the instance, for equality with one answer proves nothing."""
    return task in SEVERAL_ANSWERS


def gold(task: str, row: Mapping[str, Any]) -> str | None:
    """Return what an answer is graded against: the one right answer, or the instance as JSON.

    >>> row = {"answer": "1 + 2", "metadata": {"numbers": [1, 2], "target": 3, "difficulty": {}}}
    >>> gold("countdown", row)
    '{"task":"countdown","numbers":[1,2],"target":3}'
    >>> gold("chain_sum", {"answer": "3"})
    '3'
    """
    if task not in SEVERAL_ANSWERS:
        return row.get("answer")
    fields = {name: row["metadata"][name] for name in SEVERAL_ANSWERS[task]}
    return json.dumps({"task": task, **fields}, separators=(",", ":"))
