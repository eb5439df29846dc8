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


def hedges(gold: str, answer: str) -> bool:
    r"""Return whether an answer says "or" with another number, or that two different numbers are equal.

    >>> hedges("7", r"7 \text{ or maybe 8}"), hedges("7", "8=7"), hedges("0.5", r"\frac{1}{2} \text{ or } 0.5")
    (True, True, False)
    """
    wanted = number(gold)
    if wanted is None:
        return False
    words = without_text(answer)
    if DOUBT.search(words) and any(not _same(wanted, one) for one in map(_alternative, DOUBT.split(words)) if one):
        return True
    if "=" not in words or RELATION.search(words):
        return False
    sides = [side for side in map(number, answer.split("=")) if side is not None]
    return any(not _same(*two) for two in pairwise(sides))


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
