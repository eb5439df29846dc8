r"""Find the answer in a completion: the last ``\boxed{...}`` after the thinking."""

from __future__ import annotations

import re

BOXED = re.compile(r"\\f?boxed\s*\{")


def split_think(text: str, end_think: str | None) -> tuple[str, str | None]:
    """Split a completion into thinking and answer at the first end-of-think token.

    The answer is None when thinking was never closed; without an end-of-think token everything is answer.

    >>> split_think("2 + 2 = 4 </think> It is 4.", "</think>")
    ('2 + 2 = 4 ', ' It is 4.')
    """
    if end_think is None:
        return "", text
    thinking, closed, answer = text.partition(end_think)
    return thinking, answer if closed else None


def extract_boxed(text: str) -> str | None:
    r"""Return the content of the last complete ``\boxed{...}`` (or ``\fboxed``); None when there is none.

    >>> extract_boxed(r"so \boxed{1} or rather \boxed{ \frac{1}{2} }")
    '\\frac{1}{2}'
    """
    for match in reversed(list(BOXED.finditer(text))):
        depth = 1
        for position in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[match.end() : position].strip()
    return None
