r"""Compare an answer with the gold one as text and as numbers; say what is left for a symbolic comparison."""

from __future__ import annotations

import re
from dataclasses import dataclass

from reason_rl.answer.hedge import hedges
from reason_rl.answer.normal import normal, one_line, squeezed, without_text
from reason_rl.answer.number import number, same_number, same_ratio, with_decimal_point
from reason_rl.answer.relation import as_range

MAX_ANSWER = 4000  # of anything that is compared
VALUED_CHOICE = re.compile(r"\s*\(([A-J])\)\s*(\S.*)", re.DOTALL)
CHOICE = re.compile(r"\(?([A-J])\)?")
CHOSEN = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+|right\s+)?(?:option|choice|answer)\s*(?:is)?\s*:?\s*)?\(?\s*([A-Ja-j])\s*\)?\s*(?:$|[.:)]|\s)",
    re.IGNORECASE,
)
AND_ANOTHER = re.compile(r"\s*(?:and|or|&|/)\s*\(?[A-Ja-j]\)?(?![a-zA-Z])", re.IGNORECASE)
TIME = re.compile(r"(\d{1,2})(?::(\d\d))?\s*(?:([ap])\.?\s*m\b\.?)?", re.IGNORECASE)
ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b")
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
    "norealsolutions",
    "emptyset",
    "theemptyset",
    "nosuchnumber",
}
SET = re.compile(r"\\\{.*\\\}")
TUPLE = re.compile(r"\(.*\)")
SUBSCRIPT_TEXT = re.compile(r"_\s*\{?\s*\\(?:text|mathrm)\s*\{\s*(\w+)\s*\}\s*\}?")
MATRIX = re.compile(r"\\begin\{[pbv]?matrix\}")
CIRCLE = re.compile(r"\^\s*\{?\s*\\circ\s*\}?")
DEGREES_OF = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])\s*[({]?\s*\d+(?:\.\d+)?\s*\^\s*\{?\s*\\circ")
TRANSPOSED = re.compile(r"\s*\^\s*\{?\s*(?:\\(?:top|mathsf|mathrm|text|intercal)\s*\{?\s*)?T?\s*\}{0,2}$")
ROWS = re.compile(r"\[\s*\[([^\[\]]*(?:\]\s*,\s*\[[^\[\]]*)*)\]\s*\]")
JOINED = re.compile(r"\b(?:and|or)\b|\\l(?:or|and)(?![a-zA-Z])|\\(?:vee|wedge)(?![a-zA-Z])")
NAMED_VALUE = re.compile(r"([a-zA-Z](?:_\{?\w+\}?)?)\s*=\s*([^=<>()]+)")
PRIMES = re.compile(r"'|\\prime(?![a-zA-Z])")
TORN = re.compile(r"\\\$\s*=")  # a formula that ends before the sign, and another
COLUMN = re.compile(r"\\begin\{pmatrix\}[^&]*\\end\{pmatrix\}")


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right (None = it cannot be told), and why."""

    correct: bool | None
    reason: str


NO_GOLD = Verdict(None, "no gold answer")
NO_ANSWER = Verdict(False, "no answer")
TOO_LONG = Verdict(None, f"unverifiable: more than {MAX_ANSWER} characters")
SAME_TEXT = Verdict(True, "same text")
SAME_NUMBER = Verdict(True, "same number")
SAME_CHOICE = Verdict(True, "same choice")
OTHER_NUMBER = Verdict(False, "another number")
OTHER_BESIDE = Verdict(False, "another number beside it")
OTHER_CHOICE = Verdict(False, "another choice")
OTHER_TEXT = Verdict(False, "other words")
OTHER_PRIMES = Verdict(False, "another derivative")
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
    gold, answer = gold.strip(), answer.strip()
    if max(len(gold), len(answer)) > MAX_ANSWER:  # the rewriting below costs the square of the length
        return SAME_TEXT if " ".join(gold.split()) == " ".join(answer.split()) else TOO_LONG
    wanted, got = spelled(gold, answer)
    if not got:
        return NO_ANSWER
    if squeezed(wanted) == squeezed(got):
        return SAME_TEXT
    if (valued := VALUED_CHOICE.fullmatch(without_text(wanted))) is not None:
        wanted = valued[1] if CHOSEN.match(without_text(got).strip()) else valued[2]
    if ((letter := CHOICE.fullmatch(without_text(wanted).strip())) is not None and "(" in wanted + got) or letter:
        chosen = CHOSEN.match(without_text(got).strip())
        if chosen is not None and not AND_ANOTHER.match(without_text(got).strip()[chosen.end(1) :].lstrip(" )")):
            return SAME_CHOICE if chosen[1].upper() == letter[1] else OTHER_CHOICE
    times = _times(without_text(wanted), without_text(got))
    if times is not None:
        return times
    numbers = _numbers(wanted, got)
    if numbers is not None:
        return numbers
    if hedges(wanted, got.rpartition("=")[2] if TORN.search(answer) else got):
        return OTHER_BESIDE
    if SET.fullmatch(wanted) and TUPLE.fullmatch(got):
        return OTHER_KIND
    if "=" not in wanted + got and len(PRIMES.findall(wanted)) != len(PRIMES.findall(got)):
        return OTHER_PRIMES  # math-verify reads f'(x) as f(x)
    return _words(wanted, got)


def spelled(gold: str, answer: str) -> tuple[str, str]:
    """Return both sides normalised; where only the answer is a matrix, its rows are taken as pieces of one formula."""
    pieces = MATRIX.search(answer) is not None and MATRIX.search(gold) is None and TUPLE.fullmatch(normal(gold)) is None
    return normal(gold), normal(one_line(answer) if pieces else answer)


def _times(wanted: str, got: str) -> Verdict | None:
    """Compare times of day; where one side names no half of the day, it is not asked for."""
    sides = [TIME.fullmatch(text.strip()) for text in (wanted, got)]
    first, second = sides
    if first is None or second is None or not any(side[2] for side in sides if side) or not (first[2] or first[3]):
        return None
    if not (second[2] or second[3]):
        return None
    clocks = [(int(side[1]), int(side[2] or 0)) for side in sides if side]
    halves = {side[3].lower() for side in sides if side and side[3]}
    if clocks[0] == clocks[1]:
        return SAME_NUMBER if len(halves) < 2 else OTHER_NUMBER
    return OTHER_NUMBER if halves else None


def _numbers(wanted: str, got: str) -> Verdict | None:
    gold, answer = number(wanted), number(HALF_OF_DAY.sub("", got))
    if gold is not None and gold.base is not None and gold.digits == without_text(got).strip():
        return SAME_NUMBER
    if gold is None:
        gold = number(HALF_OF_DAY.sub("", wanted))
    comma = with_decimal_point(wanted), with_decimal_point(got)
    if gold is None and comma[0] is not None:
        gold = number(comma[0])
    if answer is None and comma[1] is not None:
        answer = number(comma[1])
    if gold is None or answer is None:
        ratio = same_ratio(wanted, got)
        return None if ratio is None else SAME_NUMBER if ratio else OTHER_NUMBER
    if gold.letter and not answer.unit:
        return None
    return SAME_NUMBER if same_number(gold, answer) else OTHER_NUMBER


def _words(wanted: str, got: str) -> Verdict | None:
    first, second = (
        ARTICLE.sub("", " ".join(without_text(text).split())).lower().rstrip(" .,;:") for text in (wanted, got)
    )
    if first == second:
        return SAME_TEXT
    if {squeezed(wanted), squeezed(got)} <= NOTHING:
        return SAME_TEXT
    first, second = ORDINAL.sub("", first), ORDINAL.sub("", second)
    plain = all(re.fullmatch(r"[a-z0-9 ,.'-]*[a-z]{3}[a-z0-9 ,.'-]*", text) for text in (first, second))
    if not plain:
        return None
    if MONTH.search(first) and sorted(first.replace(",", " ").split()) == sorted(second.replace(",", " ").split()):
        return SAME_TEXT
    return OTHER_TEXT if re.search(r"[a-z]{3}", first) and not re.search(r"\d", first + second) else None


def for_algebra(gold: str, answer: str) -> tuple[str, str]:
    r"""Return both sides in the spelling that the symbolic comparison gets.

    A tuple for a column vector becomes a column; degrees and radians meet in radians.

    >>> for_algebra(r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1,2)")[1]
    '\\begin{pmatrix}1 \\\\ 2\\end{pmatrix}'
    """
    wanted, got = (SUBSCRIPT_TEXT.sub(r"_{\1}", side) for side in spelled(gold, answer))
    wanted, got = _ranges(*_in_order(wanted, got))
    if COLUMN.fullmatch(wanted):
        got = _column(TRANSPOSED.sub("", got))
    elif COLUMN.fullmatch(got):
        wanted = _column(TRANSPOSED.sub("", wanted))
    if MATRIX.match(wanted) and (rows := ROWS.fullmatch(got)) is not None:
        inner = re.sub(r"\]\s*,\s*\[", r" \\\\ ", rows[1]).replace(",", " & ")
        got = "\\begin{pmatrix}" + inner + "\\end{pmatrix}"
    if DEGREES_OF.search(wanted + got):
        wanted, got = (CIRCLE.sub(r"\\cdot\\frac{\\pi}{180}", text) for text in (wanted, got))
    if ("\\circ" in wanted) != ("\\circ" in got) and "\\pi" in wanted + got:
        wanted, got = (CIRCLE.sub(r"\\cdot\\frac{\\pi}{180}", text) for text in (wanted, got))
    logarithms = [
        {name for name in ("\\ln", "\\log") if re.search(re.escape(name) + "(?![a-zA-Z_])", text)}
        for text in (wanted, got)
    ]
    if len(logarithms[0]) == len(logarithms[1]) == 1 and logarithms[0] != logarithms[1]:  # both mean the natural one
        wanted, got = (re.sub(r"\\log(?![a-zA-Z_])", r"\\ln", text) for text in (wanted, got))
    return wanted, got


def _ranges(wanted: str, got: str) -> tuple[str, str]:
    """Return both sides as ranges where one joins relations, for math-verify takes "and" for "or"."""
    ranges = as_range(wanted), as_range(got)
    if ranges[0] is None or ranges[1] is None or ranges[0].name != ranges[1].name:
        return wanted, got
    return (ranges[0].text, ranges[1].text) if JOINED.search(wanted + got) else (wanted, got)


def _in_order(wanted: str, got: str) -> tuple[str, str]:
    """Return named values as a tuple where the other side is one: ``x=1, y=2`` for ``(1,2)``."""
    if TUPLE.fullmatch(got) and (values := _named_values(wanted)):
        return values, got
    return wanted, _named_values(got) or got if TUPLE.fullmatch(wanted) else got


def _named_values(text: str) -> str | None:
    pieces = [NAMED_VALUE.fullmatch(piece.strip()) for piece in text.split(",")]
    found = [piece for piece in pieces if piece is not None]
    if len(found) < 2 or len(found) < len(pieces) or len({piece[1] for piece in found}) < len(found):
        return None
    return "(" + ", ".join(piece[2] for piece in found) + ")"


def _column(text: str) -> str:
    if not TUPLE.fullmatch(text):
        return text
    return "\\begin{pmatrix}" + " \\\\ ".join(part.strip() for part in text[1:-1].split(",")) + "\\end{pmatrix}"
