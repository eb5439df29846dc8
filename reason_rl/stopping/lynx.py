"""LYNX's exit threshold: split conformal for each cue, conditional on the class of the cue. Weaker than it looks.

What it bounds is the chance to exit at a cue whose exit would be wrong. A trace offers many cues and one exit is enough, so
nothing follows for traces; :mod:`reason_rl.stopping.conformal` bounds those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reason_rl.errors import RecipeError


def upper_quantile(scores: Sequence[float], miss: float, *, clamp: bool = False) -> float:
    """Return the k-th smallest score, ``k = ceil((1 - miss)(n + 1))``; infinity when k is above n.

    Args:
        scores: calibration scores of one class.
        miss: in (0, 1).
        clamp: use the largest score when k is above n, as the released code does; then coverage does not hold.

    >>> upper_quantile([.02, .05, .08, .11, .15, .2, .28, .37, .55, .8], 0.2)
    0.55
    >>> upper_quantile([0.1] * 32, 0.03), upper_quantile([0.1] * 33, 0.03)
    (inf, 0.1)
    """
    if not 0 < miss < 1:
        raise RecipeError(f"miss {miss} is not between 0 and 1")
    # (1 - 0.1) * 10 must not come out just above 9.
    rank = math.ceil((1 - miss) * (len(scores) + 1) - 1e-9)
    if rank > len(scores):
        if not clamp or not scores:
            return math.inf
        rank = len(scores)
    return sorted(scores)[max(rank, 1) - 1]


@dataclass(frozen=True)
class CueThreshold:
    """LYNX's rule: exit at a cue whose probability is above ``wrong`` and not below ``right``."""

    wrong: float
    right: float
    miss: float
    wrong_cues: int

    @property
    def threshold(self) -> float:
        """The one number that matters: ``max(q_wrong, 1 - q_right)``."""
        return max(self.wrong, self.right)

    def exits(self, score: float) -> bool:
        """Tell whether to exit at a cue with this probability of a right answer."""
        return score > self.wrong and score >= self.right

    def statement(self) -> str:
        """Return the sentence that holds."""
        return (
            f"At one cue where exiting gives a wrong answer, the chance to exit is at most {self.miss:g}, over the "
            f"{self.wrong_cues} wrong calibration cues and that cue together. Assumed: that cue is exchangeable with them. "
            "This is no bound for a trace: a trace offers many cues, and one exit is enough."
        )


def cue_threshold(scores: Sequence[float], right: Sequence[bool], miss: float, *, clamp: bool = False) -> CueThreshold:
    """Return LYNX's threshold from all cues of all calibration traces.

    With ``q_wrong`` the conformal quantile of p over wrong cues and ``q_right`` that of ``1 - p`` over right ones, exit iff
    ``p > q_wrong`` and ``p >= 1 - q_right``. The dial is not monotone: a larger miss can mean fewer exits.

    Args:
        scores: probability that an exit at the cue is right.
        right: whether it was.
        miss: per-cue chance to exit at a wrong cue.
        clamp: as the released code, without the finite-sample correction.

    Raises:
        RecipeError: when there are too few wrong cues, naming the number needed.

    >>> p = [.95, .9, .85, .8, .7, .65, .55, .4, .3, .2] + [.05, .1, .12, .2, .25, .3, .35, .45, .6, .8]
    >>> right = [True] * 10 + [False] * 10
    >>> [round(cue_threshold(p, right, miss, clamp=True).threshold, 2) for miss in (.05, .1, .2, .3, .4, .5)]
    [0.8, 0.8, 0.6, 0.45, 0.55, 0.65]

    Source: LYNX (arXiv 2512.05325), released code; there the rank is clamped, which breaks coverage for few cues.
    """
    wrong = [score for score, good in zip(scores, right, strict=True) if not good]
    needed = math.ceil((1 - miss) / miss - 1e-9)
    if not wrong or (len(wrong) < needed and not clamp):
        raise RecipeError(
            f"calibration: {len(wrong)} wrong cues cannot bound the miss by {miss:g}; {needed} are needed"
        )
    complements = [1 - score for score, good in zip(scores, right, strict=True) if good]
    return CueThreshold(
        upper_quantile(wrong, miss, clamp=clamp),
        # Too few right cues put no condition on the other side: the set always holds "right".
        1 - upper_quantile(complements, miss, clamp=clamp),
        miss,
        len(wrong),
    )
