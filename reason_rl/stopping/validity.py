"""Does a guarantee hold? Thresholds certified on random halves of recorded traces and judged on the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reason_rl.errors import RecipeError
from reason_rl.stopping.conformal import NEVER, problems_needed, threshold_at
from reason_rl.stopping.lynx import cue_threshold
from reason_rl.stopping.replay import bad_scores, offers
from reason_rl.stopping.sequential import Limits, clopper_pearson
from reason_rl.stopping.traces import Trace


@dataclass(frozen=True)
class Validity:
    """How a rule did over random splits.

    Args:
        risk: the level asked for.
        exceeded: share of splits whose risk on the other traces is above the level, with exact 95 % limits.
        promised: share that the guarantee allows; None when it promises nothing per trace.
        mean_risk, mean_exits, mean_saved: over splits, on the other traces.
    """

    risk: float
    exceeded: Limits
    promised: float | None
    mean_risk: float
    mean_exits: float
    mean_saved: float


def calibration_size(traces: int, risk: float, confidence: float | None, asked: int | None = None) -> int:
    """Return how many of the traces to calibrate on; half of them when not asked otherwise.

    Raises:
        RecipeError: when there are too few traces to certify anything, or to judge it.

    >>> calibration_size(91, 0.05, 0.9)
    45
    """
    size = traces // 2 if asked is None else asked
    needed = problems_needed(risk, confidence)
    if not needed <= size < traces:
        raise RecipeError(
            f"validity: {size} of {traces} traces to calibrate on; {needed} and some to judge by are needed at risk "
            f"{risk:g}; give more problems (eval.data), or larger levels alone (--risk)"
        )
    return size


def over_splits(
    traces: Sequence[Trace],
    scores: Sequence[Sequence[float]],
    risk: float,
    confidence: float | None,
    *,
    per_cue: bool = False,
    loss: str = "harm",
    calibration: int | None = None,
    splits: int = 200,
    seed: int = 0,
) -> Validity:
    """Calibrate on random traces, judge on all others, many times.

    The others are a finite sample: their risk strays around the true one, so even a valid rule exceeds somewhat more often
    than promised when the level is met tightly.

    Args:
        traces, scores: recorded traces and the probe's scores at their cues.
        risk: the level.
        confidence: as in :func:`reason_rl.stopping.conformal.certify`.
        per_cue: LYNX's rule at the same number instead of ours.
        loss: "harm" or "disagreement".
        calibration: traces to calibrate on; half of them when left out.
        splits: how many.
        seed: of the splits.

    Raises:
        RecipeError: when there are too few traces to certify anything, or to judge it.
    """
    size = calibration_size(len(traces), risk, confidence, calibration)
    numbers, table = np.array(bad_scores(traces, scores, loss)), offers(traces, scores, loss)
    rng = np.random.default_rng(seed)
    risks, exits, saved = [], [], []
    for _ in range(splits):
        order = rng.permutation(len(traces))
        inside, outside = order[:size], order[size:]
        if per_cue:
            threshold = _cue_threshold([traces[i] for i in inside], [scores[i] for i in inside], risk)
        else:
            threshold = threshold_at(numbers[inside], risk, confidence)
        judged = table.rows(outside)
        taken = judged.taken(threshold)
        _, tokens, bad = judged.at(taken)
        risks.append(bad.mean())
        exits.append(np.mean(taken < judged.highest.shape[1]))
        saved.append(1 - tokens.sum() / judged.tokens[:, -1].sum())
    return Validity(
        risk=risk,
        exceeded=clopper_pearson(int(np.sum(np.array(risks) > risk)), splits),
        promised=None if per_cue or confidence is None else 1 - confidence,
        mean_risk=float(np.mean(risks)),
        mean_exits=float(np.mean(exits)),
        mean_saved=float(np.mean(saved)),
    )


def _cue_threshold(traces: Sequence[Trace], scores: Sequence[Sequence[float]], miss: float) -> float:
    """Return LYNX's threshold; too few wrong cues never exit, as its quantile is then infinite."""
    flat = [score for row in scores for score in row]
    right = [flag for trace in traces for flag in trace.exits_right]
    try:
        return cue_threshold(flat, right, miss).threshold
    except RecipeError:
        return NEVER
