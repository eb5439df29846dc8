r"""Lists, tuples, sets, unions and matrices piece by piece, so that each piece is compared like an answer of its own."""

from __future__ import annotations

import re
from typing import NamedTuple

from reason_rl.answer.normal import normal
from reason_rl.answer.relation import SIGN, as_range

MAX_PARTS = 16
MATRIX = re.compile(r"\\begin\{([pbv]?matrix)\}(.*)\\end\{\1\}", re.DOTALL)
COMMAND = re.compile(r"\\[a-zA-Z]+|\\.|.", re.DOTALL)
CONJUNCTION = re.compile(r"\\(?:text|mbox|mathrm)\s*\{\s*,?\s*(?:and|or)\s*,?\s*\}|\b(?:and|or)\b")
EITHER = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])")
REVERSED = re.compile(r"([^=<>]+)=\s*([a-zA-Z])")
SEPARATORS = {",", ";"}


class Parts(NamedTuple):
    """What holds the parts together (list, set, cup, the brackets around them, or rows x columns), and the parts."""

    kind: str
    items: tuple[str, ...]


def parts_of(text: str) -> Parts | None:
    r"""Return the parts of a normalised answer; None when it is in one piece or has too many.

    >>> parts_of("(1,2)"), parts_of("x=1, 2"), parts_of(r"\{3\}")
    (Parts(kind='()', items=('1', '2')), Parts(kind='list', items=('x=1', '2')), Parts(kind='set', items=('3',)))
    """
    text = text.strip()
    if (matrix := MATRIX.fullmatch(text)) is not None:
        rows = [row.split("&") for row in matrix[2].split("\\\\") if row.strip()]
        kind = f"{len(rows)}x{len(rows[0]) if rows else 0}"
        return _whole(kind, [cell for row in rows for cell in row]) if len({len(row) for row in rows}) == 1 else None
    pieces = _split(text, {"\\cup"})
    if len(pieces) > 1:
        return _whole("cup", pieces)
    if SIGN.search(text) is not None and (joined := CONJUNCTION.search(text)) is not None:
        return _whole("and" if "and" in joined[0] else "or", CONJUNCTION.split(text))
    pieces = _split(CONJUNCTION.sub(",", text), SEPARATORS)
    pieces = [piece for piece in pieces if piece.strip()] if CONJUNCTION.search(text) else pieces
    if len(pieces) > 1:
        return _whole("list", pieces)
    if text.startswith("\\{") and text.endswith("\\}"):
        return _whole("set", _split(text[2:-2], SEPARATORS))
    if text[:1] in ("(", "[") and text[-1:] in (")", "]"):
        pieces = _split(text[1:-1], SEPARATORS)
        return _whole(text[0] + text[-1], pieces) if len(pieces) > 1 else None
    return None


def pairings(gold: Parts, answer: Parts) -> tuple[bool, list[list[tuple[str, str]]]] | None:
    """Return whether order counts and the pairs (answer part, gold part) to compare, a list a gold part; None if never equal.

    >>> pairings(Parts("list", ("1", "2")), Parts("list", ("2", "1")))
    (False, [[('2', '1'), ('1', '1')], [('2', '2'), ('1', '2')]])
    """
    if len(gold.items) != len(answer.items):
        return None
    ordered = gold.kind not in ("list", "set", "cup", "and", "or")
    kinds = {gold.kind, answer.kind}
    if len(kinds) > 1 and kinds != {"list", "set"} and not (kinds == {"list", "()"} and len(gold.items) > 1):
        return None
    if "()" in kinds:
        ordered = True
    if ordered:
        return True, [[pair] for pair in zip(answer.items, gold.items, strict=True)]
    return False, [[(got, wanted) for got in answer.items] for wanted in gold.items]


def all_match(ordered: bool, right: list[list[bool]]) -> bool:
    """Return whether each gold part has an answer part of its own.

    >>> all_match(False, [[False, True], [True, True]]), all_match(False, [[True, False], [True, False]])
    (True, False)
    """
    if ordered:
        return all(row[0] for row in right)
    taken: dict[int, int] = {}
    return all(_take(right, row, set(), taken) for row in range(len(right)))


def _take(right: list[list[bool]], row: int, seen: set[int], taken: dict[int, int]) -> bool:
    for column, equal in enumerate(right[row]):
        if equal and column not in seen:
            seen.add(column)
            if column not in taken or _take(right, taken[column], seen, taken):
                taken[column] = row
                return True
    return False


def rewritten(gold: str, answer: str) -> tuple[str, str]:
    r"""Return both sides with relations as ranges, each plus-or-minus as two, and ``3 = x`` turned round.

    >>> rewritten("(-2,2)", "|x|<2"), rewritten(r"\pm 2", "2, -2")
    (('(-2,2)', '(-2,2)'), ('+ 2, - 2', '2, -2'))
    """
    ranges = as_range(gold), as_range(answer)
    if not (ranges[0] and ranges[1] and ranges[0].name != ranges[1].name):
        gold, answer = (one.text if one else text for one, text in zip(ranges, (gold, answer), strict=True))
    return _either(_turned(gold)), _either(_turned(answer))


def _turned(text: str) -> str:
    found = REVERSED.fullmatch(text)
    return (
        f"{found[2]}={found[1]}" if found is not None and re.fullmatch("[a-zA-Z]", found[1].strip()) is None else text
    )


def _either(text: str) -> str:
    if EITHER.search(text) is None:
        return text
    pieces: list[str] = []
    for piece in _split(text.removeprefix("\\{").removesuffix("\\}") if text.startswith("\\{") else text, SEPARATORS):
        signs = EITHER.findall(piece)
        if len(signs) > 2 or signs.count("\\pm") > 1 or signs.count("\\mp") > 1:
            return text
        upper = piece.replace("\\pm", "+").replace("\\mp", "-")
        lower = piece.replace("\\pm", "-").replace("\\mp", "+")
        pieces += [upper.strip(), lower.strip()] if signs else [piece.strip()]
    return ", ".join(pieces)


def _split(text: str, separators: set[str]) -> list[str]:
    pieces, depth, start = [], 0, 0
    for token in COMMAND.finditer(text):
        if token[0] in ("(", "[", "{", "\\{"):
            depth += 1
        elif token[0] in (")", "]", "}", "\\}"):
            depth -= 1
        elif depth == 0 and token[0] in separators:
            pieces.append(text[start : token.start()])
            start = token.end()
    return [*pieces, text[start:]]


def _whole(kind: str, pieces: list[str]) -> Parts | None:
    items = tuple(normal(piece) for piece in pieces)
    return Parts(kind, items) if all(items) and len(items) <= MAX_PARTS else None
