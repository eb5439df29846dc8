"""Numbers as people write them: integers, decimals, fractions, mixed numbers, powers of ten, other bases, with units."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from reason_rl.answer.normal import without_text

# Relative: where the gold answer is a decimal it was rounded already (1e-4 is Qwen2.5-Math's); an exact one asks for more.
GOLD_TOLERANCE, ANSWER_TOLERANCE = Fraction(1, 10_000), Fraction(1, 1_000_000)
MAX_DIGITS = 400
MAX_EXPONENT = 400
SIGN = r"(?P<sign>[-+]?)\s*"
FORMS = [
    re.compile(SIGN + r"(?P<whole>\d+)\s*\\frac\s*\{\s*(?P<top>\d+)\s*\}\s*\{\s*(?P<bottom>\d+)\s*\}"),
    re.compile(SIGN + r"(?P<whole>\d+)\s+(?P<top>\d+)\s*/\s*(?P<bottom>\d+)"),
    re.compile(SIGN + r"\\frac\s*\{\s*(?P<top>[-+]?\d*\.?\d+)\s*\}\s*\{\s*(?P<bottom>[-+]?\d*\.?\d+)\s*\}"),
    re.compile(SIGN + r"(?P<top>\d+\.?\d*)\s*[/:]\s*(?P<bottom>\d+\.?\d*)"),
    re.compile(
        SIGN + r"(?P<mantissa>\d+\.?\d*|\.\d+)\s*(?:\\times|\\cdot)\s*10\s*\^\s*\{?\s*(?P<exponent>[-+]?\d+)\s*\}?"
    ),
    re.compile(SIGN + r"(?P<ten>10)\s*\^\s*\{?\s*(?P<exponent>[-+]?\d+)\s*\}?"),
    re.compile(SIGN + r"(?P<digits>\d+)_\{?(?P<base>\d{1,2})\}?"),
    re.compile(SIGN + r"(?P<mantissa>\d+\.?\d*|\.\d+)"),
]
PERCENT = re.compile(r"\s*(?:\\?%|percent(?:age)?|pct)\s*$", re.IGNORECASE)
DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree|degrees?)\s*[CF]?\s*$")
UNIT = re.compile(r"(?<=[\d}])\s*(?P<unit>[a-zA-Z][a-zA-Z./ ]{0,30}?)\s*(?:\^\s*\{?\s*-?\d\s*\}?)?\s*$")
DECIMAL_COMMA = re.compile(r"[-+]?(?:0,\d+|\d+,\d{1,2})")
WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
NAMED = {word: Fraction(value) for value, word in enumerate(WORDS)} | {
    "one half": Fraction(1, 2),
    "half": Fraction(1, 2),
    "one third": Fraction(1, 3),
    "one quarter": Fraction(1, 4),
}
# Units of one dimension and their size in its first unit.
UNITS = [
    {
        "m": "1",
        "meter": "1",
        "metre": "1",
        "cm": "0.01",
        "mm": "0.001",
        "km": "1000",
        "centimeter": "0.01",
        "kilometer": "1000",
    },
    {"g": "1", "gram": "1", "kg": "1000", "kilogram": "1000", "mg": "0.001"},
    {"s": "1", "sec": "1", "second": "1", "min": "60", "minute": "60", "h": "3600", "hour": "3600", "day": "86400"},
    {"l": "1", "liter": "1", "litre": "1", "ml": "0.001", "milliliter": "0.001"},
]


@dataclass(frozen=True)
class Number:
    """A written number: its exact value, whether it was a decimal, a percentage, and its unit and base where it has one."""

    value: Fraction
    decimal: bool = False
    percent: bool = False
    unit: str = ""
    base: int | None = None
    digits: str = ""

    @property
    def places(self) -> int:
        """Digits after the decimal point."""
        return len(self.digits.partition(".")[2])


def number(text: str) -> Number | None:
    r"""Return what a normalised answer says as a number; None when it is something else, or too large to be one.

    >>> number(r"2\frac{1}{2}").value, number("12.5 percent").percent, number("5 cm").unit, number("x")
    (Fraction(5, 2), True, 'cm', None)
    """
    text = without_text(text).strip()
    if text.lower() in NAMED:
        return Number(NAMED[text.lower()])
    text = re.sub(r"^\\?\$|^[€£]", "", text).strip()
    percent = PERCENT.search(text) is not None
    text = DEGREES.sub("", PERCENT.sub("", text))
    unit = ""
    plain = _plain(text)
    if plain is None and (found := UNIT.search(text)) is not None and "_" not in text:
        unit, text = found["unit"].strip().lower(), text[: found.start()]
        plain = _plain(text.strip())
    return None if plain is None else Number(plain.value, plain.decimal, percent, unit, plain.base, plain.digits)


def _plain(text: str) -> Number | None:
    if len(re.sub(r"\D", "", text)) > MAX_DIGITS:
        return None
    for form in FORMS:
        found = form.fullmatch(text.strip())
        if found is not None:
            return _valued(found.groupdict(), text)
    return None


def _valued(parts: dict[str, str | None], text: str) -> Number | None:
    sign = -1 if parts["sign"] == "-" else 1
    digits, base = parts.get("digits"), parts.get("base")
    if digits is not None and base is not None:
        if not 2 <= int(base) <= 36 or any(int(digit) >= int(base) for digit in digits):
            return None
        return Number(sign * Fraction(int(digits, int(base))), base=int(base), digits=digits)
    decimal = "." in text
    if parts.get("bottom") is not None:
        bottom = Fraction(parts["bottom"] or "0")
        if bottom == 0:
            return None
        return Number(sign * (Fraction(parts.get("whole") or 0) + Fraction(parts["top"] or 0) / bottom), decimal)
    exponent = int(parts.get("exponent") or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    mantissa = Fraction("1" if parts.get("ten") else parts["mantissa"] or "0")
    return Number(sign * mantissa * Fraction(10) ** exponent, decimal, digits=parts.get("mantissa") or "")


def same_number(gold: Number, answer: Number) -> bool:
    """Return whether two written numbers are the same.

    Percentages equal their share and their bare number (28 % is 28 and 0.28); units count where both sides have one that can
    be converted; digits in another base equal their value and, where only the gold names the base, their spelling; decimals
    may differ by rounding, 1e-4 relative from a decimal gold, 1e-6 from an exact one; an exact answer may round to the gold.

    >>> same_number(number("5 m"), number("500 cm")), same_number(number("5 m"), number("5 km"))
    (True, False)
    """
    if gold.base is not None and answer.base is None and gold.digits == answer.digits:
        return True
    sizes = _sizes(gold.unit, answer.unit)
    if sizes is None:
        return False
    readings = [answer.value]
    wanted = [gold.value]
    if gold.percent != answer.percent:
        (wanted if gold.percent else readings).append((gold if gold.percent else answer).value / 100)
    if gold.decimal and not answer.decimal and gold.places and round(answer.value, gold.places) == gold.value:
        return True
    tolerance = GOLD_TOLERANCE if gold.decimal else ANSWER_TOLERANCE if answer.decimal else Fraction(0)
    return any(abs(g * sizes[0] - a * sizes[1]) <= tolerance * abs(g * sizes[0]) for g in wanted for a in readings)


def _sizes(first: str, second: str) -> tuple[Fraction, Fraction] | None:
    """Return the sizes of two units; 1 and 1 where they cannot be told, None where they measure different things."""
    one, two = (name.rstrip("s") if len(name) > 2 else name for name in (first, second))
    kinds = [next((kind for kind in UNITS if name in kind), None) for name in (one, two)]
    if kinds[0] is None or kinds[1] is None:
        return Fraction(1), Fraction(1)
    return (Fraction(kinds[0][one]), Fraction(kinds[1][two])) if kinds[0] is kinds[1] else None


def with_decimal_point(text: str) -> str | None:
    """Return a number with a decimal comma with a point instead; None for anything else.

    >>> with_decimal_point("0,5"), with_decimal_point("1,000")
    ('0.5', None)
    """
    return text.replace(",", ".") if DECIMAL_COMMA.fullmatch(text) else None
