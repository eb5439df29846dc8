"""Exits by a probe for the rows of an engine that batches on its own: all state in tensors, one call a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reason_rl.stopping.cues import Cues
from reason_rl.stopping.rules.probe_exit import ProbeExit
from reason_rl.stopping.thinking import ThinkTokens

NONE, ANY = -1, -2  # no token or place; a place in a pattern that any token fills


class Watch:
    """The phase of every row of a round, and what its next token has to be; nothing waits for a GPU.

    A row is known by its number in the round, whatever place the engine gives it. It is taken a step further only when the
    position at hand is the row's next one: chunks of an unfinished prompt, and text that is fed again after a row was put
    aside, change nothing.

    An exit writes the elicitor, then the likeliest tokens, and after ``answer_tokens`` of them the end of the completion: an
    edit of logits cannot end a row otherwise. Whoever reads the completion takes that token off again.

    Args:
        rule: the probe, its cues, elicitor and threshold.
        tokens: ids that open and close thinking.
        prompts: of each row, as token ids.
        device: where the engine computes.
        keep_scores: keep the score of every cue, to compare it with another engine's.
    """

    def __init__(
        self,
        rule: ProbeExit,
        tokens: ThinkTokens,
        prompts: Sequence[Sequence[int]],
        device: torch.device | str = "cpu",
        *,
        keep_scores: bool = False,
    ) -> None:
        self.rule, self.tokens, self.keep_scores = rule, tokens, keep_scores
        self.probe = rule.probe.to(device)
        self.patterns = _patterns(rule.cues).to(device)
        self.elicitor = torch.tensor(rule.elicitor.ids, device=device)
        # One row more than there are, for what is not watched: its turn never comes.
        count = len(prompts) + 1
        self.start = torch.tensor([*(len(prompt) - 1 for prompt in prompts), NONE - 1], device=device)
        self.thinking = torch.tensor([*map(tokens.opened_by, prompts), False], device=device)
        self.closed = torch.zeros(count, dtype=torch.bool, device=device)
        self.turns, self.think_tokens = (torch.zeros(count, dtype=torch.long, device=device) for _ in range(2))
        self.exit_at = torch.full((count,), NONE, device=device)
        self.tail = torch.full((count, self.patterns.shape[1]), NONE, device=device)
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def step(
        self,
        rows: Int[Tensor, " lanes"],
        fed: Int[Tensor, " lanes"],
        positions: Int[Tensor, " lanes"],
        features: Float[Tensor, "lanes width"],
        logits: Float[Tensor, "lanes vocab"],
    ) -> Float[Tensor, "lanes vocab"]:
        """Return the logits to draw from; where nothing is to be written, those of the input bit by bit.

        Args:
            rows: number of each lane's row in the round, -1 for one that is not watched.
            fed: the token that was read last.
            positions: its place in prompt and completion.
            features: the states after it.
            logits: of the next token, before sampling temperature, top-k and top-p.
        """
        rows = torch.where(rows < 0, len(self.start) - 1, rows)
        turn = positions == self.start[rows] + self.turns[rows]
        self._read(rows, fed, turn)
        written = self.turns[rows] - 1
        asked = turn & self.thinking[rows] & (self.exit_at[rows] == NONE) & self._at_cue(rows)
        if _may_hold(asked):
            scores = self.probe.score(features)
            fires = asked & (scores > self.rule.threshold)
            self.exit_at[rows] = torch.where(fires, written, self.exit_at[rows])
            if self.keep_scores:
                self._kept.append((rows[asked].cpu(), written[asked].cpu(), scores[asked].cpu()))
        leaving = turn & (self.exit_at[rows] != NONE)
        if not _may_hold(leaving):
            return logits
        wanted = self._wanted(written - self.exit_at[rows], logits)
        others = torch.arange(logits.shape[1], device=logits.device) != wanted[:, None]
        forced = logits.masked_fill(others, -torch.inf).masked_fill(~others, 0.0)
        return torch.where(leaving[:, None], forced, logits)

    def exits(self) -> list[int | None]:
        """Return the completion tokens before each row's exit; None where there was none."""
        return [None if at == NONE else int(at) for at in self.exit_at[:-1].tolist()]

    def scores(self) -> list[list[tuple[int, float]]]:
        """Return (completion tokens, score) of each row's cues, when they were to be kept."""
        found: list[list[tuple[int, float]]] = [[] for _ in range(len(self.start) - 1)]
        for kept in self._kept:
            for row, place, score in zip(*(part.tolist() for part in kept), strict=True):
                found[row].append((place, score))
        return found

    def _read(self, rows: Tensor, fed: Tensor, turn: Bool[Tensor, " lanes"]) -> None:
        """Take the token that was read into account, where it is one of the completion."""
        wrote = turn & (self.turns[rows] > 0)
        inside, closed = self.thinking[rows], self.closed[rows]
        ends = wrote & inside & (fed == self.tokens.end)
        opens = wrote & ~inside & ~closed & (fed == (NONE if self.tokens.start is None else self.tokens.start))
        self.think_tokens[rows] += (wrote & inside).long()
        self.thinking[rows] = (inside & ~ends) | opens
        self.closed[rows] = closed | ends
        longer = torch.cat([self.tail[rows][:, 1:], fed[:, None]], dim=1)
        self.tail[rows] = torch.where(wrote[:, None], longer, self.tail[rows])
        self.turns[rows] += turn.long()

    def _at_cue(self, rows: Tensor) -> Bool[Tensor, " lanes"]:
        count, every = self.think_tokens[rows], self.rule.cues.every
        fits = (self.tail[rows][:, None] == self.patterns) | (self.patterns == ANY)
        at = fits.all(dim=-1).any(dim=-1)
        if every is not None:
            at = at | ((count > 0) & (count % every == 0))
        return at & (self.turns[rows] > 1) & (count >= self.rule.min_think_tokens)

    def _wanted(self, since: Int[Tensor, " lanes"], logits: Tensor) -> Int[Tensor, " lanes"]:
        """Return the token that has to come, ``since`` tokens after the exit."""
        size = len(self.elicitor)
        opening = self.elicitor[since.clamp(0, size - 1)]
        rest = torch.where(since < size + self.rule.elicitor.answer_tokens, logits.argmax(dim=-1), self.tokens.eos[0])
        return torch.where(since < size, opening, rest)


def _patterns(cues: Cues) -> Int[Tensor, "patterns longest"]:
    """Return the token sequences of cues as one table, filled up in front."""
    longest = max(map(len, cues.patterns), default=1)
    rows = [[ANY] * (longest - len(pattern)) + list(pattern) for pattern in sorted(cues.patterns)]
    return torch.tensor(rows, dtype=torch.long).reshape(-1, longest)


def _may_hold(flags: Bool[Tensor, " lanes"]) -> bool:
    """Tell whether any flag is set; on a GPU always yes, where asking would wait for it."""
    return flags.is_cuda or bool(flags.any())
