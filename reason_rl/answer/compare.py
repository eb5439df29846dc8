r"""Compare an answer with the gold one as text and as numbers; say what is left for a symbolic comparison."""

from __future__ import annotations

import re
from dataclasses import dataclass

from reason_rl.answer.normal import normal, one_line, squeezed, without_text
from reason_rl.answer.number import number, same_number, with_decimal_point

MAX_CHARACTERS = 800
MAX_NESTING = 12
MAX_DIGITS = 400
TOWER = re.compile(r"\^\s*\{?\s*\(?[^{}^\s]{1,40}\^\s*\{?\s*\(?[^{}^\s]{1,40}\^")
HUGE_POWER = re.compile(r"\^\s*\{?\s*\(?\s*-?(?:\d{5,}|\d+\s*\^)")
HUGE_FACTORIAL = re.compile(r"\d{4,}\s*!|\)\s*!\s*\)\s*!")
CHOICE = re.compile(r"\(?([A-J])\)?")
CHOSEN = re.compile(r"\(?\s*([A-Ja-j])\s*\)?\s*(?:$|[.:)]|\s)")
ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
HALF_OF_DAY = re.compile(r"(?<=\d)\s*[ap]\.?\s*m\b\.?$", re.IGNORECASE)
MONTH = re.compile(r"\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)", re.IGNORECASE)
NOTHING = {
    "nosolution",
    "nosolutions",
    "\\emptyset",
    "dne",
    "doesnotexist",
    "none",
    "\\\\",
    "\\{\\}",
    "undefined",
    "norealsolution",
}
SET = re.compile(r"\\\{.*\\\}")
TUPLE = re.compile(r"\(.*\)")
SUBSCRIPT_TEXT = re.compile(r"_\s*\{?\s*\\(?:text|mathrm)\s*\{\s*(\w+)\s*\}\s*\}?")
MATRIX = re.compile(r"\\begin\{[pbv]?matrix\}")
COLUMN = re.compile(r"\\begin\{pmatrix\}[^&]*\\end\{pmatrix\}")


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right (None = it cannot be told), and why."""

    correct: bool | None
    reason: str


NO_GOLD = Verdict(None, "no gold answer")
NO_ANSWER = Verdict(False, "no answer")
SAME_TEXT = Verdict(True, "same text")
SAME_NUMBER = Verdict(True, "same number")
SAME_CHOICE = Verdict(True, "same choice")
OTHER_NUMBER = Verdict(False, "another number")
OTHER_CHOICE = Verdict(False, "another choice")
OTHER_TEXT = Verdict(False, "other words")
OTHER_KIND = Verdict(False, "a tuple for a set")


def compare_texts(gold: str, answer: str | None) -> Verdict | None:
    r"""Return a verdict that needs no algebra, None when it takes a symbolic comparison.

    >>> compare_texts("1/2", r"\dfrac12"), compare_texts("x+1", "1+x")
    (Verdict(correct=True, reason='same number'), None)
    """
    if not gold.strip():
        return NO_GOLD
    if answer is None or not answer.strip():
        return NO_ANSWER
    wanted, got = spelled(gold, answer)
    if not got:
        return NO_ANSWER
    if squeezed(wanted) == squeezed(got):
        return SAME_TEXT
    if ((letter := CHOICE.fullmatch(without_text(wanted).strip())) is not None and "(" in wanted + got) or letter:
        chosen = CHOSEN.match(without_text(got).strip())
        if chosen is not None:
            return SAME_CHOICE if chosen[1].upper() == letter[1] else OTHER_CHOICE
    numbers = _numbers(wanted, got)
    if numbers is not None:
        return numbers
    if SET.fullmatch(wanted) and TUPLE.fullmatch(got):
        return OTHER_KIND
    return _words(wanted, got)


def spelled(gold: str, answer: str) -> tuple[str, str]:
    """Return both sides normalised; where only the answer is a matrix, its rows are taken as pieces of one formula."""
    pieces = MATRIX.search(answer) is not None and MATRIX.search(gold) is None
    return normal(gold), normal(one_line(answer) if pieces else answer)


def _numbers(wanted: str, got: str) -> Verdict | None:
    gold, answer = number(wanted), number(HALF_OF_DAY.sub("", got))
    if gold is None:
        gold = number(HALF_OF_DAY.sub("", wanted))
    comma = with_decimal_point(wanted), with_decimal_point(got)
    if gold is None and comma[0] is not None:
        gold = number(comma[0])
    if answer is None and comma[1] is not None:
        answer = number(comma[1])
    if gold is None or answer is None:
        return None
    return SAME_NUMBER if same_number(gold, answer) else OTHER_NUMBER


def _words(wanted: str, got: str) -> Verdict | None:
    first, second = (ARTICLE.sub("", " ".join(without_text(text).split())).lower() for text in (wanted, got))
    if first == second:
        return SAME_TEXT
    if {squeezed(wanted), squeezed(got)} <= NOTHING:
        return SAME_TEXT
    plain = all(re.fullmatch(r"[a-z0-9 ,.'-]*[a-z]{3}[a-z0-9 ,.'-]*", text) for text in (first, second))
    if not plain:
        return None
    if MONTH.search(first) and sorted(first.replace(",", " ").split()) == sorted(second.replace(",", " ").split()):
        return SAME_TEXT
    return OTHER_TEXT if re.search(r"[a-z]{3}", first) and not re.search(r"\d", first + second) else None


def unverifiable(text: str) -> str | None:
    r"""Return why a symbolic comparison is not tried: what blows up when it is evaluated; None when it may be tried.

    >>> unverifiable("9^{9^{9^{9}}}"), unverifiable("2^{10}")
    ('a tower of powers', None)
    """
    if len(text) > MAX_CHARACTERS:
        return f"more than {MAX_CHARACTERS} characters"
    if max((len(run) for run in re.findall(r"\d+", text)), default=0) > MAX_DIGITS:
        return f"more than {MAX_DIGITS} digits in a row"
    if _nesting(text) > MAX_NESTING:
        return f"brackets nested more than {MAX_NESTING} deep"
    if TOWER.search(text):
        return "a tower of powers"
    if HUGE_POWER.search(text):
        return "a huge power"
    return "a huge factorial" if HUGE_FACTORIAL.search(text) else None


def _nesting(text: str) -> int:
    deepest = depth = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest


def for_algebra(gold: str, answer: str) -> tuple[str, str]:
    r"""Return both sides in the spelling that the symbolic comparison gets.

    A tuple for a column vector becomes a column; degrees and radians meet in radians.

    >>> for_algebra(r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1,2)")[1]
    '\\begin{pmatrix}1 \\\\ 2\\end{pmatrix}'
    """
    wanted, got = (SUBSCRIPT_TEXT.sub(r"_{\1}", side) for side in spelled(gold, answer))
    if COLUMN.fullmatch(wanted) and TUPLE.fullmatch(got):
        got = "\\begin{pmatrix}" + " \\\\ ".join(part.strip() for part in got[1:-1].split(",")) + "\\end{pmatrix}"
    if ("\\circ" in wanted) != ("\\circ" in got) and "\\pi" in wanted + got:
        wanted, got = (re.sub(r"\^\s*\{?\s*\\circ\s*\}?", r"\\cdot\\frac{\\pi}{180}", text) for text in (wanted, got))
    return tuple(re.sub(r"\\ln(?![a-zA-Z])", r"\\log", text) for text in (wanted, got))  # type: ignore[return-value]
