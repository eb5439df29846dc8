"""Validity over random splits of synthetic traces: ours keeps its promise, and the count sees one that does not."""

import numpy as np
import pytest
import torch

from reason_rl.stopping import validity
from reason_rl.stopping.traces import Trace
from reason_rl.stopping.validity import over_splits


def traces(count=1000, seed=0):
    """Return traces of about ten cues whose exits come right and wrong again, and scores that know little."""
    rng = np.random.default_rng(seed)
    made, scores = [], []
    for number in range(count):
        cues = 1 + rng.poisson(9)
        right = rng.random(cues) < np.linspace(0.3, 0.9, cues)
        full = bool(rng.random() < 0.8)
        positions = tuple(range(10, 10 * cues + 10, 10))
        made.append(
            Trace(
                problem_id=f"p{number}",
                level=1,
                tokens=10 * cues + 20,
                answer="1" if full else "0",
                right=full,
                positions=positions,
                features=torch.zeros(cues, 1),
                answers=tuple("1" if r else "0" for r in right),
                exits_right=tuple(bool(r) for r in right),
                exit_tokens=tuple(position + 5 for position in positions),
                label_tokens=5 * cues,
            )
        )
        scores.append((1 / (1 + np.exp(-2 * (right - 0.5) - rng.normal(0, 1.2, cues)))).tolist())
    return made, scores


@pytest.fixture(scope="module")
def recorded():
    return traces()


@pytest.mark.parametrize("risk", [0.05, 0.2])
def test_certified_thresholds_fail_as_seldom_as_promised(recorded, risk):
    outcome = over_splits(*recorded, risk, 0.9, calibration=200, splits=100)
    assert outcome.promised == pytest.approx(0.1)
    assert outcome.exceeded.low <= 0.1
    assert outcome.mean_risk < risk
    assert outcome.mean_saved > 0


def test_the_count_sees_a_rule_without_the_correction(recorded, monkeypatch):
    monkeypatch.setattr(
        validity, "threshold_at", lambda numbers, risk, _: np.sort(numbers)[::-1][int(risk * len(numbers))]
    )
    assert over_splits(*recorded, 0.05, 0.9, calibration=200, splits=100).exceeded.low > 0.1


def test_the_per_cue_rule_exceeds_per_trace_and_promises_nothing(recorded):
    outcome = over_splits(*recorded, 0.05, 0.9, calibration=200, per_cue=True, splits=50)
    assert outcome.promised is None
    assert outcome.exceeded.low > 0.5
    assert outcome.mean_risk > 0.06


def test_on_average_the_risk_is_kept(recorded):
    assert over_splits(*recorded, 0.1, None, calibration=200, splits=100).mean_risk <= 0.1 + 0.005


def test_disagreement_bounds_harm(recorded):
    harm = over_splits(*recorded, 0.2, 0.9, splits=20)
    other = over_splits(*recorded, 0.2, 0.9, splits=20, loss="disagreement")
    assert other.mean_exits <= harm.mean_exits
