"""Cue points: where in a trace an exit is considered."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from reason_rl.errors import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BEFORE = ("", " ", "\n", "\n\n")


class Event(NamedTuple):
    """A cue word in a text: the word, and how many tokens there are up to the one that completes it."""

    word: str
    tokens: int


def find_events(pieces: Sequence[str], words: Sequence[str], *, whole_words: bool = True) -> list[Event]:
    """Find cue words in decoded tokens; upper and lower case count alike.

    Args:
        pieces: the text of each token.
        words: the cue words.
        whole_words: only where no letter comes before; False matches inside words too, as the released code does.

    >>> pieces = ["Wait", ",", " so", " x", "=", "4", ".", " Hm", "m", ",", " await", "ing"]
    >>> [tuple(event) for event in find_events(pieces, ["hmm", "wait"], whole_words=False)]
    [('wait', 1), ('hmm', 9), ('wait', 11)]
    >>> [tuple(event) for event in find_events(pieces, ["hmm", "wait"])]
    [('wait', 1), ('hmm', 9)]

    Source: LYNX (arXiv 2512.05325), released code, which matches plain substrings.
    """
    text = "".join(pieces).lower()
    ends = []
    length = 0
    for piece in pieces:
        length += len(piece)
        ends.append(length)
    events = []
    for word in words:
        pattern = (r"(?<![^\W\d_])" if whole_words else "") + re.escape(word.lower())
        for match in re.finditer(pattern, text):
            first = next(i for i, end in enumerate(ends) if end >= match.end())
            events.append(Event(word, first + 1))
    return sorted(events, key=lambda event: event.tokens)


@dataclass(frozen=True)
class Cues:
    """Cue points told from token ids alone: after certain token sequences, or every so many think tokens.

    Args:
        patterns: a position is a cue when the tokens before it end in one of these.
        every: also every so many think tokens; None = only the patterns.

    Raises:
        ValueError: when there would be no cue ever.

    >>> cues = Cues(frozenset({(21,), (30, 31)}), every=4)
    >>> cues.at([5, 21], 2), cues.at([30, 31], 2), cues.at([31, 30], 2), cues.at([1, 2, 3, 4], 4), cues.at([], 0)
    (True, True, False, True, False)
    """

    patterns: frozenset[tuple[int, ...]]
    every: int | None = None

    def __post_init__(self) -> None:
        if not self.patterns and self.every is None:
            raise ValueError("cues: neither patterns nor an interval")
        if () in self.patterns or (self.every is not None and self.every < 1):
            raise ValueError("cues: an empty pattern, or an interval below 1")

    def at(self, token_ids: Sequence[int], think_tokens: int) -> bool:
        """Tell whether the position after these tokens is a cue."""
        if not token_ids:
            return False
        if self.every is not None and think_tokens and think_tokens % self.every == 0:
            return True
        return any(tuple(token_ids[-length:]) in self.patterns for length in self._lengths)

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        return tuple(sorted({len(pattern) for pattern in self.patterns}))

    def describe(self) -> dict[str, Any]:
        """Return the cues as plain JSON."""
        return {"patterns": sorted(map(list, self.patterns)), "every": self.every}


def word_cues(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], every: int | None = None) -> Cues:
    """Return the cues after these words: in lower case, capitalised and in capitals, after nothing, a space or new lines.

    Raises:
        RecipeError: for a word that the tokenizer cannot write.
    """
    patterns = set()
    for word in words:
        forms = {lead + form for lead in BEFORE for form in (word.lower(), word.capitalize(), word.upper())}
        encoded = {tuple(tokenizer(form, add_special_tokens=False).input_ids) for form in forms}
        known = {ids for ids in encoded if ids and tokenizer.unk_token_id not in ids}
        if not known:
            raise RecipeError(f"cues: the tokenizer cannot write {word!r}")
        patterns |= known
    return Cues(frozenset(patterns), every)


def recall(
    cues: Cues, tokenizer: PreTrainedTokenizerBase, traces: Sequence[Sequence[int]], words: Sequence[str]
) -> float:
    """Return the share of whole cue words in decoded traces that the token patterns find; 1 when there are none.

    A merge of the tokenizer that hides a word shows up here; below 0.99 (our choice) add patterns. Cues that come at an
    interval find no words.
    """
    patterns = Cues(cues.patterns)
    found = total = 0
    for ids in traces:
        pieces = [str(tokenizer.decode([token])) for token in ids]
        # Tokenizers of whole words keep no spaces: words that stand alone must not run together.
        spaced = [f" {piece}" for piece in pieces] if tokenizer.decode(list(ids)) != "".join(pieces) else pieces
        events = find_events(spaced, words)
        total += len(events)
        found += sum(patterns.at(ids[: event.tokens], event.tokens) for event in events)
    return found / total if total else 1.0
