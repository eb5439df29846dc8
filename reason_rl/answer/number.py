"""Numbers as people write them: integers, decimals, fractions, mixed numbers, powers of ten, other bases, with units."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from reason_rl.answer.normal import TEXT, without_text
from reason_rl.answer.unit import UNIT, conversion, is_unit
from reason_rl.answer.words import scaled, spoken

# Relative: where the gold answer is a decimal it was rounded already (1e-4 is Qwen2.5-Math's); an exact one asks for more.
GOLD_TOLERANCE, ANSWER_TOLERANCE = Fraction(1, 10_000), Fraction(1, 1_000_000)
MAX_CHARACTERS = 800
MAX_DIGITS = 400
MAX_EXPONENT = 400
SIGN = r"(?P<sign>[-+]?)\s*"
FORMS = [
    re.compile(SIGN + r"(?P<whole>\d+)\s*\\frac\s*\{\s*(?P<top>\d+)\s*\}\s*\{\s*(?P<bottom>\d+)\s*\}"),
    re.compile(SIGN + r"(?P<whole>\d+)\s+(?:and\s+)?(?P<top>\d+)\s*/\s*(?P<bottom>\d+)"),
    re.compile(SIGN + r"\\frac\s*\{\s*(?P<top>[-+]?\d*\.?\d+)\s*\}\s*\{\s*(?P<bottom>[-+]?\d*\.?\d+)\s*\}"),
    re.compile(SIGN + r"(?P<top>\d+\.?\d*)\s*(?:[/:]|to|\\div)\s*(?P<bottom>\d+\.?\d*)"),
    re.compile(
        SIGN + r"(?P<mantissa>\d+\.?\d*|\.\d+)\s*(?:\\times|\\cdot)\s*10\s*\^\s*\{?\s*(?P<exponent>[-+]?\d+)\s*\}?"
    ),
    re.compile(SIGN + r"(?P<ten>10)\s*\^\s*\{?\s*(?P<exponent>[-+]?\d+)\s*\}?"),
    re.compile(SIGN + r"(?P<digits>(?=[A-Z]*\d)[\dA-Z]+)_\{?(?P<base>\d{1,2})\}?"),
    re.compile(SIGN + r"(?P<mantissa>\d+\.?\d*|\.\d+)"),
]
PERCENT = re.compile(r"\s*(?:\\?%|per\s?cent(?:age)?(?: points?)?|pct)\s*$", re.IGNORECASE)
DEGREES = re.compile(
    r"\s*(?:\^\s*\{?\s*(?:\\circ|[oO])\s*\}?|\\degree|\bdegrees?\b)\s*(?P<scale>C|F|Celsius|Fahrenheit)?\s*$",
    re.IGNORECASE,
)
SCALES = {"c": "celsius", "f": "fahrenheit"}
MINUTES = re.compile(r"(-?\d+)\s*\^\s*\{?\s*\\circ\s*\}?\s*(\d{1,2})\s*(?:'|\\prime|\^\s*\{?\s*\\prime\s*\}?)")
DECIMAL_COMMA = re.compile(r"[-+]?(?:0,\d+|\d+,\d{1,2})")
CURRENCY = re.compile(r"^(?:\\?\$|[€£¥₹]|(?:USD|EUR|GBP|Rs\.?|US\$)\s*(?=\d))", re.IGNORECASE)
REPEATING = re.compile(r"([-+]?)(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*\{\s*(\d+)\s*\}|\(\s*(\d+)\s*\))")
GOES_ON = re.compile(r"([-+]?)(\d*)\.(\d*?)(\d+?)\4{2,}\\(?:ldots|dots|cdots)")
DOTS = ("\\ldots", "\\dots", "\\cdots")
RATIO = re.compile(r"\d+(?:\.\d+)?(?:\s*:\s*\d+(?:\.\d+)?){2,5}")


@dataclass(frozen=True)
class Number:
    """A written number: its exact value, whether it was a decimal, a percentage, and its unit and base where it has one.

    ``letter`` says that the unit is one bare letter, which may be a variable instead.
    """

    value: Fraction
    decimal: bool = False
    percent: bool = False
    unit: str = ""
    base: int | None = None
    digits: str = ""
    letter: bool = False

    @property
    def places(self) -> int:
        """Digits after the decimal point."""
        return len(self.digits.partition(".")[2])


def number(text: str) -> Number | None:
    r"""Return what a normalised answer says as a number; None when it is something else, or too large to be one.

    >>> number(r"2\frac{1}{2}").value, number("12.5 percent").percent, number("5 cm").unit, number("x")
    (Fraction(5, 2), True, 'cm', None)
    """
    if len(text) > MAX_CHARACTERS:
        return None
    marked = TEXT.search(text) is not None
    percent = PERCENT.search(without_text(text)) is not None
    text = PERCENT.sub("", without_text(text)).strip()
    text, scale = scaled(CURRENCY.sub("", text).strip())
    value = spoken(text)
    if value is None:
        value = _repeating(text)
    if value is None and (found := MINUTES.fullmatch(text)) is not None:
        value = Fraction(found[1]) + Fraction(int(found[2]), 60)
    if value is not None:
        return Number(value * scale, percent=percent)
    unit, letter = "", False
    if (found := DEGREES.search(text)) is not None:
        unit = SCALES.get((found["scale"] or "")[:1].lower(), "degree")
        text = text[: found.start()]
    plain = _plain(text)
    if (
        plain is None
        and (found := UNIT.search(text)) is not None
        and "_" not in text
        and is_unit(found["unit"], marked)
    ):
        unit, text = found["unit"].strip(), text[: found.start()]
        letter = len(unit) == 1 and not marked and not (found["unit"] != unit and unit.isupper())
        text, more = scaled(text)
        plain, scale = _plain(text.strip()), scale * more
    if plain is None:
        return None
    return Number(plain.value * scale, plain.decimal, percent, unit, plain.base, plain.digits, letter)


def _repeating(text: str) -> Fraction | None:
    """Return the value of a decimal whose digits go on for ever, as a bar over them or dots after them say."""
    found = REPEATING.fullmatch(text) or (GOES_ON.fullmatch(text) if text.endswith(DOTS) else None)
    if found is None:
        return None
    sign, whole, before = found[1], found[2], found[3]
    period = next(group for group in found.groups()[3:] if group)
    if len(whole + before + period) > MAX_DIGITS:
        return None
    rest = Fraction(int(period), 10 ** len(before) * (10 ** len(period) - 1))
    value = Fraction(int(whole + before or "0"), 10 ** len(before)) + rest
    return -value if sign == "-" else value


def same_ratio(gold: str, answer: str) -> bool | None:
    """Return whether two ratios of three or more are the same; None when they are no such ratios.

    >>> same_ratio("1:2:3", "2:4:6"), same_ratio("1:2:3", "1:2:4"), same_ratio("1:2", "2:4")
    (True, False, None)
    """
    if not (RATIO.fullmatch(gold) and RATIO.fullmatch(answer)):
        return None
    one, two = ([Fraction(part.strip()) for part in side.split(":")] for side in (gold, answer))
    return len(one) == len(two) and all(one[i] * two[0] == two[i] * one[0] for i in range(len(one)))


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
        if not 2 <= int(base) <= 36 or any(int(digit, 36) >= int(base) for digit in digits):
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
    sizes = conversion(gold.unit, answer.unit)
    if sizes is None:
        return False
    readings = [answer.value]
    wanted = [gold.value]
    if gold.percent != answer.percent:
        (wanted if gold.percent else readings).append((gold if gold.percent else answer).value / 100)
    if (
        gold.decimal
        and not answer.decimal
        and gold.places
        and abs(answer.value - gold.value) * 10**gold.places <= Fraction(1, 2)
    ):
        return True
    tolerance = GOLD_TOLERANCE if gold.decimal else ANSWER_TOLERANCE if answer.decimal else Fraction(0)
    return any(abs(g * sizes[0] - a * sizes[1]) <= tolerance * abs(g * sizes[0]) for g in wanted for a in readings)


def with_decimal_point(text: str) -> str | None:
    """Return a number with a decimal comma with a point instead; None for anything else.

    >>> with_decimal_point("0,5"), with_decimal_point("1,000")
    ('0.5', None)
    """
    return text.replace(",", ".") if DECIMAL_COMMA.fullmatch(text) else None
