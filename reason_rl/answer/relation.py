r"""Relations in one variable as the sets they say: ``x<0 or x>1``, ``|x|<2``, ``a \ge 3``."""

from __future__ import annotations

import re
from typing import NamedTuple

SIGNS = {"<": "<", ">": ">", "\\le": "<=", "\\ge": ">=", "<=": "<=", ">=": ">="}
SIGN = re.compile(r"<=|>=|<|>|\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])")
OR = re.compile(r"\\text\s*\{\s*or\s*\}|\bor\b|\\lor(?![a-zA-Z])|\\vee(?![a-zA-Z])")
AND = re.compile(r"\\text\s*\{\s*and\s*\}|\band\b|\\land(?![a-zA-Z])|\\wedge(?![a-zA-Z])")
NAME = re.compile(r"\\?[a-zA-Z]+(?:_\{?\w+\}?)?(?:\([a-zA-Z]\))?")
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
MAX_CHARACTERS = 200


class Range(NamedTuple):
    """The variable and the set in LaTeX that it lies in."""

    name: str
    text: str


def as_range(text: str) -> Range | None:
    r"""Return a relation in one variable as a range; None for anything else.

    >>> as_range(r"x<0 \text{ or } x \ge 1")
    Range(name='x', text='(-\\infty,0)\\cup[1,\\infty)')
    >>> as_range("|x|<2").text, as_range("x+y<2")
    ('(-2,2)', None)
    """
    if len(text) > MAX_CHARACTERS or SIGN.search(text) is None:
        return None
    for joined, between in ((OR, "\\cup"), (AND, "\\cap")):
        pieces = joined.split(text)
        if len(pieces) > 1:
            ranges = [as_range(piece.strip(" ,")) for piece in pieces]
            found = [one for one in ranges if one is not None]
            if len(found) < len(ranges) or len({one.name for one in found}) > 1:
                return None
            return Range(
                found[0].name, (_between(found) if joined is AND else None) or between.join(one.text for one in found)
            )
    return _single(text)


def _between(ranges: list[Range]) -> str | None:
    """Return the interval between one lower and one upper end; None for anything else."""
    low = [one.text for one in ranges if one.text.endswith(",\\infty)")]
    high = [one.text for one in ranges if one.text.startswith("(-\\infty,")]
    if len(ranges) != 2 or len(low) != 1 or len(high) != 1 or "\\cup" in low[0] + high[0]:
        return None
    return low[0].removesuffix("\\infty)") + high[0].removeprefix("(-\\infty,")


def _single(text: str) -> Range | None:
    sides = [side.strip() for side in SIGN.split(text)]
    signs = [SIGNS[sign] for sign in SIGN.findall(text)]
    if not all(sides) or len(sides) > 3:
        return None
    if len(sides) == 3:
        low, name, high = sides
        if signs[0][0] != signs[1][0] or not NAME.fullmatch(name):
            return None
        if signs[0][0] == ">":
            low, high, signs = high, low, [FLIPPED[signs[1]], FLIPPED[signs[0]]]
        return Range(name, _open(signs[0]) + f"{low},{high}" + _closed(signs[1]))
    if _is_name(sides[1]) and not _is_name(sides[0]):
        sides, signs = sides[::-1], [FLIPPED[signs[0]]]
    name, end = sides
    if not _is_name(name) or _is_name(end) or "," in end:
        return None
    return _inside(name.strip("|"), end, signs[0]) if name.startswith("|") else Range(name, _half(end, signs[0]))


def _inside(name: str, end: str, sign: str) -> Range:
    if sign[0] == "<":
        return Range(
            name,
            f"{_open(sign)}-({end}),{end}{_closed(sign)}"
            if "+" in end or "-" in end
            else f"{_open(sign)}-{end},{end}{_closed(sign)}",
        )
    return Range(name, f"(-\\infty,-({end}){_closed(sign)}\\cup{_open(sign)}{end},\\infty)")


def _half(end: str, sign: str) -> str:
    return f"(-\\infty,{end}{_closed(sign)}" if sign[0] == "<" else f"{_open(sign)}{end},\\infty)"


def _open(sign: str) -> str:
    return "[" if "=" in sign else "("


def _closed(sign: str) -> str:
    return "]" if "=" in sign else ")"


def _is_name(text: str) -> bool:
    return NAME.fullmatch(text.strip("|")) is not None and text not in ("\\infty", "\\pi", "e")
