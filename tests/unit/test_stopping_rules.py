"""Published exit rules: hand-worked numbers, scripted rows, and each rule in the decoding loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.rollout.backend import SamplingOptions, SamplingRequest
from reason_rl.stopping.cues import Cues
from reason_rl.stopping.fork import entropy_nats
from reason_rl.stopping.generate import StoppingBackend
from reason_rl.stopping.probe import Probe
from reason_rl.stopping.rule import Ask, Elicitor, Exit, Insert, Look, Score, StopPolicy, Trial
from reason_rl.stopping.rules.concise_hint import ConciseHint, interval
from reason_rl.stopping.rules.consistency import DYNASOR, AnswerConsistency, certaindex
from reason_rl.stopping.rules.deer import Deer
from reason_rl.stopping.rules.entropy import EntropyAfterThink, Moving, follow
from reason_rl.stopping.rules.no_thinking import NoThinking
from reason_rl.stopping.rules.patience import patience_exit, patient
from reason_rl.stopping.rules.plan_budget import WORDS_BY_LEVEL, decay, share_out, uncertainty_budgets
from reason_rl.stopping.rules.probe_exit import QExit
from reason_rl.stopping.thinking import ThinkTokens

END, START, EOS, BOXED, CLOSE, WAIT = 6, 5, 1, 7, 8, 21
ELICITOR = Elicitor((END, BOXED), 4, (EOS,))
TOKENS = ThinkTokens(END, START, (EOS,))
EVERY = Cues(frozenset(), every=1)


def run_script(rule, drawn, trials=(), features=None):
    """Play drawn tokens and scripted trials; return written tokens, what was asked, and the exit's place."""
    state, written, asked, answers = rule.start(), [], [], iter(trials)
    for token in drawn:
        look = Look(list(written), len(written), token, None if features is None else features[len(written)])
        state, action = rule.decide(state, look)
        if isinstance(action, Ask):
            asked.append((len(written), action))
            state, action = rule.decide(state, look._replace(trial=next(answers)))
        if isinstance(action, Score):
            state, action = rule.decide(state, look._replace(score=float(action.probe.score(look.features[None])[0])))
        if isinstance(action, Exit):
            return written, asked, len(written)
        written += action.ids if isinstance(action, Insert) else [token]
    return written, asked, None


def answered(*tokens, p=0.5):
    return Trial(tuple(tokens), (math.log(p),) * len(tokens), math.log(4))


def boxed(ids):
    """Return the token after the box as the answer; 99 is no answer."""
    return None if ids[2] == 99 else str(ids[2])


@pytest.mark.parametrize(("threshold", "place"), [(0.0, 2), (0.6, 4), (1.0, None)])
def test_deer_tries_in_place_of_the_word_and_exits_when_sure(threshold, place):
    rule = Deer(frozenset({WAIT}), (BOXED,), (CLOSE,), ELICITOR, threshold)
    drawn = [30, 31, WAIT, 32, WAIT, 33]
    written, asked, exit_at = run_script(rule, drawn, [answered(40, CLOSE), answered(41, CLOSE, p=0.9)])
    assert exit_at == place
    assert [at for at, _ in asked] == [2, 4][: 1 if place == 2 else 2]
    assert all(ask == Ask((BOXED,), 20, (CLOSE,)) for _, ask in asked)
    # Nothing after the word is known, and the word itself is not written on an exit.
    assert written == drawn[: place if place is not None else 6]


def test_deer_gives_up_after_its_trials_and_takes_a_trial_of_one_token_for_unsure():
    rule = Deer(frozenset({WAIT}), (BOXED,), (CLOSE,), ELICITOR, 0.0, max_trials=2)
    _, asked, exit_at = run_script(rule, [WAIT] * 5, [answered(40, p=0.9)] * 2)
    assert (len(asked), exit_at) == (2, None)


@pytest.mark.parametrize(("agree", "place"), [(1, 1), (2, 4), (3, 7), (4, None)])
def test_consistency_wants_equal_answers_in_a_row_and_empty_ones_never_count(agree, place):
    rule = AnswerConsistency(EVERY, ELICITOR, boxed, agree)
    trials = [answered(n, CLOSE) for n in (40, 41, 40, 40, 99, 40, 40)]
    if agree == 3:
        trials = [answered(n, CLOSE) for n in (40, 40, 99, 99, 40, 40, 40)]
    assert run_script(rule, [30] * 8, trials)[2] == place


@given(st.lists(st.sampled_from("01"), max_size=14), st.integers(1, 5))
def test_patience_is_consistency_with_one_more(answers, patience):
    rule = patient(patience, EVERY, ELICITOR, boxed)
    trials = [answered(40 + int(a), CLOSE) for a in answers]
    assert run_script(rule, [30] * (len(answers) + 1), trials)[2] == patience_exit(answers, patience)


def test_patience_longer_than_the_answers_never_exits():
    assert patience_exit("1111", 4) is None
    with pytest.raises(ValueError, match="patience 0"):
        patient(0, EVERY, ELICITOR, boxed)
    with pytest.raises(ValueError, match="agree 0"):
        AnswerConsistency(EVERY, ELICITOR, boxed, 0)


def test_certaindex_of_samples_that_agree_or_do_not():
    assert certaindex(["1"] * 5) == 1.0
    assert certaindex(["1"]) == 1.0
    assert certaindex(list("1234")) == pytest.approx(0.0)
    assert DYNASOR["crazy"] == (2, 32)
    with pytest.raises(ValueError, match="no answers"):
        certaindex([])


def test_entropy_of_a_worked_series_and_of_a_constant_series():
    state = Moving(0.0, 1.0, 0)
    variances = []
    for x in (1.4, 1.2, 1.3, 0.3, 0.1, 0.05, 0.05, 0.05):
        state = follow(state, x, 0.2)
        variances.append(state.variance)
    assert variances == pytest.approx([1, 0.80512, 0.64456, 0.65623, 0.663, 0.62969, 0.56729, 0.4945], abs=1e-5)
    constant = Moving(0.0, 0.0, 0)
    for _ in range(5):
        constant = follow(constant, 0.7, 0.2)
    assert constant.variance == pytest.approx(0.0)


def test_entropy_does_not_depend_on_the_order_of_tokens_and_takes_masked_ones():
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert float(entropy_nats(logits.flip(0))) == pytest.approx(float(entropy_nats(logits)))
    masked = torch.tensor([[0.0, -torch.inf, 0.0], [0.0, 0.0, 0.0]])
    assert entropy_nats(masked).tolist() == pytest.approx([math.log(2), math.log(3)])


@pytest.mark.parametrize(("min_looks", "threshold", "place"), [(1, 0.85, 2), (4, 0.85, 4), (1, 0.0, None)])
def test_entropy_exits_when_it_has_settled_and_not_before_the_minimum(min_looks, threshold, place):
    rule = EntropyAfterThink(EVERY, (END,), ELICITOR, threshold, min_looks=min_looks)
    _, asked, exit_at = run_script(rule, [30] * 8, [Trial((), (), math.log(4))] * 8)
    assert exit_at == place
    assert all(ask == Ask((END,), 0, ()) for _, ask in asked)
    with pytest.raises(ValueError, match="rate"):
        EntropyAfterThink(EVERY, (END,), ELICITOR, 0.1, rate=0.0)


def test_no_thinking_closes_once():
    assert run_script(NoThinking((30, END), END), [9, 9])[0] == [30, END, 9]
    for ids in ((30,), (END, END)):
        with pytest.raises(ValueError, match="once is wanted"):
            NoThinking(ids, END)


def test_hints_come_at_growing_intervals_and_count():
    written, _, _ = run_script(ConciseHint((90, 91), first=4, growth=0.5, longest=8), [30] * 30)
    places = [n for n, token in enumerate(written) if token == 90]
    # After 4; then 6 written + floor(4 + 3) = 13; then 15 + 8 = 23, and 25 + 8 = 33.
    assert places[:3] == [4, 13, 23]
    assert [interval(t) for t in (0, 128, 500, 2000, 4480)] == [128, 153, 228, 528, 1024]
    with pytest.raises(ValueError, match="longest"):
        ConciseHint((90,), first=9, longest=8)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("constant", [70, 105, 105, 70]),
        ("linear", [112, 126, 84, 28]),
        ("polynomial", [154, 130, 57, 9]),
        ("cosine", [129, 149, 61, 11]),
        ("exponential", [81, 111, 99, 59]),
    ],
)
def test_word_budgets_worked_by_hand(schedule, words):
    assert share_out(350, [0.2, 0.3, 0.3, 0.2], schedule) == words


@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=9),
    st.sampled_from(["constant", "linear", "polynomial", "cosine", "exponential"]),
    st.sampled_from(sorted(WORDS_BY_LEVEL.values())),
)
def test_word_budgets_add_up_and_never_rise_for_equal_credits(credits, schedule, total):
    assert sum(share_out(total, credits, schedule)) == total
    equal = share_out(total, [1.0] * len(credits), schedule)
    assert equal == sorted(equal, reverse=True)


def test_word_budgets_need_shares():
    for credits in ([], [0.0], [-1.0, 2.0]):
        with pytest.raises(ValueError, match="no shares"):
            share_out(100, credits, "linear")
    with pytest.raises(ValueError, match="unknown schedule"):
        decay("square", 0, 2)
    assert sum(uncertainty_budgets(300, [1, 2, 5], 0.5)) == pytest.approx(300)


def test_q_exit_worked_by_hand():
    # A probe whose score is its one feature.
    probe = Probe((torch.ones(1, 1),), (torch.zeros(1),))
    features = torch.tensor([0.5, 0.1, 0.2, 0.3, 0.4, 0.5]).logit()[:, None]
    for quantile, place in ((0.05, 1), (0.2, 2), (0.49, 3), (0.5, 4), (0.698, 5)):
        rule = QExit(probe, (1,), EVERY, ELICITOR, quantile)
        assert run_script(rule, [30] * 6, features=features)[2] == place


RULES = {
    "deer": Deer(frozenset(range(20, 60)), (BOXED,), (CLOSE, EOS), ELICITOR, 0.005, max_trials=3),
    "consistency": AnswerConsistency(Cues(frozenset(), every=4), ELICITOR, boxed, 2),
    "entropy": EntropyAfterThink(Cues(frozenset(), every=4), (END,), ELICITOR, 0.9, min_looks=3),
    "no_thinking": NoThinking((30, END), END),
    "hint": ConciseHint((90, 91), first=8, longest=16),
}


@pytest.mark.parametrize("name", sorted(RULES))
def test_each_rule_in_the_loop_forces_what_it_says_and_pays_for_its_looks(make_llama, name):
    backend = StoppingBackend(make_llama(), TOKENS, 0, StopPolicy(rule=RULES[name]))
    requests = [SamplingRequest((3, 30 + i, 4, START), 40, seed=i) for i in range(6)]
    stopped = backend.decode(requests, SamplingOptions())
    touched = [s for s in stopped if any(s.forced)]
    assert touched
    asks = name in ("deer", "consistency", "entropy")
    for row in stopped:
        assert len(row.forced) == len(row.sample.token_ids) == len(row.sample.logps)
        assert (row.net_tokens > len(row.sample.token_ids)) == (row.side_tokens > 0)
        assert asks or row.side_tokens == 0
        assert all(logp == 0.0 for logp, forced in zip(row.sample.logps, row.forced, strict=True) if forced)
        if row.exit_at is not None:
            ids = row.sample.token_ids
            assert ids[row.exit_at : row.exit_at + 2] == ELICITOR.ids[: len(ids) - row.exit_at]
            assert END not in ids[: row.exit_at]
