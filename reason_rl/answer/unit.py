"""Units: which words stand for one behind a number, and how two of them are converted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

# Dimension: names (several spellings apart by spaces) and sizes in its first unit.
SIZES = {
    "length": {
        "m meter metre": "1",
        "cm centimeter centimetre": "0.01",
        "mm millimeter millimetre": "0.001",
        "km kilometer kilometre": "1000",
        "in inch inche": "0.0254",
        "ft foot feet": "0.3048",
        "yd yard": "0.9144",
        "mi mile": "1609.344",
    },
    "mass": {
        "g gram": "1",
        "kg kilogram": "1000",
        "mg milligram": "0.001",
        "lb pound": "453.59237",
        "oz ounce": "28.349523125",
    },
    "time": {
        "s sec second": "1",
        "ms millisecond": "0.001",
        "min minute": "60",
        "h hr hour": "3600",
        "day": "86400",
        "week": "604800",
    },
    "volume": {"l liter litre": "1", "ml milliliter millilitre": "0.001"},
    "money": {"dollar usd": "1", "cent": "0.01"},
    "angle": {"degree deg": "1"},
    "warmth": {"celsius": "1"},
    "warmth by fahrenheit": {"fahrenheit": "1"},
}
NAMED = {
    name: (dimension, Fraction(size))
    for dimension, sizes in SIZES.items()
    for names, size in sizes.items()
    for name in names.split()
}
SHORT = {"a", "an", "of", "in", "the", "pm", "am"} | set("ACJKLNVWF")
SIGNS = {"\\Omega", "\\mu", "\\ell", "\\checkmark"}  # other commands are factors: 36 \pi
NO_UNIT = "or and if else mod not more less fewer least most plus minus times factorial squared cubed base"
WORD = r"(?:\\?[a-zA-Z]+\.?(?:\s*\^\s*\{?\s*-?\d\s*\}?)?)"
UNIT = re.compile(r"(?<=[\d}])(?P<unit>\s*" + WORD + r"(?:[\s/]+" + WORD + r"){0,7})\s*$")
POWER = re.compile(r"([a-zA-Z]+)\.?\s*\^\s*\{?\s*(-?\d)\s*\}?")
SPEEDS = {"mph": "mile / hour", "kph": "km / hour", "kmh": "km / hour"}
NAMED_POWERS = {"square": 2, "sq": 2, "cubic": 3}


@dataclass(frozen=True)
class Unit:
    """What is measured, as powers of dimensions, and the size of one in their first units."""

    powers: tuple[tuple[str, int], ...]
    size: Fraction


def is_unit(text: str, marked: bool) -> bool:
    r"""Return whether what stands behind a number is a unit and not, say, variables.

    Args:
        text: the words, with the space before them.
        marked: whether they stood in ``\text{...}`` or its like.

    >>> is_unit("cm", False), is_unit(" men", False), is_unit("abc", False), is_unit("or more", True), is_unit(r" \pi", False)
    (True, True, False, False, False)
    """
    shortest = 3 if text.startswith(" ") else 4
    words = re.findall(r"\\?[a-zA-Z]+", text)
    if any(word.lower() in NO_UNIT.split() or (word.startswith("\\") and word not in SIGNS) for word in words):
        return False
    return marked or all(
        word.lower() in SPEEDS or _named(word) is not None or word in SHORT | SIGNS or len(word) >= shortest
        for word in words
    )


def parse_unit(text: str) -> Unit | None:
    """Return a unit with its powers; None when any part is not known.

    >>> parse_unit("square cm").size, parse_unit("km/h").powers, parse_unit("apples")
    (Fraction(1, 10000), (('length', 1), ('time', -1)), None)
    """
    text = POWER.sub(r"\1 ^\2 ", SPEEDS.get(text.strip().lower(), text.replace(" per ", " / ")))
    powers: dict[str, int] = {}
    size, sign, times, last = Fraction(1), 1, 1, None
    for word in re.findall(r"\^-?\d|[a-zA-Z]+|/", text):
        if word == "/":
            sign = -1
        elif word in NAMED_POWERS:
            times = NAMED_POWERS[word]
        elif word.startswith("^") and last is not None:
            more = (int(word[1:]) - 1) * sign
            powers[last[0]] += more
            size *= last[1] ** more
        else:
            last = _named(word)
            if last is None:
                return None
            powers[last[0]] = powers.get(last[0], 0) + sign * times
            size *= last[1] ** (sign * times)
            times = 1
    return Unit(tuple(sorted(powers.items())), size) if powers else None


def conversion(first: str, second: str) -> tuple[Fraction, Fraction] | None:
    """Return the sizes of two units; 1 and 1 where they cannot be told, None where they measure different things.

    A power that one side leaves out is no other thing: "15 cm" for "15 cm^2".

    >>> conversion("m", "cm"), conversion("apples", "m"), conversion("m", "s") is None
    ((Fraction(1, 1), Fraction(1, 100)), (Fraction(1, 1), Fraction(1, 1)), True)
    """
    one, two = parse_unit(first), parse_unit(second)
    if one is None or two is None:
        return Fraction(1), Fraction(1)
    if one.powers == two.powers:
        return one.size, two.size
    names = [set(re.findall("[a-zA-Z]+", text)) - set(NAMED_POWERS) for text in (first, second)]
    return (Fraction(1), Fraction(1)) if names[0] == names[1] else None


def _named(word: str) -> tuple[str, Fraction] | None:
    word = word.lower()
    return NAMED.get(word) or NAMED.get(word.removesuffix("s"))
