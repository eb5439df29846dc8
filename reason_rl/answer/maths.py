r"""Formulas and tags in a text, found in one pass: an opener that nothing closes costs no second look at what follows."""

from __future__ import annotations

import re
from typing import NamedTuple

OPENER = re.compile(r"\$|\\[(\[]")
# What ends a formula, by what opens it; at least one character lies between.
CLOSERS = {
    "$$": re.compile(r"\$\$"),
    "$": re.compile(r"(?<!\\)\$(?!\d)"),
    "\\(": re.compile(r"\\\)"),
    "\\[": re.compile(r"\\\]"),
}


class Span(NamedTuple):
    """Where something stands, its marks included, and what stands between them."""

    start: int
    end: int
    content: str


def between(text: str, opener: re.Pattern[str], closer: re.Pattern[str]) -> list[Span]:
    """Return what stands between each opener and the closer after it.

    >>> between("<a>1</a> <a>2", re.compile("<a>"), re.compile("</a>"))
    [Span(start=0, end=8, content='1')]
    """
    spans: list[Span] = []
    place = 0
    while (opened := opener.search(text, place)) is not None:
        closed = closer.search(text, opened.end())
        if closed is None:
            break
        spans.append(Span(opened.start(), closed.end(), text[opened.end() : closed.start()]))
        place = closed.end()
    return spans


def formulas_in(text: str) -> list[Span]:
    r"""Return the formulas in dollars, double dollars, ``\(...\)`` and ``\[...\]``; no dollar before a number closes one.

    >>> [one.content for one in formulas_in(r"$x$, $$y$$, \(z\) and \[ 5")]
    ['x', 'y', 'z']
    """
    spans: list[Span] = []
    unclosed: set[str] = set()  # openers with no closer in the rest of the text
    place = 0
    while (opener := OPENER.search(text, place)) is not None:
        start, place = opener.start(), opener.start() + 1
        for mark in _marks(text, start):
            closed = None if mark in unclosed else CLOSERS[mark].search(text, start + len(mark) + 1)
            if closed is None:
                unclosed.add(mark)
                continue
            spans.append(Span(start, closed.end(), text[start + len(mark) : closed.start()]))
            place = closed.end()
            break
    return spans


def _marks(text: str, start: int) -> list[str]:
    """Return the openers that stand at a place, the one that is tried first before the other."""
    if text[start] != "$":
        return [text[start : start + 2]]
    single = ["$"] if text[start - 1 : start] != "\\" else []
    return ["$$", *single] if text.startswith("$$", start) else single


def without_formulas(text: str) -> str:
    """Return the text with a space for each formula.

    >>> without_formulas("so $x=1$ holds")
    'so   holds'
    """
    pieces, done = [], 0
    for one in formulas_in(text):
        pieces += [text[done : one.start], " "]
        done = one.end
    return "".join([*pieces, text[done:]])
