"""Choice of the completions that the page shows: a fixed rule, so that nobody picks the pretty ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from reason_rl.answer.extract import split_think
from reason_rl.evaluate.records import EvalRow

SAVINGS = 6
SHOWN_CHARACTERS = 6000
RULE = (
    "Chosen by rule: for each level, of the completions right both times, the one at the upper quartile of tokens saved; "
    "then the longest that went from right to wrong and the longest that went from wrong to right."
)


class Pair(NamedTuple):
    """The same problem and sample before and after, and what it is shown for."""

    before: EvalRow
    after: EvalRow
    kind: str


class Parts(NamedTuple):
    """A completion to print: thinking, the end-of-think token, what comes after; and how many characters are left out."""

    think: str
    mark: str
    answer: str
    left_out: int


def choose(before: Sequence[EvalRow], after: Sequence[EvalRow]) -> list[Pair]:
    """Return up to eight pairs by ``RULE``; when nothing went wrong, the pair that grew most stands for the worse."""
    later = {(row.problem_id, row.sample): row for row in after}
    pairs = [(row, later[row.problem_id, row.sample]) for row in before if (row.problem_id, row.sample) in later]
    pairs.sort(key=lambda p: (p[1].completion_tokens - p[0].completion_tokens, p[0].problem_id, p[0].sample))
    kept = [p for p in pairs if p[0].correct and p[1].correct]
    chosen = []
    for level in _spread(sorted({p[0].level for p in kept}, key=lambda level: (level is None, level or 0))):
        of_level = [p for p in kept if p[0].level == level]
        one, two = of_level[len(of_level) // 4]
        chosen.append(Pair(one, two, "right both times"))
    lost = [p for p in pairs if p[0].correct and not p[1].correct]
    won = [p for p in pairs if not p[0].correct and p[1].correct]
    grown = [p for p in kept if p[1].completion_tokens > p[0].completion_tokens]
    if lost:
        chosen.append(Pair(*max(lost, key=_longest), "right before, wrong after"))
    elif grown:
        chosen.append(Pair(*grown[-1], "longer after"))
    if won:
        chosen.append(Pair(*max(won, key=_longest), "wrong before, right after"))
    return chosen


def _longest(pair: tuple[EvalRow, EvalRow]) -> int:
    return pair[0].completion_tokens


def _spread(levels: list[int | None]) -> list[int | None]:
    """Return at most ``SAVINGS`` of the levels, evenly spread, the first and the last among them."""
    if len(levels) <= SAVINGS:
        return levels
    return [levels[round(i * (len(levels) - 1) / (SAVINGS - 1))] for i in range(SAVINGS)]


def parts(completion: str, end_think: str | None) -> Parts:
    """Split a completion for printing, each part shortened in the middle when it is very long.

    >>> parts("1 + 1 = 2 </think> 2", "</think>")
    Parts(think='1 + 1 = 2 ', mark='</think>', answer=' 2', left_out=0)
    """
    think, answer = split_think(completion, end_think)
    mark = end_think if end_think is not None and answer is not None else ""
    texts = [_shorten(text) for text in (think, answer or "")]
    return Parts(texts[0], mark, texts[1], len(think) + len(answer or "") - sum(map(len, texts)))


def _shorten(text: str) -> str:
    half = SHOWN_CHARACTERS // 2
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:half]} […] {text[-half:]}"
