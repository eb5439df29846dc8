"""Thresholds with guarantees: exact sizes, brute-force equivalence, and validity over simulated calibrations."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reason_rl.errors import RecipeError
from reason_rl.stopping.conformal import (
    NEVER,
    Guarantee,
    allowed_bad,
    bad_score,
    certify,
    exit_cue,
    problems_needed,
    records,
    threshold_at,
)
from reason_rl.stopping.lynx import cue_threshold, upper_quantile
from reason_rl.stopping.sequential import Audit, clopper_pearson, exact_p, fixed_sequence

INF = math.inf
SCORES, RIGHT = [0.30, 0.62, 0.55, 0.71, 0.68, 0.90], [0, 1, 0, 0, 1, 1]


class Simulated:
    """Traces whose probe is informative but whose right answers come and go; a quarter of the full traces are wrong."""

    def __init__(self, seed, traces):
        rng = np.random.default_rng(seed)
        cues = 1 + rng.poisson(8, traces)
        self.scores, self.bad, self.right = [], [], []
        for count in cues:
            full = rng.random() < 0.75
            right = rng.random(count) < np.linspace(0.3, 0.9, count)
            noise = rng.normal(0, 1.2, count)
            self.scores.append(1 / (1 + np.exp(-(2.0 * (right - 0.5) + noise))))
            self.right.append(right)
            self.bad.append(full & ~right)
        self.numbers = np.array([bad_score(s, b) for s, b in zip(self.scores, self.bad, strict=True)])
        spans = [span for trace in zip(self.scores, self.bad, strict=True) for span in bad_spans(*trace)]
        self.low, self.high = np.array(spans).T

    def risk(self, threshold):
        """Return the share of traces that really go bad at this threshold."""
        return ((self.low <= threshold) & (threshold < self.high)).sum() / len(self.scores)


def bad_spans(scores, bad):
    """Return the thresholds (from, up to) between which a trace exits at a bad cue."""
    at = records(scores)
    before = [-INF, *scores[at][:-1]]
    return [(low, scores[i]) for low, i in zip(before, at, strict=True) if bad[i]]


@pytest.fixture(scope="module")
def population():
    return Simulated(0, 20_000)


def splits(population, problems, count=200):
    rng = np.random.default_rng(1)
    for _ in range(count):
        yield rng.choice(len(population.numbers), problems, replace=False)


def test_records_and_the_number_of_a_trace():
    bad = [not right for right in RIGHT]
    assert records(SCORES) == [0, 1, 3, 5]
    assert bad_score(SCORES, bad) == 0.71
    for threshold in np.linspace(-0.1, 1.0, 221):
        at = exit_cue(SCORES, threshold)
        harmed = at is not None and bad[at]
        assert harmed == (threshold < 0.30 or 0.62 <= threshold < 0.71)


ragged = st.lists(st.tuples(st.integers(0, 8).map(lambda k: k / 8), st.booleans()), max_size=12)


@given(ragged)
def test_the_number_is_the_monotone_majorant_of_the_loss(trace):
    scores, bad = [s for s, _ in trace], [b for _, b in trace]
    grid = np.linspace(-0.0625, 1.0625, 19)
    losses = [(at := exit_cue(scores, t)) is not None and bad[at] for t in grid]
    number = bad_score(scores, bad)
    assert [any(losses[i:]) for i in range(len(grid))] == [number > t for t in grid]
    assert bad_score(scores, bad, any_cue=True) >= number


@given(ragged, st.integers(1, 4))
def test_cues_that_are_repeated_change_nothing(trace, times):
    scores, bad = [s for s, _ in trace], [b for _, b in trace]
    assert bad_score(np.repeat(scores, times), np.repeat(bad, times).astype(bool)) == bad_score(scores, bad)


def test_scores_that_are_not_numbers_count_as_nought():
    assert exit_cue([math.nan, 0.6], 0.5) == 1
    assert exit_cue([math.nan], 0.0) is None
    assert bad_score([math.nan, 0.6], [True, False]) == 0.0
    with pytest.raises(ValueError, match="2 scores and 1 verdicts"):
        bad_score([0.1, 0.2], [True])


@pytest.mark.parametrize(
    ("problems", "risk", "expected"),
    [
        (50, 0.05, (1, 0, -1)),
        (50, 0.1, (4, 1, 1)),
        (100, 0.05, (4, 1, 1)),
        (200, 0.05, (9, 5, 4)),
        (200, 0.1, (19, 14, 12)),
        (500, 0.02, (9, 5, 4)),
        (500, 0.05, (24, 18, 16)),
        (500, 0.1, (49, 40, 38)),
        (1000, 0.01, (9, 5, 4)),
        (1000, 0.02, (19, 13, 12)),
        (1000, 0.05, (49, 40, 38)),
        (1000, 0.1, (99, 87, 84)),
    ],
)
def test_how_many_may_go_bad(problems, risk, expected):
    assert tuple(allowed_bad(problems, risk, confidence) for confidence in (None, 0.9, 0.95)) == expected


@pytest.mark.parametrize(
    ("risk", "expected"), [(0.01, (99, 230, 299)), (0.02, (49, 114, 149)), (0.05, (19, 45, 59)), (0.1, (9, 22, 29))]
)
def test_how_many_problems_are_needed_and_that_fewer_are_refused(risk, expected):
    for confidence, needed in zip((None, 0.9, 0.95), expected, strict=True):
        assert problems_needed(risk, confidence) == needed
        assert certify([-INF] * needed, risk, confidence).threshold == 0.5
        assert threshold_at([-INF] * (needed - 1), risk, confidence) == NEVER
        with pytest.raises(RecipeError, match=rf"{needed - 1} problems cannot .* {needed} are needed"):
            certify([-INF] * (needed - 1), risk, confidence)


@given(st.integers(1, 400), st.integers(0, 60), st.sampled_from([0.01, 0.05, 0.1, 0.2]))
def test_as_many_are_allowed_as_the_clopper_pearson_limit_allows(problems, bad, risk):
    bad = min(bad, problems)
    # One-sided 90 % is the upper end of a two-sided 80 % interval.
    admitted = clopper_pearson(bad, problems, 0.8).high <= risk + 1e-12
    assert admitted == (bad <= allowed_bad(problems, risk, 0.9))


def test_the_toy_calibration():
    numbers = [0.91, -INF, 0.40, -INF, 0.77, 0.62, -INF, -INF, 0.55]
    assert threshold_at(numbers, 0.2, None) == 0.77
    assert threshold_at(numbers, 0.09, None) == NEVER
    assert threshold_at(numbers, 0.6, None) == -INF
    assert certify(numbers, 0.6, None).threshold == 0.5


@given(st.lists(st.sampled_from([-INF, 0.1, 0.4, 0.4, 0.7, 0.9]), min_size=1, max_size=80), st.floats(0.02, 0.7))
def test_on_average_it_is_conformal_risk_control_and_the_split_conformal_quantile(numbers, risk):
    n, values = len(numbers), np.array(numbers)
    candidates = [-INF, *sorted(set(numbers) - {-INF}), INF]
    controlled = min(t for t in candidates if ((values > t).sum() + 1) / (n + 1) <= risk + 1e-9 or t == INF)
    assert threshold_at(numbers, risk, None) == controlled
    rank = math.ceil((1 - risk) * (n + 1) - 1e-9)
    assert threshold_at(numbers, risk, None) == (
        sorted(numbers)[rank - 1] if 0 < rank <= n else INF if rank > n else -INF
    )


@pytest.mark.parametrize("confidence", [None, 0.7, 0.9, 0.95])
def test_a_larger_risk_never_raises_the_threshold(confidence):
    numbers = np.random.default_rng(0).uniform(size=300)
    found = [threshold_at(numbers, risk, confidence) for risk in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)]
    assert found == sorted(found, reverse=True)
    if confidence is not None:
        for problems in (10, 60, 200, 599):
            for risk in (0.01, 0.02, 0.05, 0.1, 0.2):
                assert allowed_bad(problems, risk, confidence) <= allowed_bad(problems, risk, None)


def test_the_bound_on_average_is_exact_for_continuous_numbers():
    rng = np.random.default_rng(0)
    draws = rng.uniform(size=(20_000, 100))
    thresholds = np.sort(draws[:, :99], axis=1)[:, ::-1][:, allowed_bad(99, 0.05, None)]
    assert (draws[:, 99] > thresholds).mean() == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("risk", [0.05, 0.1, 0.2])
def test_the_promised_share_of_calibrations_keeps_the_risk(population, risk):
    kept, naive = [], []
    for chosen in splits(population, 200):
        numbers = population.numbers[chosen]
        kept.append(population.risk(threshold_at(numbers, risk, 0.9)) <= risk)
        # What the share in the sample alone would allow, without any correction.
        naive.append(population.risk(np.sort(numbers)[::-1][int(risk * 200)]) <= risk)
    error = 3 * math.sqrt(0.1 * 0.9 / len(kept))
    assert np.mean(kept) >= 0.9 - error
    assert np.mean(naive) < 0.9 - error


def test_the_per_cue_rule_keeps_its_promise_per_cue_and_none_per_trace(population):
    scores, right = (np.concatenate(part) for part in (population.scores, population.right))
    per_cue, per_trace = [], []
    for chosen in splits(population, 200, count=40):
        rule = cue_threshold(
            np.concatenate([population.scores[i] for i in chosen]).tolist(),
            np.concatenate([population.right[i] for i in chosen]).tolist(),
            0.05,
        )
        per_cue.append((scores[~right] > rule.threshold).mean())
        per_trace.append(population.risk(rule.threshold))
    assert np.mean(per_cue) <= 0.05 + 0.005
    assert min(per_trace) > 0.05


def test_cues_repeated_in_one_trace_move_the_per_cue_rule_alone():
    rng = np.random.default_rng(3)
    traces = [(rng.uniform(size=6), rng.random(6) < 0.5) for _ in range(60)]
    times = [200, *[1] * 59]

    def pooled(repeats):
        scores = np.concatenate([np.repeat(s, k) for (s, _), k in zip(traces, repeats, strict=True)])
        right = np.concatenate([np.repeat(r, k) for (_, r), k in zip(traces, repeats, strict=True)])
        return cue_threshold(scores.tolist(), right.tolist(), 0.1).threshold

    assert pooled(times) != pooled([1] * 60)
    numbers = [
        [bad_score(np.repeat(s, k), ~np.repeat(r, k)) for (s, r), k in zip(traces, repeats, strict=True)]
        for repeats in (times, [1] * 60)
    ]
    assert numbers[0] == numbers[1]


def test_too_few_wrong_cues_are_refused_where_the_released_code_goes_on():
    scores, right = [0.2] * 32 + [0.9] * 50, [False] * 32 + [True] * 50
    with pytest.raises(RecipeError, match=r"32 wrong cues .* 33 are needed"):
        cue_threshold(scores, right, 0.03)
    assert cue_threshold(scores, right, 0.03, clamp=True).wrong == 0.2
    with pytest.raises(RecipeError, match="0 wrong cues"):
        cue_threshold([0.9] * 50, [True] * 50, 0.03, clamp=True)


def test_probes_that_always_or_never_believe():
    always = cue_threshold([0.9] * 99 + [0.1] * 99, [True] * 99 + [False] * 99, 0.05)
    assert always.exits(1.0)
    assert not always.exits(0.0)
    assert upper_quantile([0.02, 0.05, 0.08, 0.11, 0.15, 0.2, 0.28, 0.37, 0.55, 0.8], 0.1) == 0.80


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [((0.0004, 0.0623, 0.4547), 0.8), ((0.0, 0.0, 0.0), 0.7), ((0.2, 0.0, 0.0), NEVER), ((0.01, 0.2, 0.0), 0.9)],
)
def test_the_ladder_ends_before_the_first_failure(p_values, expected):
    assert fixed_sequence([0.9, 0.8, 0.7], p_values, 0.1) == expected


def test_the_ladder_of_raw_losses_never_ends_above_the_order_statistic(population):
    rng = np.random.default_rng(5)
    ladder = np.linspace(0.99, 0.5, 50)
    for _ in range(5):
        chosen = rng.choice(20_000, 200, replace=False)
        exits = [[exit_cue(population.scores[i], t) for t in ladder] for i in chosen]
        bad = [[at is not None and population.bad[i][at] for at in row] for i, row in zip(chosen, exits, strict=True)]
        p_values = [exact_p(int(count), 200, 0.05) for count in np.sum(bad, axis=0)]
        certified = threshold_at(population.numbers[chosen], 0.05, 0.9)
        assert fixed_sequence(ladder, p_values, 0.1) <= min(t for t in ladder if t >= certified)


def test_statements_say_what_is_random_bounded_and_assumed():
    pac = Guarantee(0.8, 0.05, 0.9, 200, 5, "harm").statement()
    assert "confidence 0.9 over the draw of the 200 calibration problems" in pac
    assert "at most 0.05" in pac
    assert "drawn like the calibration problems" in pac
    average = Guarantee(0.8, 0.05, None, 200, 9, "disagreement").statement()
    assert "confidence" not in average
    assert "together" in average
    assert "another answer than the full trace" in average
    assert "no bound for a trace" in cue_threshold([0.1] * 40 + [0.9], [False] * 40 + [True], 0.05).statement()


@pytest.mark.parametrize(("shift", "holds"), [(1.0, False), (2.0, True)])
def test_a_bound_under_shift_holds_where_hard_traces_become_twice_as_common(shift, holds):
    rng = np.random.default_rng(3)
    exceeded = 0
    for _ in range(400):
        # A fifth of the calibration traces is hard; nearly all trouble comes from them.
        hard = rng.random(400) < 0.2
        numbers = np.where(hard, rng.random(400), rng.random(400) ** 4)
        threshold = certify(numbers, 0.1, 0.9, floor=0.0, shift=shift).threshold
        # Hard traces: 1 - t of them are bad, easy ones: 1 - t^(1/4). Now two fifths are hard.
        exceeded += 0.4 * (1 - threshold) + 0.6 * (1 - threshold**0.25) > 0.1
    assert (exceeded / 400 <= 0.1) == holds
    stricter = certify([0.5] * 400, 0.1, 0.9, shift=2.0)
    assert stricter.allowed == allowed_bad(400, 0.05, 0.9)
    assert "no kind of trace is more than 2 times as common" in stricter.statement()
    with pytest.raises(RecipeError, match=r"40 problems cannot bound the risk by 0.05 .* 45 are needed"):
        certify([0.5] * 40, 0.1, 0.9, shift=2.0)
    with pytest.raises(RecipeError, match=r"shift 0.5 is below 1"):
        certify([0.5] * 40, 0.1, 0.9, shift=0.5)


@pytest.mark.parametrize(("risk", "confidence"), [(0.0, 0.9), (1.0, 0.9), (0.05, 1.0), (0.05, 0.0)])
def test_levels_that_are_none_are_refused(risk, confidence):
    with pytest.raises(RecipeError, match="is not between 0 and 1"):
        certify([0.1] * 500, risk, confidence)


def test_the_audit_rarely_alarms_while_the_bound_holds_and_soon_when_it_does_not():
    rng = np.random.default_rng(0)

    def alarms(rate, length):
        audit = Audit(0.05, 0.1)
        for bad in rng.random(length) < rate:
            audit = audit.see(bool(bad))
            if audit.alarm(0.05):
                return True
        return False

    assert np.mean([alarms(0.05, 600) for _ in range(300)]) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    assert np.mean([alarms(0.15, 600) for _ in range(100)]) > 0.95
    assert stats.binom.cdf(5, 200, 0.05) == pytest.approx(exact_p(5, 200, 0.05))
