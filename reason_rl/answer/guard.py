r"""Say what is not given to the algebra, because it would blow up when it is evaluated."""

from __future__ import annotations

import math
import re

MAX_CHARACTERS = 800  # of a formula
MAX_NESTING = 12
MAX_DIGITS = 400  # in a row
MAX_EXPONENT = 9_999  # of what has no value known here
MAX_POWER_DIGITS = 20_000  # of a power whose value is known: 99^9999 has as many
TOWER = 3  # powers, one in the exponent of the other
HUGE_FACTORIAL = re.compile(r"(?:\d{5,}|[4-9]\d{3})\s*!|\)\s*!\s*\)\s*!")
TOKEN = re.compile(r"\\[a-zA-Z]+|\\[^\sa-zA-Z]|\d+(?:\.\d+)?|[^\s\\]")
OPENING, CLOSING = "([{", ")]}"
SIGNS = ("+", "-")
TIMES = ("*", "\\cdot", "\\times")


def unverifiable(text: str) -> str | None:
    r"""Return why a symbolic comparison is not tried: what blows up when it is evaluated; None when it may be tried.

    >>> unverifiable("9^{9^{9^{9}}}"), unverifiable("2^{10}"), unverifiable("2^{2^5}"), unverifiable("x^2+y^2+z^2")
    ('a tower of powers', None, None, None)
    """
    if len(text) > MAX_CHARACTERS:
        return f"more than {MAX_CHARACTERS} characters"
    if max((len(run) for run in re.findall(r"\d+", text)), default=0) > MAX_DIGITS:
        return f"more than {MAX_DIGITS} digits in a row"
    if _nesting(text) > MAX_NESTING:
        return f"brackets nested more than {MAX_NESTING} deep"
    return Powers(text).blown_up() or ("a huge factorial" if HUGE_FACTORIAL.search(text) else None)


def _nesting(text: str) -> int:
    deepest = depth = 0
    for character in text:
        if character in OPENING:
            depth += 1
            deepest = max(deepest, depth)
        elif character in CLOSING:
            depth -= 1
    return deepest


class Powers:
    """The powers of a formula: how high they are stacked, and how large they are where that is cheap to tell."""

    def __init__(self, text: str) -> None:
        self.tokens = TOKEN.findall(text)
        self.partner = _partners(self.tokens)
        self.carets = [place for place, token in enumerate(self.tokens) if token == "^"]
        self.end: dict[int, int] = {}  # of the exponent, by caret
        self.height: dict[int, int] = {}
        for caret in reversed(self.carets):  # what stands in an exponent stands after its caret
            self.end[caret] = self._exponent_end(caret)
            inside = (self.height[one] for one in self.carets if caret < one < self.end[caret])
            self.height[caret] = 1 + max(inside, default=0)

    def blown_up(self) -> str | None:
        """Return what is too large, if anything is."""
        highest = max(self.height.values(), default=0)
        if highest > MAX_NESTING:
            return "a tower of powers"
        outer = dict.fromkeys(self.carets, 1.0)  # the exponent of a power multiplies those in its base
        for caret in reversed(self.carets):
            exponent = self._value(caret + 1, self.end[caret])
            if exponent is not None:
                whole = abs(exponent) * outer[caret]
                large = not whole <= MAX_EXPONENT and not self._digits(caret, whole) <= MAX_POWER_DIGITS
                for inner in self.carets:
                    if self._base_start(caret) <= inner < caret:
                        outer[inner] *= max(1.0, abs(exponent))
            else:
                large = self.height[caret] >= TOWER or self._opens_with_a_power(caret)
            if large:
                return "a tower of powers" if highest >= TOWER else "a huge power"
        return None

    def _exponent_end(self, caret: int) -> int:
        """Return where an exponent ends; in ``2^3^4`` it is ``3^4``."""
        tokens, start = self.tokens, caret + 1
        while start < len(tokens) and tokens[start] in SIGNS:
            start += 1
        end = self._group_end(start)
        while tokens[start : start + 1] and tokens[start][0] == "\\" and tokens[end : end + 1] == ["{"]:
            end = self._group_end(end)
        return self.end[end] if tokens[end : end + 1] == ["^"] else min(end, len(tokens))

    def _group_end(self, start: int) -> int:
        """Return where a token, or what its bracket holds, ends."""
        opened = self.tokens[start : start + 1] and self.tokens[start] in OPENING
        return self.partner.get(start, len(self.tokens)) + 1 if opened else start + 1

    def _base_start(self, caret: int) -> int:
        return self.partner.get(caret - 1, caret - 1)

    def _digits(self, caret: int, exponent: float) -> float:
        """Return the digits of a power, infinitely many where its base has no value known here."""
        base = self._value(max(self._base_start(caret), 0), caret)
        return math.inf if base is None or base % 1 else exponent * math.log10(max(abs(base), 1.0))

    def _opens_with_a_power(self, caret: int) -> bool:
        """Return whether an exponent of no known value begins with a power of a number that is large or not known."""
        first = caret + 1
        while first < self.end[caret] and self.tokens[first] in (*SIGNS, "{", "("):
            first += 1
        if self.tokens[first + 1 : first + 2] != ["^"] or not self.tokens[first][0].isdigit():
            return False
        value = self._value(first, self.end[first + 1])
        return value is None or not value <= MAX_EXPONENT

    def _value(self, start: int, end: int) -> float | None:
        """Return the value of sums, products and powers of written numbers; None of anything else."""
        try:
            value, place = self._sum(start, end)
        except OverflowError:
            return math.inf
        except (ValueError, ZeroDivisionError):
            return None
        return value if place == end else None

    def _sum(self, place: int, end: int) -> tuple[float, int]:
        total, first = 0.0, True
        while first or (place < end and self.tokens[place] in SIGNS):
            sign, first = 1.0, False
            while place < end and self.tokens[place] in SIGNS:
                sign, place = -sign if self.tokens[place] == "-" else sign, place + 1
            value, place = self._product(place, end)
            total += sign * value
        return total, place

    def _product(self, place: int, end: int) -> tuple[float, int]:
        product, place = self._power(place, end)
        while place < end and self.tokens[place] in (*TIMES, "/"):
            divided = self.tokens[place] == "/"
            value, place = self._power(place + 1, end)
            product = product / value if divided else product * value
        return product, place

    def _power(self, place: int, end: int) -> tuple[float, int]:
        if place >= end:
            raise ValueError("nothing to evaluate")
        if self.tokens[place] in OPENING and place in self.partner:
            base, stopped = self._sum(place + 1, self.partner[place])
            if stopped != self.partner[place]:
                raise ValueError("more than numbers")
            place = stopped + 1
        else:
            base, place = float(self.tokens[place]), place + 1
        if place < end and self.tokens[place] == "^":
            exponent, stopped = self._sum(place + 1, self.end[place])
            if stopped != self.end[place]:
                raise ValueError("more than numbers")
            return math.pow(base, exponent), stopped
        return base, place


def _partners(tokens: list[str]) -> dict[int, int]:
    """Return where each bracket that is closed is closed, and the other way round."""
    partners: dict[int, int] = {}
    opened: list[int] = []
    for place, token in enumerate(tokens):
        if token in OPENING:
            opened.append(place)
        elif token in CLOSING and opened:
            partners[place] = opened.pop()
            partners[partners[place]] = place
    return partners
