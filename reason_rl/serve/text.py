"""From tokens to what a client reads: whole characters, thinking apart from the answer, and texts that end a completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from reason_rl.serve.engine import Token
from reason_rl.stopping.thinking import ThinkTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HALF = "\ufffd"  # what a decoder shows for a character whose bytes have not all come


@dataclass
class Decoder:
    """Decodes tokens one by one; the pieces together are the text of all.

    A token's text may depend on the one before it, so each is decoded together with those of the last piece.
    """

    tokenizer: PreTrainedTokenizerBase
    ids: list[int] = field(default_factory=list)
    first: int = 0
    told: int = 0

    def push(self, token: int) -> str:
        """Return the text that this token completes."""
        self.ids.append(token)
        return self._piece(last=False)

    def flush(self) -> str:
        """Return what was held back."""
        return self._piece(last=True)

    def _piece(self, *, last: bool) -> str:
        before = self._text(self.ids[self.first : self.told])
        now = self._text(self.ids[self.first :])
        if len(now) <= len(before) or (now.endswith(HALF) and not last):
            return ""
        self.first, self.told = self.told, len(self.ids)
        return now[len(before) :]

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)) if ids else ""


@dataclass
class StopTexts:
    """Holds back what may be the beginning of a text that ends the completion.

    >>> stop = StopTexts(("END", "\\n\\n"))
    >>> [stop.push(piece) for piece in ("a E", "N", "T E", "ND b")], stop.found
    (['a ', '', 'ENT ', ''], 'END')
    """

    texts: tuple[str, ...]
    held: str = ""
    found: str | None = None

    def push(self, piece: str) -> str:
        """Return what may be told."""
        text = self.held + piece
        hits = [(text.find(stop), stop) for stop in self.texts if stop in text]
        if hits:
            place, self.found = min(hits)
            self.held = ""
            return text[:place]
        kept = max((_begun(text, stop) for stop in self.texts), default=0)
        self.held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def flush(self) -> str:
        """Return what was held back."""
        text, self.held = self.held, ""
        return text


def _begun(text: str, stop: str) -> int:
    """Return how many characters at the end of the text begin ``stop``."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)


@dataclass(frozen=True)
class Delta:
    """What one token adds: text of the thinking, text of the answer, the token itself, and why the completion ended."""

    reasoning: str = ""
    content: str = ""
    token: Token | None = None
    finish: Literal["stop", "length"] | None = None


@dataclass
class Reader:
    """Reads one completion.

    Args:
        tokenizer: of the model.
        tokens: ids that open and close thinking and end a completion.
        thinks: whether the model closes its thinking with a token.
        split: keep thinking apart, without its marks; else all is content.
        opened: whether the prompt left thinking open.
        stops: texts that end the completion, in thinking and answer alike.
    """

    tokenizer: PreTrainedTokenizerBase
    tokens: ThinkTokens
    thinks: bool
    split: bool
    opened: bool
    stops: tuple[str, ...] = ()
    thinking: bool = False
    closed: bool = False
    written: int = 0
    think_tokens: int = 0
    exit_at: int | None = None
    finish: Literal["stop", "length"] | None = None
    stopped_by: str | None = None

    def __post_init__(self) -> None:
        self.thinking = self.thinks and self.opened
        self._renew()

    def _renew(self) -> None:
        self.decoder, self.stop = Decoder(self.tokenizer), StopTexts(self.stops)

    def read(self, token: Token) -> Delta:
        """Return what a token adds; after one with a finish nothing more comes."""
        self.written += 1
        self.exit_at = token.exit_at
        inside = self.thinking
        mark = self._move(token.id)
        ends = token.finish is not None and token.finish != "length"
        told = not ends and not (mark and self.split)
        piece = self.decoder.push(token.id) if told else ""
        if token.finish or (mark and self.split):
            piece += self.decoder.flush()
        text = self.stop.push(piece)
        if self.stop.found is not None:
            self.finish, self.stopped_by = "stop", self.stop.found
        elif token.finish:
            text += self.stop.flush()
            self.finish = "length" if token.finish == "length" else "stop"
        elif mark and self.split:
            text += self.stop.flush()
            self._renew()
        answer = not (inside and self.split)
        shown = token if told and answer else None
        return Delta("" if answer else text, text if answer else "", shown, self.finish)

    def _move(self, token: int) -> bool:
        """Count, and note whether the token opens or closes thinking; tell whether it does."""
        if not self.thinks or self.closed:
            return False
        if token == self.tokens.end and self.thinking:
            # All tokens up to this one, as in evaluation.
            self.thinking, self.closed, self.think_tokens = False, True, self.written
            return True
        opens = not self.thinking and token == self.tokens.start
        self.thinking = self.thinking or opens
        self.think_tokens = self.written if self.thinking else 0
        return opens
