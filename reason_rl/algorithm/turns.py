"""Traces in turns: a chain of thought cut into units, each of which reaches a candidate answer, and parsed back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

THINK, END_THINK = "<think>", "</think>"
# Where a new attempt may begin, and what an attempt must have reached before: our choice, for mathematics in English.
CUT = r"(?<=\n)(?=(?:Wait|But|Alternatively|Hmm|Another way|Let me (?:just )?(?:check|verify)|Double-check)\b)"
CANDIDATE = r"\\boxed|=\s*\S|\banswer\b"


@dataclass(frozen=True)
class Turn:
    """One unit of thinking and the answer given after it, white space as written."""

    think: str
    answer: str


def split_units(text: str, cut: str = CUT, candidate: str = CANDIDATE) -> list[str]:
    """Return a chain of thought in units; put together they are the text.

    Args:
        text: the chain.
        cut: regular expression that matches where a unit may begin.
        candidate: regular expression that must match in a unit before the next may begin.

    >>> split_units("2 + 2 = 4\\nWait, is it?\\nWait, 4 = 4\\nHmm", CUT, "=")
    ['2 + 2 = 4\\n', 'Wait, is it?\\nWait, 4 = 4\\n', 'Hmm']

    Source: MinD (arXiv 2505.19788) has a stronger model cut; this rule is our choice.
    """
    reached, starts = re.compile(candidate), [0]
    for match in re.finditer(cut, text):
        if reached.search(text, starts[-1], match.start()):
            starts.append(match.start())
    return [text[start:end] for start, end in pairwise([*starts, len(text)])]


def format_turns(turns: Sequence[Turn]) -> str:
    """Return the text of a completion in turns, which starts inside the first thinking.

    >>> format_turns([Turn("1 ", " 2 "), Turn("3 ", " 4")])
    '1 </think> 2 <think>3 </think> 4'
    """
    return THINK.join(f"{turn.think}{END_THINK}{turn.answer}" for turn in turns)


def parse_turns(text: str) -> list[Turn] | None:
    """Return the turns of a completion, None where it is malformed.

    Thinking and answers must take turns, the last one an answer; no answer is empty, and only the first thinking may be.

    >>> parse_turns("1 </think> 2 <think>3 </think> 4")
    [Turn(think='1 ', answer=' 2 '), Turn(think='3 ', answer=' 4')]
    >>> parse_turns("1 </think> 2 <think>3"), parse_turns("1 </think> 2 </think> 3"), parse_turns("1 </think>")
    (None, None, None)

    Source: MinD (arXiv 2505.19788); the official code was not found, the details are our choice.
    """
    parts = re.split(f"({THINK}|{END_THINK})", text)
    tags = parts[1::2]
    if tags != [END_THINK, THINK] * (len(tags) // 2) + [END_THINK]:
        return None
    turns = [Turn(think, answer) for think, answer in zip(parts[0::4], parts[2::4], strict=True)]
    if any(not turn.answer.strip() for turn in turns) or any(not turn.think.strip() for turn in turns[1:]):
        return None
    return turns


def several_attempts(turns: Sequence[Turn], cut: str = CUT, candidate: str = CANDIDATE) -> bool:
    """Return whether a thinking holds more than one unit that reached a candidate.

    >>> several_attempts([Turn("x = 4\\nWait, x = 5", "5")]), several_attempts([Turn("x = 4\\nWait", "4")])
    (True, False)
    """
    reached = re.compile(candidate)
    return any(
        sum(bool(reached.search(unit)) for unit in split_units(turn.think, cut, candidate)) > 1 for turn in turns
    )
