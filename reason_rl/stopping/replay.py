"""What a threshold would have done to recorded traces: risk, accuracy and tokens, without decoding anything again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from reason_rl.stopping.conformal import bad_score
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
        bad: share that goes bad under the loss asked for.
        accuracy, full_accuracy: with the rule and without.
        tokens, full_tokens: means.
        saved: share of all tokens saved.
    """

    traces: int
    exits: Limits
    harm: Limits
    help: Limits
    bad: Limits
    accuracy: Limits
    full_accuracy: Limits
    tokens: float
    full_tokens: float
    saved: float

    def figures(self) -> dict[str, Any]:
        """Return the outcome as plain JSON."""
        values = asdict(self)
        return {name: v._asdict() if isinstance(v, Limits) else v for name, v in values.items()}


@dataclass(frozen=True)
class Offers:
    """Traces as arrays [traces, cues + 1]; the last column is the full trace, and short rows are filled up with it.

    Args:
        highest: best score so far at each cue; the first that is above a threshold is where a trace exits.
        right, tokens, bad: of each exit, and of the full trace.
    """

    highest: Float[np.ndarray, "traces cues"]
    right: Bool[np.ndarray, "traces offers"]
    tokens: Float[np.ndarray, "traces offers"]
    bad: Bool[np.ndarray, "traces offers"]

    def taken(self, threshold: float) -> Int[np.ndarray, " traces"]:
        """Return the offer that each trace takes: its first cue above the threshold, or the last column."""
        above = self.highest > threshold
        return np.where(above.any(axis=1), above.argmax(axis=1), self.highest.shape[1])

    def rows(self, chosen: Int[np.ndarray, " chosen"]) -> Offers:
        """Return some of the traces."""
        return Offers(self.highest[chosen], self.right[chosen], self.tokens[chosen], self.bad[chosen])

    def at(self, taken: Int[np.ndarray, " traces"]) -> tuple[Any, Any, Any]:
        """Return whether each trace is right, its tokens, and whether its exit is bad, at the offers taken."""
        row = np.arange(len(taken))
        return self.right[row, taken], self.tokens[row, taken], self.bad[row, taken]


def offers(traces: Sequence[Trace], scores: Sequence[Sequence[float]], loss: str = "harm") -> Offers:
    """Return the traces as arrays.

    Raises:
        ValueError: without traces.
    """
    if not traces:
        raise ValueError("no traces to replay")
    cues = max(len(trace.positions) for trace in traces)
    highest = np.full((len(traces), cues), -np.inf)
    right = np.array([[trace.right] * (cues + 1) for trace in traces])
    tokens = np.array([[float(trace.tokens)] * (cues + 1) for trace in traces])
    bad = np.zeros((len(traces), cues + 1), dtype=bool)
    for row, (trace, values) in enumerate(zip(traces, scores, strict=True)):
        count = len(trace.positions)
        if count:
            highest[row, :count] = np.maximum.accumulate(np.nan_to_num(np.asarray(values, dtype=float), nan=0.0))
            right[row, :count], tokens[row, :count], bad[row, :count] = (
                trace.exits_right,
                trace.exit_tokens,
                trace.bad(loss),
            )
    return Offers(highest, right, tokens, bad)


def replay(traces: Sequence[Trace], scores: Sequence[Sequence[float]], threshold: float, loss: str = "harm") -> Replay:
    """Return what exits at the first cue above ``threshold`` would have done.

    Raises:
        ValueError: without traces.
    """
    return replay_offers(offers(traces, scores, loss), threshold)


def replay_offers(table: Offers, threshold: float) -> Replay:
    """Return what exits at the first cue above ``threshold`` would have done."""
    taken = table.taken(threshold)
    right, tokens, bad = table.at(taken)
    full, before, count = table.right[:, -1], table.tokens[:, -1], len(taken)

    def share(flags: Any) -> Limits:
        return clopper_pearson(int(np.sum(flags)), count)

    return Replay(
        traces=count,
        exits=share(taken < table.highest.shape[1]),
        harm=share(full & ~right),
        help=share(~full & right),
        bad=share(bad),
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
    traces: Sequence[Trace], scores: Sequence[Sequence[float]], points: int = 21, loss: str = "harm"
) -> list[dict[str, float]]:
    """Return bad exits, all exits and savings over a grid of thresholds: quantiles of the traces' highest scores."""
    highest = [max(row) for row in scores if row]
    if not highest:
        return []
    grid = np.unique(np.quantile(highest, np.linspace(0, 1, points)))
    rows, table = [], offers(traces, scores, loss)
    for threshold in (0.0, *grid.tolist()):
        outcome = replay_offers(table, threshold)
        rows.append(
            {"threshold": threshold, "bad": outcome.bad.share, "exits": outcome.exits.share, "saved": outcome.saved}
        )
    return rows
