"""Exit thresholds with a guarantee per trace, however many cues a trace offers.

A trace is given by the scores at its cues and by which exits would be bad. The rule exits at the first cue whose score is
above the threshold. That is always a record: a cue that beats all cues before it. So one number says for which thresholds
a trace goes bad at that threshold or a higher one: the highest score of its bad records. Order statistics of these numbers
over calibration problems give the threshold, with exact finite-sample corrections and no grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from reason_rl.errors import RecipeError

NEVER = math.inf
Scores = Float[np.ndarray, " cues"]
Flags = Bool[np.ndarray, " cues"]
PerTrace = Float[np.ndarray, " traces"]


def exit_cue(scores: Scores | Sequence[float], threshold: float) -> int | None:
    """Return the first cue whose score is above the threshold; None when the trace never exits.

    A score that is not a number counts as 0, here and online.

    >>> exit_cue([0.2, 0.7, 0.9], 0.5), exit_cue([0.2, 0.7], 0.7), exit_cue([], 0.0)
    (1, None, None)
    """
    above = np.flatnonzero(np.nan_to_num(np.asarray(scores, dtype=float), nan=0.0) > threshold)
    return int(above[0]) if len(above) else None


def records(scores: Scores | Sequence[float]) -> list[int]:
    """Return the cues whose score beats every earlier one: the only ones that any threshold can exit at.

    >>> records([0.30, 0.62, 0.55, 0.71, 0.68, 0.90])
    [0, 1, 3, 5]
    """
    values = np.nan_to_num(np.asarray(scores, dtype=float), nan=0.0)
    before = np.concatenate([[-np.inf], np.maximum.accumulate(values)[:-1]]) if len(values) else values
    return [int(i) for i in np.flatnonzero(values > before)]


def bad_score(scores: Scores | Sequence[float], bad: Flags | Sequence[bool], *, any_cue: bool = False) -> float:
    """Return the number of a trace: ``m = max{score at records with a bad exit}``, minus infinity when there is none.

    For every threshold: some threshold at or above it makes the trace go bad if and only if ``m`` is above it.

    Args:
        scores: at each cue, in order.
        bad: whether an exit there would be bad. Harm: the full trace is right and the exit's answer is wrong.
        any_cue: take all cues instead of records; holds also when cues may be skipped online, at a price.

    >>> bad_score([0.30, 0.62, 0.55, 0.71, 0.68, 0.90], [True, False, True, True, False, False])
    0.71
    >>> bad_score([0.3, 0.9], [False, False])
    -inf

    Source: ours; the maximum over a trace as a conformal score is also in arXiv 2602.13935, over all cues.
    """
    if len(scores) != len(bad):
        raise ValueError(f"{len(scores)} scores and {len(bad)} verdicts")
    values = np.nan_to_num(np.asarray(scores, dtype=float), nan=0.0)
    chosen = range(len(values)) if any_cue else records(values)
    return max((float(values[i]) for i in chosen if bad[i]), default=-math.inf)


def allowed_bad(problems: int, risk: float, confidence: float | None) -> int:
    """Return how many calibration traces may be bad above the threshold; -1 when not even none is enough evidence.

    With a confidence ``1 - delta``: the largest b with ``P(Bin(n, risk) <= b) <= delta``. Without:
    ``floor(risk (n + 1) - 1)``.

    >>> [allowed_bad(200, 0.05, confidence) for confidence in (None, 0.9, 0.95)]
    [9, 5, 4]
    >>> allowed_bad(44, 0.05, 0.9), allowed_bad(45, 0.05, 0.9)
    (-1, 0)
    """
    check_levels(risk, confidence)
    if confidence is None:
        # Sums like 0.1 * 10 - 1 must not fall just short of a whole number.
        return max(-1, math.floor(risk * (problems + 1) - 1 + 1e-9))
    from scipy import stats

    tail = 1 - confidence
    below = int(stats.binom.ppf(tail, problems, risk))
    return max(b for b in range(-1, below + 1) if b < 0 or stats.binom.cdf(b, problems, risk) <= tail + 1e-12)


def problems_needed(risk: float, confidence: float | None) -> int:
    """Return the fewest calibration problems that can certify any exit at all.

    ``n >= ln(1 - confidence) / ln(1 - risk)``; without a confidence ``n >= 1 / risk - 1``.

    >>> [problems_needed(0.05, confidence) for confidence in (None, 0.9, 0.95)]
    [19, 45, 59]
    """
    check_levels(risk, confidence)
    guess = 1 / risk - 1 if confidence is None else math.log(1 - confidence) / math.log1p(-risk)
    needed = max(1, math.ceil(guess - 1e-9))
    return needed if allowed_bad(needed, risk, confidence) >= 0 else needed + 1


def threshold_at(bad_scores: PerTrace | Sequence[float], risk: float, confidence: float | None) -> float:
    """Return the lowest threshold that the calibration traces certify; infinity when they are too few.

    The (b + 1)-th largest number of a trace, b from :func:`allowed_bad`. With a confidence: except with probability
    ``1 - confidence`` over the calibration problems, the risk of the rule is at most ``risk``. Without: the chance that the
    next trace goes bad is at most ``risk``, over calibration problems and that trace together.

    >>> m = [0.91, -math.inf, 0.40, -math.inf, 0.77, 0.62, -math.inf, -math.inf, 0.55]
    >>> threshold_at(m, 0.2, None), threshold_at(m, 0.09, None), threshold_at(m, 0.6, None)
    (0.77, inf, -inf)

    Source: order statistics as in split conformal prediction; with a confidence, Vovk 2012 (Conditional validity of
    inductive conformal predictors). Equals conformal risk control (arXiv 2208.02814) of the monotone majorant of the loss.
    """
    allowed = allowed_bad(len(bad_scores), risk, confidence)
    if allowed < 0:
        return NEVER
    if allowed >= len(bad_scores):
        return -math.inf
    return float(np.sort(np.asarray(bad_scores, dtype=float))[::-1][allowed])


@dataclass(frozen=True)
class Guarantee:
    """A certified threshold and what is true of it.

    Args:
        threshold: exit at the first cue with a score above it.
        risk: the bound on the chance that a trace goes bad.
        confidence: over the draw of the calibration problems; None = the bound holds on average over that draw.
        problems: calibration problems, one trace each.
        allowed: how many of them may go bad above the threshold.
        loss: what bad means: "harm" (full trace right, exit wrong) or "disagreement" (the answers differ).
        shift: the bound also holds for problems drawn from another mixture, in which nothing is more than so many times as
            common as among the calibration problems.
    """

    threshold: float
    risk: float
    confidence: float | None
    problems: int
    allowed: int
    loss: str
    shift: float = 1.0

    def statement(self) -> str:
        """Return the sentence that holds: what is random, what is bounded, at which level, on which assumption."""
        event = {
            "harm": "exiting turns the right answer of a full trace into a wrong one",
            "disagreement": "exiting gives another answer than the full trace",
        }[self.loss]
        drawn = "drawn like the calibration problems"
        if self.shift > 1:
            drawn += f", or from another mixture in which no kind of trace is more than {self.shift:g} times as common,"
        assumed = f"Assumed: new problems are {drawn} and independently of them (one trace each)"
        fixed = "with the same model, prompt, sampling, cues, probe, elicitor and grader"
        if self.confidence is None:
            return (
                f"The chance that {event} is at most {self.risk:g} for the next trace, whatever the number of its cues; the "
                f"chance is over the {self.problems} calibration problems and that trace together, so for one given "
                f"calibration it may be higher. {assumed}, {fixed}."
            )
        return (
            f"With confidence {self.confidence:g} over the draw of the {self.problems} calibration problems, the share of "
            f"traces where {event} is at most {self.risk:g}, whatever the number of their cues. {assumed}, {fixed}. "
            "Nothing is promised for a single prompt or for other problems."
        )


def certify(
    bad_scores: PerTrace | Sequence[float],
    risk: float,
    confidence: float | None,
    *,
    floor: float = 0.5,
    loss: str = "harm",
    shift: float = 1.0,
) -> Guarantee:
    """Return the threshold with its guarantee; it is never below ``floor``, which costs exits but no validity.

    Where the density of new traces against calibration traces is at most ``shift``,
    ``P_new(bad) <= shift P_calibration(bad)``: certifying ``risk / shift`` bounds the risk there by ``risk``.

    Args:
        bad_scores: one number a calibration problem, see :func:`bad_score`; traces without cues or harm count too.
        risk: share of traces that may go bad, in (0, 1).
        confidence: in (0, 1), or None for the bound on average.
        floor: our choice.
        loss: "harm" or "disagreement".
        shift: at least 1; 1 = new problems come like the calibration problems.

    Raises:
        RecipeError: for levels that are none, a shift below 1, or fewer calibration problems than any exit needs, naming
            the number.

    >>> certify([0.8] * 3 + [-math.inf] * 197, 0.05, 0.9).threshold
    0.5
    """
    if loss not in ("harm", "disagreement"):
        raise ValueError(f"loss {loss!r} is not harm or disagreement")
    if np.isnan(np.asarray(bad_scores, dtype=float)).any():
        raise ValueError("the number of a trace is nan; scores that are not numbers count as 0 before")
    check_levels(risk, confidence)
    if shift < 1:
        raise RecipeError(f"shift {shift:g} is below 1")
    aimed = risk / shift
    allowed = allowed_bad(len(bad_scores), aimed, confidence)
    if allowed < 0:
        at = "on average" if confidence is None else f"with confidence {confidence:g}"
        raise RecipeError(
            f"calibration: {len(bad_scores)} problems cannot bound the risk by {aimed:g} {at}, even if none went bad; "
            f"{problems_needed(aimed, confidence)} are needed at least, several times as many for a useful threshold"
        )
    value = max(threshold_at(bad_scores, aimed, confidence), floor)
    return Guarantee(value, risk, confidence, len(bad_scores), allowed, loss, shift)


def check_levels(risk: float, confidence: float | None) -> None:
    """Raise RecipeError for a risk or confidence that is none."""
    if not 0 < risk < 1:
        raise RecipeError(f"risk {risk} is not between 0 and 1")
    if confidence is not None and not 0 < confidence < 1:
        raise RecipeError(f"confidence {confidence} is not between 0 and 1")
