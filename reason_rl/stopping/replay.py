"""What a threshold would have done to recorded traces: risk, accuracy and tokens, without decoding anything again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reason_rl.stopping.conformal import bad_score, exit_cue
from reason_rl.stopping.probe import Probe
from reason_rl.stopping.sequential import Limits, clopper_pearson
from reason_rl.stopping.traces import Trace


def score_traces(probe: Probe, traces: Sequence[Trace]) -> list[list[float]]:
    """Return the probe's score at each cue of each trace."""
    return [probe.score(trace.features).tolist() if trace.positions else [] for trace in traces]


def bad_scores(traces: Sequence[Trace], scores: Sequence[Sequence[float]], loss: str) -> list[float]:
    """Return the number of each trace that calibration ranks, see :func:`reason_rl.stopping.conformal.bad_score`."""
    return [bad_score(row, trace.bad(loss)) for trace, row in zip(traces, scores, strict=True)]


@dataclass(frozen=True)
class Replay:
    """The outcome of a threshold over traces; shares with exact 95 % limits, lengths in completion tokens.

    Args:
        traces: how many.
        exits: share that exits.
        harm: share whose right answer is lost; help: share whose wrong answer becomes right.
        accuracy, full_accuracy: with the rule and without.
        tokens, full_tokens: means.
        saved: share of all tokens saved.
    """

    traces: int
    exits: Limits
    harm: Limits
    help: Limits
    accuracy: Limits
    full_accuracy: Limits
    tokens: float
    full_tokens: float
    saved: float

    def figures(self) -> dict[str, Any]:
        """Return the outcome as plain JSON."""
        values = asdict(self)
        return {name: v._asdict() if isinstance(v, Limits) else v for name, v in values.items()}


def replay(traces: Sequence[Trace], scores: Sequence[Sequence[float]], threshold: float) -> Replay:
    """Return what exits at the first cue above ``threshold`` would have done.

    Raises:
        ValueError: without traces.
    """
    if not traces:
        raise ValueError("no traces to replay")
    exits = [exit_cue(row, threshold) for row in scores]
    full = np.array([trace.right for trace in traces])
    pairs = list(zip(traces, exits, strict=True))
    right = np.array([trace.right if at is None else trace.exits_right[at] for trace, at in pairs])
    tokens = np.array([trace.tokens if at is None else trace.exit_tokens[at] for trace, at in pairs])
    before = np.array([trace.tokens for trace in traces])

    def share(flags: Any) -> Limits:
        return clopper_pearson(int(np.sum(flags)), len(traces))

    return Replay(
        traces=len(traces),
        exits=share([at is not None for at in exits]),
        harm=share(full & ~right),
        help=share(~full & right),
        accuracy=share(right),
        full_accuracy=share(full),
        tokens=float(tokens.mean()),
        full_tokens=float(before.mean()),
        saved=float(1 - tokens.sum() / before.sum()),
    )


def reliability(scores: Sequence[float], right: Sequence[bool], bins: int = 10) -> list[dict[str, float]]:
    """Return, for equal bins of the score, the cues in them, their mean score and the share that is right.

    >>> reliability([0.05, 0.92, 0.97], [False, True, False])[1]
    {'cues': 2, 'score': 0.945, 'right': 0.5}
    """
    values, flags = np.asarray(scores, dtype=float), np.asarray(right, dtype=bool)
    place = np.minimum((values * bins).astype(int), bins - 1)
    rows = []
    for number in range(bins):
        inside = place == number
        if inside.any():
            mean = round(float(values[inside].mean()), 12)
            rows.append({"cues": int(inside.sum()), "score": mean, "right": float(flags[inside].mean())})
    return rows


def risk_coverage(
    traces: Sequence[Trace], scores: Sequence[Sequence[float]], points: int = 21
) -> list[dict[str, float]]:
    """Return harm, exits and savings over a grid of thresholds: quantiles of the traces' highest scores."""
    highest = [max(row) for row in scores if row]
    if not highest:
        return []
    grid = np.unique(np.quantile(highest, np.linspace(0, 1, points)))
    rows = []
    for threshold in (0.0, *grid.tolist()):
        outcome = replay(traces, scores, threshold)
        rows.append(
            {"threshold": threshold, "harm": outcome.harm.share, "exits": outcome.exits.share, "saved": outcome.saved}
        )
    return rows
