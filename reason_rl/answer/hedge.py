r"""Answers that name two different numbers where one is asked for: math-verify would drop one of them and take the other."""

from __future__ import annotations

import re
from itertools import pairwise

from reason_rl.answer.normal import without_text
from reason_rl.answer.number import Number, number, same_number

DOUBT = re.compile(r"\b(?:or|but|either|maybe|perhaps|possibly|alternatively)\b", re.IGNORECASE)
RELATION = re.compile(r"[<>]|\\(?:ne|le|ge|approx)(?![a-zA-Z])")
WRITTEN = re.compile(r"[-+]?\d+(?:[.,]\d+)*")
CALCULATED = re.compile(r"[\\^*/+=_]")
PIECE = re.compile(r"(?P<number>[-+]?\d[\d.,]*)|(?P<word>[a-z]{2,})|(?P<comma>[,;])|\S")
TWO_QUANTITIES = re.compile(r"n[wc]*w[wc]*nw*")
ONE_QUANTITY = {"of", "out", "per", "in", "from", "to", "than", "at", "by", "for", "every", "each", "base", "or"}


def hedges(gold: str, answer: str) -> bool:
    r"""Return whether an answer says "or" with another number, names two quantities, or equates two different numbers.

    >>> hedges("7", r"7 \text{ or maybe 8}"), hedges("7", "8=7"), hedges("0.5", r"\frac{1}{2} \text{ or } 0.5")
    (True, True, False)
    >>> hedges("3", r"3 \text{ hours } 20 \text{ minutes}"), hedges("3", r"3 \text{ out of } 20")
    (True, False)
    """
    wanted = number(gold)
    if wanted is None:
        return False
    words = without_text(answer)
    if DOUBT.search(words) and any(not _same(wanted, one) for one in map(_alternative, DOUBT.split(words)) if one):
        return True
    if _two_quantities(words):
        return True
    if "=" not in words or RELATION.search(words):
        return False
    sides = [side for side in map(number, answer.split("=")) if side is not None]
    return any(not _same(*two) for two in pairwise(sides))


def _two_quantities(words: str) -> bool:
    """Return whether words between and behind two numbers, and nothing else, make two quantities of them."""
    pieces = list(PIECE.finditer(words.lower()))
    kinds = "".join((piece.lastgroup or "other")[0] for piece in pieces)
    return TWO_QUANTITIES.fullmatch(kinds) is not None and ONE_QUANTITY.isdisjoint(piece[0] for piece in pieces)


def _alternative(text: str) -> Number | None:
    """Return the number of one alternative; None where there is none, or it is to be worked out."""
    text = text.strip(" (),.;:")
    written = WRITTEN.search(text)
    if (found := number(text)) is not None or written is None or CALCULATED.search(text):
        return found
    return number(written[0])


def _same(one: Number, other: Number) -> bool:
    """Return whether two numbers are the same, or one is the other rounded."""
    return same_number(one, other) or same_number(other, one)
