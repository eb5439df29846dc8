"""Grades gym answers of which several are right, from the instance alone; nothing a model wrote is run or evaluated."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from reason_rl.answer.compare import NO_ANSWER, Verdict
from reason_rl.answer.verify import Verifier

Instance = Mapping[str, Any]
LONGEST_ANSWER = 20_000  # characters
DEEPEST = 50  # parentheses within each other
DIRECTIONS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


class GymVerifier(Verifier):
    """Right or wrong, never in part; an answer that cannot be read is wrong."""

    def judge(self, extracted: Sequence[str | None], gold: Sequence[str]) -> list[Verdict]:
        """Return one verdict a pair of answer and instance."""
        return [_verdict(answer, instance) for answer, instance in zip(extracted, gold, strict=True)]


def _verdict(answer: str | None, instance: str) -> Verdict:
    if answer is None:
        return NO_ANSWER
    right = grade(answer, instance)
    return Verdict(right, "solves the instance" if right else "does not solve the instance")


def grade(answer: str, gold: str) -> bool:
    """Check an answer against an instance written by :func:`reason_rl.problem.gym.gold`.

    >>> instance = '{"task":"countdown","numbers":[2,3,4],"target":20}'
    >>> grade("4 * (2 + 3)", instance), grade("20", instance), grade("4 * 3 + 2 * 4", instance)
    (True, False, False)
    """
    if len(answer) > LONGEST_ANSWER:
        return False
    instance = json.loads(gold)
    checks: dict[str, Callable[[str, Instance], bool]] = {
        "countdown": _countdown,
        "graph_color": _graph_color,
        "jugs": _jugs,
        "n_queens": _n_queens,
        "palindrome_generation": _palindrome,
        "shortest_path": _shortest_path,
    }
    return checks[instance["task"]](answer, instance)


def _countdown(answer: str, instance: Instance) -> bool:
    result = arithmetic(answer)
    if result is None:
        return False
    value, numbers = result
    return value == instance["target"] and Counter(numbers) == Counter(instance["numbers"])


def arithmetic(text: str) -> tuple[Fraction, list[int]] | None:
    r"""Return the value of an expression of whole numbers, + - * / and parentheses, and the numbers in it.

    None for anything else: a division by zero, a power, a name, a number of more than nine digits.

    >>> arithmetic("(6 - 2) / 8")
    (Fraction(1, 2), [6, 2, 8])
    >>> arithmetic("9 ** 9"), arithmetic("1 / 0"), arithmetic("(1"), arithmetic("f(1)")
    (None, None, None, None)
    """
    text = text.replace(r"\times", "*").replace(r"\cdot", "*").replace(r"\div", "/")
    tokens = re.findall(r"\d+|\S", text)
    if any(not (token in "+-*/()" or (token.isascii() and token.isdigit() and len(token) < 10)) for token in tokens):
        return None
    reader = _Arithmetic(tokens)
    try:
        value = reader.sum(0)
    except (ValueError, ZeroDivisionError):
        return None
    return (value, reader.numbers) if not reader.tokens else None


class _Arithmetic:
    """Recursive descent over tokens."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.numbers = tokens[::-1], list[int]()

    def _take(self, among: str) -> str | None:
        return self.tokens.pop() if self.tokens and self.tokens[-1] in among else None

    def sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while sign := self._take("+-"):
            other = self._product(depth)
            value = value + other if sign == "+" else value - other
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._atom(depth)
        while sign := self._take("*/"):
            other = self._atom(depth)
            value = value * other if sign == "*" else value / other
        return value

    def _atom(self, depth: int) -> Fraction:
        if depth > DEEPEST or not self.tokens:
            raise ValueError("too deep, or nothing there")
        token = self.tokens.pop()
        if token == "(":
            value = self.sum(depth + 1)
            if self._take(")") is None:
                raise ValueError("not closed")
            return value
        if token == "-":
            return -self._atom(depth + 1)
        self.numbers.append(int(token))
        return Fraction(int(token))


def _json(answer: str) -> Any:
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        return None


def _graph_color(answer: str, instance: Instance) -> bool:
    colours, graph = _json(answer), instance["puzzle"]
    if not isinstance(colours, dict) or colours.keys() != {str(vertex) for vertex in graph["vertices"]}:
        return False
    if not all(type(colour) is int and colour in graph["color_options"] for colour in colours.values()):
        return False
    return all(colours[str(a)] != colours[str(b)] for a, b in graph["edges"])


def _jugs(answer: str, instance: Instance) -> bool:
    moves, full = _json(answer), instance["puzzle"]["jug_capacities"]
    if not isinstance(moves, list) or not moves:
        return False
    held = [0] * len(full)
    for move in moves:
        match = re.fullmatch(r"(fill|empty) ([A-Z])|pour ([A-Z])->([A-Z])", move) if isinstance(move, str) else None
        jugs = [ord(name) - ord("A") for name in (match.groups()[1:] if match else ()) if name]
        if match is None or max(jugs) >= len(full) or len(set(jugs)) < len(jugs):
            return False
        if match[1]:
            held[jugs[0]] = full[jugs[0]] if match[1] == "fill" else 0
        else:
            source, target = jugs
            poured = min(held[source], full[target] - held[target])
            held[source], held[target] = held[source] - poured, held[target] + poured
    return instance["puzzle"]["target"] in held


def _n_queens(answer: str, instance: Instance) -> bool:
    given = instance["puzzle"]
    board = [line.split() for line in answer.strip().splitlines()]
    size = len(given)
    if len(board) != size or any(len(row) != size or set(row) - {"Q", "_"} for row in board):
        return False
    queens = [(i, j) for i in range(size) for j in range(size) if board[i][j] == "Q"]
    kept = all(board[i][j] == "Q" for i in range(size) for j in range(size) if given[i][j] == "Q")
    lines = [{key(i, j) for i, j in queens} for key in (_row, _column, _rising, _falling)]
    return kept and len(queens) == size and all(len(line) == size for line in lines)


def _row(i: int, _: int) -> int:
    return i


def _column(_: int, j: int) -> int:
    return j


def _rising(i: int, j: int) -> int:
    return i + j


def _falling(i: int, j: int) -> int:
    return i - j


def _palindrome(answer: str, instance: Instance) -> bool:
    text = answer.strip().lower()
    return text == text[::-1] and sorted(text) == sorted(instance["letters"])


def _shortest_path(answer: str, instance: Instance) -> bool:
    grid, shortest = instance["matrix"], instance["solution"]
    steps = answer.split()
    if not shortest:
        return steps == ["infeasible"]
    if len(steps) != len(shortest):
        return False
    place = next((i, j) for i, row in enumerate(grid) for j, cell in enumerate(row) if cell == "*")
    for step in steps:
        if step not in DIRECTIONS:
            return False
        place = (place[0] + DIRECTIONS[step][0], place[1] + DIRECTIONS[step][1])
        if not (0 <= place[0] < len(grid) and 0 <= place[1] < len(grid[0])) or grid[place[0]][place[1]] == "X":
            return False
    return bool(grid[place[0]][place[1]] == "#")
