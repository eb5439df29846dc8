"""Numbers in English words: cardinals, fractions of them, and the scales that stand after digits."""

from __future__ import annotations

import re
from fractions import Fraction

NAMES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
PARTS = {
    "half": 2,
    "halve": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "seventh": 7,
    "eighth": 8,
    "ninth": 9,
    "tenth": 10,
}
SMALL = {word: value for value, word in enumerate(NAMES.split())} | {
    word: 10 * (i + 2) for i, word in enumerate(TENS.split())
}
SCALED = re.compile(r"(.*\d\S*)\s*\b(" + "|".join(SCALES) + r"|dozen)\b(.*)", re.IGNORECASE)
MAX_WORDS = 12


def spoken(text: str) -> Fraction | None:
    """Return what a number in words says; None for anything else.

    >>> spoken("twenty-one"), spoken("three quarters"), spoken("two hundred and five"), spoken("a bank")
    (Fraction(21, 1), Fraction(3, 4), Fraction(205, 1), None)
    """
    words = [word for word in text.lower().replace("-", " ").split() if word != "and"]
    if not 0 < len(words) <= MAX_WORDS:
        return None
    part = PARTS.get(words[-1].removesuffix("s"))
    if part is None:
        return _cardinal(words)
    if len(words) == 1:
        return Fraction(1, 2) if part == 2 else None  # a "third" alone is a place
    top = Fraction(1) if words[-2] in ("a", "an") else _cardinal(words[-2:-1])
    whole = _cardinal(words[:-2]) if len(words) > 2 else Fraction(0)
    return None if top is None or whole is None else whole + top / part


def scaled(text: str) -> tuple[str, int]:
    """Return a number without the scale that stands after its digits, and the scale.

    >>> scaled("2.5 million"), scaled("7 apples")
    (('2.5 ', 1000000), ('7 apples', 1))
    """
    found = SCALED.fullmatch(text)
    if found is None:
        return text, 1
    return f"{found[1]} {found[3].strip()}", SCALES.get(found[2].lower(), 12)


def _cardinal(words: list[str]) -> Fraction | None:
    total = group = 0
    for word in words:
        if word in SMALL:
            group += SMALL[word]
        elif word == "hundred":
            group = (group or 1) * 100
        elif word in SCALES:
            total, group = total + (group or 1) * SCALES[word], 0
        else:
            return None
    return Fraction(total + group)
