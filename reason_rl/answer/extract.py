r"""Find the answer in a completion: the last ``\boxed{...}`` after the thinking."""

from __future__ import annotations

import re

# A box opens (over-escaped ones too: some models print \\boxed), an escaped character (\{ does not count), or a brace.
TOKENS = re.compile(r"(?P<box>\\{1,4}(?:boxed|fbox)\s*\{)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL)


def split_think(text: str, end_think: str | None) -> tuple[str, str | None]:
    """Split a completion into thinking and answer at the first end-of-think token.

    The answer is None when thinking was never closed; without an end-of-think token everything is answer.

    >>> split_think("2 + 2 = 4 </think> It is 4.", "</think>")
    ('2 + 2 = 4 ', ' It is 4.')
    >>> split_think("2 + 2", "</think>")
    ('2 + 2', None)
    """
    if end_think is None:
        return "", text
    thinking, closed, answer = text.partition(end_think)
    return thinking, answer if closed else None


def extract_boxed(text: str) -> str | None:
    r"""Return the content of the last complete ``\boxed{...}`` or ``\fbox{...}``; None when there is none.

    Of nested boxes the inner one counts. One pass, so that a long run of unclosed boxes costs no more than any text.

    >>> extract_boxed(r"so \boxed{1} or rather \boxed{ \frac{1}{2} }")
    '\\frac{1}{2}'
    """
    last_start, last_end = -1, -1
    opened: list[int] = []  # where the content of each open box starts, -1 for a plain brace
    for token in TOKENS.finditer(text):
        if token["box"]:
            opened.append(token.end())
        elif token["open"]:
            opened.append(-1)
        elif token["close"] and opened:
            start = opened.pop()
            if start > last_start:
                last_start, last_end = start, token.start()
    return None if last_start < 0 else text[last_start:last_end].strip()
