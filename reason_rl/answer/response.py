r"""Find the answer in a whole response, as an evaluation does: boxes first, then marks and phrases, then the last number.

A recipe chooses by ``answer.find``; the last box alone is the default, for what finds more also rewards more spellings.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from reason_rl.answer.extract import TOKENS, extract_boxed
from reason_rl.answer.maths import between, formulas_in, without_formulas
from reason_rl.answer.normal import without_text

THINK = re.compile(r"</?think>")
BARE_BOX = re.compile(r"\\boxed\s+([^\s{}$.,;]+)")
TAG, END_TAG = re.compile("<answer>", re.IGNORECASE), re.compile("</answer>", re.IGNORECASE)
HEADING = re.compile(r"^#{1,5}\s*\**(?:Final\s+)?Answer\**(?:\s*:)?\s*\n\s*([^\n]+)", re.IGNORECASE | re.MULTILINE)
HASHES = "####"
AMOUNT = re.compile(r"[-+$€£]*\s*\d[\d.,/]*\s*[%$]?")
PHRASE = re.compile(
    r"(?:final\s+answers?|the\s+answers?|answers?|(?:correct|right)\s+(?:option|choice)|solutions|roots|答案|largest\s+\$?\w\$?|result)\**\s*(?:is|:|=|are|是)(?:\s*:)?\s*\**([^\n]+)",
    re.IGNORECASE,
)
BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:[.,]\d+)?(?:/\d+)?")
LABELLED = re.compile(r"[A-Z][^\W\d_]+(?: [^\W\d_]+){0,3}\s*:\s*(" + NUMBER.pattern + r")\s*[$€£]?[a-z. ]{0,20}")
# In a list a thousand is read to its end, or each comma doubles the ways to read what follows.
LISTED = NUMBER.pattern.replace(r"(?:,\d{3})+", r"(?:,\d{3})+(?!\d|,\d{3}(?!\d))")
NUMBERS = re.compile(LISTED + r"(?:\s*(?:,|and|or|, and)\s*" + LISTED + r"){1,9}")
MAX_LIST = 200  # characters
CALCULATED = re.compile(r"<<[^<>]{0,200}>>")  # how GSM8K notes a sum: <<9*2=18>>18
SENTENCE_END = re.compile(r"\.(?:\s|$)")
WORD = re.compile(r"(?<![\\a-zA-Z{])[a-zA-Z]{2,}")
COMMAND_TEXT = re.compile(r"\\[a-zA-Z]+\s*(?:\{[^{}]*\})?")
PROSE_WORDS = 4
SENTENCE = re.compile(
    r"(?:The|It|She|He|They|We|So|Thus|Hence|Therefore|There)\b.*\b(?:is|are|was|has|have|takes?|gets?|costs?|needs?)\b",
    re.DOTALL,
)
JOIN = re.compile(r"(?:[\s$,;&]|\\[,;()\[\]]|\\quad|\\text\s*\{[^{}]*\}|and|[a-z]_?\{?\d?\}?\s*=){1,40}")
JOINED_BY = re.compile(r",|;|\band\b")
Find = Literal["box", "response"]


class Found(NamedTuple):
    """An answer and by which rule it was found."""

    text: str
    by: str


class Failed(str):
    """What stands for an answer where looking for it failed: no text, and the exception that a verdict names."""

    error: str

    def __new__(cls, error: Exception) -> Failed:
        """Keep the name of an exception."""
        failed = super().__new__(cls)
        failed.error = type(error).__name__
        return failed


def find_answer(response: str) -> Found | None:
    r"""Return the answer of a response; None when thinking was never closed, or there is nothing to find.

    After the last ``</think>``: the last box (several in one breath are a list), ``<answer>``, ``####``, "the answer is", the
    last formula, bold text, the last number. A response that is nothing but an answer is that answer.

    >>> find_answer(r"<think>\boxed{1}</think> So \boxed{2}, or rather \boxed{3}.")
    Found(text='3', by='box')
    >>> find_answer("The answer is 7 apples.")
    Found(text='7', by='phrase')
    >>> find_answer("<think> 7") is None
    True
    """
    parts = THINK.split(response)
    if len(parts) > 1 and THINK.findall(response)[-1] == "<think>":
        return None
    text = CALCULATED.sub("", parts[-1]).strip()
    if not text:
        return None
    for by, rule in RULES:
        found = rule(text)
        if found:
            inner = _phrase(without_text(found)) if by == "box" else None
            return Found((inner or found).strip(), by)
    labelled = LABELLED.fullmatch(text)
    if labelled is not None:
        return Found(labelled[1], "label")
    if not is_prose(text):
        return Found(text, "whole")
    for by, rule in PROSE_RULES:
        found = rule(text)
        if found:
            return Found(found.strip(), by)
    return Found(text, "whole")


def answer_in(text: str, find: Find) -> str | None:
    r"""Return the answer of what was said after thinking: its last box, or with ``response`` what :func:`find_answer` finds.

    >>> answer_in("So the number is 7.", "box"), answer_in("So the number is 7.", "response")
    (None, '7')
    """
    if find == "box":
        return extract_boxed(text)
    try:
        found = find_answer(text)
    except Exception as error:  # one response must not end a batch; the verdict names what was raised
        return Failed(error)
    return None if found is None else found.text


def is_prose(text: str) -> bool:
    """Return whether a text has sentences around its answer.

    >>> is_prose("so the number is 7"), is_prose("3 apples"), is_prose("13 and 14")
    (True, False, False)
    """
    words = WORD.findall(COMMAND_TEXT.sub(" ", without_formulas(without_text(text))))
    if len(words) >= 2 and SENTENCE.match(text):
        return True
    return len(words) >= PROSE_WORDS or (len(words) > 0 and bool(formulas_in(text)))


def boxes(text: str) -> str | None:
    r"""Return the content of the last box, or of the last boxes joined by commas where only "and" or commas lie between.

    >>> boxes(r"$\boxed{2}$ and $\boxed{3}$"), boxes(r"\boxed{2} is wrong, so \boxed{3}")
    ('2, 3', '3')
    """
    last = extract_boxed(text)
    spans = _spans(text)
    if len(spans) < 2 or last is None:
        return last
    first = len(spans) - 1
    while first > 0:
        span, after = spans[first - 1], spans[first]
        if text.startswith("\\fbox", span[2]) != text.startswith("\\fbox", after[2]):
            break
        if not _joins(text[span[1] + 1 : after[2]]):
            break
        first -= 1
    return ", ".join(text[start:end].strip() for start, end, _ in spans[first:])


def _joins(text: str) -> bool:
    """Return whether only "and" or commas lie between two answers."""
    return JOIN.fullmatch(text) is not None and JOINED_BY.search(text) is not None


def _spans(text: str) -> list[tuple[int, int, int]]:
    """Return content start, content end and start of each box that stands in no other box."""
    spans, opened, boxes_open = [], [], 0
    for token in TOKENS.finditer(text):
        if token["box"]:
            opened.append((token.end(), token.start()))
            boxes_open += 1
        elif token["open"]:
            opened.append((-1, -1))
        elif token["close"] and opened:
            content, start = opened.pop()
            boxes_open -= content >= 0
            if content >= 0 and boxes_open == 0:
                spans.append((content, token.start(), start))
    return spans


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.findall(text)
    if not found:
        return None
    last = found[-1]
    return last if isinstance(last, str) else next((part for part in last if part), None)


def formulas(text: str) -> str | None:
    """Return the last formula, or the last ones joined by commas where only "and" or commas lie between.

    >>> formulas("The solutions are $x=1$ and $x=2$."), formulas("As $a=1$ we get $b=2$.")
    ('x=1, x=2', 'b=2')
    """
    found = formulas_in(text)
    if not found:
        return None
    first = len(found) - 1
    while first > 0 and _joins(text[found[first - 1].end : found[first].start]):
        first -= 1
    return ", ".join(one.content.strip() for one in found[first:])


def _phrase(text: str) -> str | None:
    said = _last(PHRASE, text)
    if said is None:
        return None
    said = SENTENCE_END.split(said.strip(" *"))[0].strip(" *")
    if " is " in said and formulas_in(said):
        said = said.rpartition(" is ")[2]
    found = [one.content for one in formulas_in(said)]
    if found:
        return ", ".join(found) if JOINED_BY.search(without_formulas(said)) else found[-1]
    if len(said) <= MAX_LIST and NUMBERS.fullmatch(said):
        return said
    if is_prose(said) or re.match(r"[-+]?[\d.,/]+\s+[a-z]", said):
        first = NUMBER.search(said)
        return first[0] if first else said
    return said


def _closing(text: str) -> str | None:
    """Return the answer of a closing "Final Answer:" that comes after the last box."""
    closing = text.lower().rfind("final answer:")
    return None if closing < max(text.rfind("\\boxed"), 0) or closing < 0 else _phrase(text[closing:])


def _tagged(text: str) -> str | None:
    found = between(text, TAG, END_TAG)
    return found[-1].content if found else None


def _hashes(text: str) -> str | None:
    """Return what GSM8K's mark announces: the last line, or a number alone in its line; "#### Step 2" is a heading."""
    lines = text.rstrip().split("\n")
    for at in range(len(lines) - 1, -1, -1):
        _, mark, said = lines[at].partition(HASHES)
        if mark and not said.strip(" #") and at + 1 < len(lines):
            at, said = at + 1, lines[at + 1]
        said = said.strip(" \t\r#")
        if mark and said and (at == len(lines) - 1 or AMOUNT.fullmatch(said)):
            return said
    return None


RULES = (
    ("phrase", _closing),
    ("box", boxes),
    ("box", lambda text: _last(BARE_BOX, text)),
    ("tag", _tagged),
    ("heading", lambda text: _last(HEADING, text)),
    (HASHES, _hashes),
    ("phrase", _phrase),
)
PROSE_RULES = (
    ("formula", formulas),
    ("bold", lambda text: _last(BOLD, text)),
    ("number", lambda text: _last(NUMBER, text)),
)
