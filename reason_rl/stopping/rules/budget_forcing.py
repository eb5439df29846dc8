"""s1 budget forcing: thinking is cut at a fixed length, or made longer by refusing its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reason_rl.stopping.rule import GO, Action, Elicitor, Insert, Look


@dataclass(frozen=True)
class BudgetForcing:
    """Closes thinking after ``max_think_tokens``; refuses to end it ``extensions`` times and writes ``wait`` instead.

    At the cap the elicitor is written and the answer decoded greedily; a row that ends by itself before is left alone. Each
    refusal drops the end token, so no completion holds two.

    Args:
        end: id of the end-of-think token.
        elicitor: what is written at the cap.
        max_think_tokens: think tokens before the forced end, that one not counted; None = no cap.
        extensions: refusals a row at most.
        wait: what is written in place of a refused end, ``Wait`` in the paper.
        sample_answer: only close thinking at the cap and sample the answer as ever, as training wants it.

    Raises:
        ValueError: when nothing would be done, or refusals have nothing to write.

    >>> rule = BudgetForcing(6, Elicitor((6, 7), 4, (1,)), max_think_tokens=10, extensions=1, wait=(9,))
    >>> state, action = rule.decide(rule.start(), Look([3], 1, drawn=6))
    >>> state, action
    (1, Insert(ids=(9,)))
    >>> rule.decide(state, Look([3] * 10, 10, drawn=3))[1]
    Exit(ids=(6, 7), answer_tokens=4)

    Source: s1 (arXiv 2501.19393). The released harness subtracts nothing from the budget for refusals; neither do we, the
    cap counts all think tokens.
    """

    end: int
    elicitor: Elicitor
    max_think_tokens: int | None = None
    extensions: int = 0
    wait: tuple[int, ...] = ()
    sample_answer: bool = False
    layers: ClassVar[tuple[int, ...]] = ()

    def __post_init__(self) -> None:
        if self.max_think_tokens is None and not self.extensions:
            raise ValueError("budget forcing needs max_think_tokens or extensions")
        if self.extensions and not self.wait:
            raise ValueError("extensions need the tokens of wait")

    def start(self) -> int:
        """Return no refusals so far."""
        return 0

    def decide(self, state: int, look: Look) -> tuple[int, Action]:
        """Cut at the cap, refuse an early end while refusals are left."""
        if self.max_think_tokens is not None and look.think_tokens >= self.max_think_tokens:
            return state, Insert(self.elicitor.ids) if self.sample_answer else self.elicitor.exit()
        if look.drawn == self.end and state < self.extensions:
            return state + 1, Insert(self.wait)
        return state, GO


def auto_budget(max_tokens: int, longest_prompt: int, start_tokens: int, end_tokens: int) -> int:
    """Return s1's automatic think budget: what is left of the context, less 100 tokens for the answer.

    >>> auto_budget(32768, 300, 2, 8)
    32358

    Source: s1, evaluation harness.
    """
    return max_tokens - longest_prompt - start_tokens - end_tokens - 100
