"""Traces, calibration and exits on the tiny reasoner: what was recorded is what happens online."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reason_rl.answer.verify import ExactVerifier
from reason_rl.errors import RecipeError
from reason_rl.models import load_model, load_tokenizer
from reason_rl.problem.prompt import render_prompts
from reason_rl.problem.sources import load_problems
from reason_rl.recipe.schema import ModelSection, PromptSection, WorldData
from reason_rl.rollout.backend import SamplingOptions, SamplingRequest, sampling_seed
from reason_rl.rollout.grading import Grader
from reason_rl.stopping.conformal import exit_cue
from reason_rl.stopping.cues import Cues
from reason_rl.stopping.fit import FitOptions, fit_probe
from reason_rl.stopping.generate import StoppingBackend
from reason_rl.stopping.label import Text, try_exits
from reason_rl.stopping.play import outcome, play, record
from reason_rl.stopping.probe import Probe
from reason_rl.stopping.replay import bad_scores, reliability, replay, risk_coverage, score_traces
from reason_rl.stopping.rule import GO, Ask, Elicitor, StopPolicy
from reason_rl.stopping.rules.budget_forcing import BudgetForcing
from reason_rl.stopping.rules.concise_hint import ConciseHint
from reason_rl.stopping.rules.consistency import AnswerConsistency
from reason_rl.stopping.rules.deer import Deer
from reason_rl.stopping.rules.entropy import EntropyAfterThink
from reason_rl.stopping.rules.probe_exit import ProbeExit, QExit
from reason_rl.stopping.thinking import think_tokens
from reason_rl.stopping.traces import Recorder, collect

CAP, SEED = 160, 5
SAMPLED = SamplingOptions()


class Bench:
    """The tiny reasoner, 72 calibration problems, and their traces with every exit at a cue tried."""

    def __init__(self):
        self.tokenizer = load_tokenizer(ModelSection())
        self.model = load_model(ModelSection())
        self.tokens = think_tokens(self.model, self.tokenizer)
        boxed, wait = self.tokenizer.convert_tokens_to_ids(["\\boxed{", "wait"])
        self.elicitor = Elicitor((self.tokens.end, boxed), 8, self.tokens.eos)
        self.problems = load_problems(WorldData(use="world", split="calibration", count=72))
        self.prompts = render_prompts(self.problems, self.tokenizer, PromptSection())
        self.grader = Grader(self.tokenizer, ExactVerifier(), self.tokens.end)
        self.backend = StoppingBackend(self.model, self.tokens, self.tokenizer.pad_token_id)
        self.recorder = Recorder(Cues(frozenset({(wait,)}), every=24), self.elicitor, layers=(4,))
        self.layers = self.recorder.layers
        self.traces = self.collect(self.recorder)

    def collect(self, recorder):
        return collect(self.backend, self.grader, self.problems, self.prompts, recorder, SAMPLED, CAP, SEED)

    def decode(self, policy):
        requests = [
            SamplingRequest(tuple(prompt), CAP, sampling_seed(SEED, problem.id, 0))
            for prompt, problem in zip(self.prompts, self.problems, strict=True)
        ]
        return self.backend.under(policy).decode(requests, SAMPLED)

    def right(self, stopped):
        answers = [self.grader.extracted(s.sample.token_ids) for s in stopped]
        verdicts = self.grader.verifier.verify(answers, [problem.answer for problem in self.problems])
        return [v and s.sample.finish_reason != "length" for v, s in zip(verdicts, stopped, strict=True)]


@pytest.fixture(scope="module")
def bench():
    return Bench()


@pytest.fixture(scope="module")
def probe(bench):
    features = torch.cat([t.features for t in bench.traces if t.positions])
    right = torch.tensor([r for t in bench.traces for r in t.exits_right])
    names = [t.problem_id for t in bench.traces for _ in t.positions]
    fit = fit_probe(features, right, names, FitOptions())
    assert fit.auc > 0.6
    return fit.probe


def test_recording_leaves_the_traces_as_they_are(bench):
    plain = bench.decode(StopPolicy())
    assert [len(s.sample.token_ids) for s in plain] == [trace.tokens for trace in bench.traces]
    assert bench.right(plain) == [trace.right for trace in bench.traces]
    assert all(trace.label_tokens > 0 for trace in bench.traces if trace.positions)


def test_there_is_something_to_decide(bench):
    offered = [trace for trace in bench.traces if trace.positions]
    assert len(offered) > 36
    early = [trace.exits_right[0] for trace in offered if trace.right]
    assert 0.05 < np.mean(early) < 0.95
    assert any(trace.exits_right[-1] for trace in offered)
    assert all(a < b for t in offered for a, b in zip(t.positions, t.positions[1:], strict=False))


def test_features_are_those_of_one_forward_pass_over_the_text(bench):
    stopped = bench.decode(StopPolicy())
    for n in (0, 5, 11):
        prompt, trace = bench.prompts[n], bench.traces[n]
        with torch.no_grad():
            ids = torch.tensor([[*prompt, *stopped[n].sample.token_ids]])
            states = bench.model(ids, output_hidden_states=True).hidden_states[bench.layers[0]][0]
        # The states after reading the last token before the exit.
        expected = states[[len(prompt) + position - 1 for position in trace.positions]]
        assert torch.allclose(trace.features, expected, atol=1e-3)


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9])
def test_exits_online_are_those_of_the_recorded_traces(bench, probe, threshold):
    scores = score_traces(probe, bench.traces)
    rule = ProbeExit(probe, bench.layers, bench.recorder.cues, bench.elicitor, threshold)
    online = bench.decode(StopPolicy(rule=rule))
    expected = [exit_cue(row, threshold) for row in scores]
    positions = [None if at is None else t.positions[at] for t, at in zip(bench.traces, expected, strict=True)]
    assert [s.exit_at for s in online] == positions
    outcome = replay(bench.traces, scores, threshold)
    assert outcome.accuracy.share == np.mean(bench.right(online))
    assert outcome.tokens == np.mean([len(s.sample.token_ids) for s in online])
    assert all(s.net_tokens == len(s.sample.token_ids) for s in online)
    assert outcome.exits.share == np.mean([at is not None for at in positions])
    # help - harm is the change of accuracy
    assert outcome.accuracy.share - outcome.full_accuracy.share == pytest.approx(
        outcome.help.share - outcome.harm.share
    )


def test_a_probe_that_always_believes_exits_at_the_first_cue_and_one_that_never_does_not(bench):
    width = bench.traces[0].features.shape[1]
    always = Probe((torch.zeros(1, width),), (torch.tensor([9.0]),))
    rule = ProbeExit(always, bench.layers, bench.recorder.cues, bench.elicitor, 0.5)
    first = [trace.positions[0] if trace.positions else None for trace in bench.traces]
    assert [s.exit_at for s in bench.decode(StopPolicy(rule=rule))] == first
    never = replace(rule, probe=Probe((torch.zeros(1, width),), (torch.tensor([-9.0]),)))
    plain = [s.sample.token_ids for s in bench.decode(StopPolicy())]
    assert [s.sample.token_ids for s in bench.decode(StopPolicy(rule=never))] == plain
    late = bench.decode(StopPolicy(rule=replace(rule, min_think_tokens=40)))
    assert all(s.exit_at is None or s.exit_at >= 40 for s in late)


def test_the_risk_of_a_trace_follows_its_number(bench, probe):
    scores = score_traces(probe, bench.traces)
    for loss in ("harm", "disagreement"):
        numbers = np.array(bad_scores(bench.traces, scores, loss))
        for threshold in np.linspace(0, 1, 41):
            exits = [exit_cue(row, threshold) for row in scores]
            hit = [at is not None and t.bad(loss)[at] for t, at in zip(bench.traces, exits, strict=True)]
            assert np.mean(hit) <= np.mean(numbers > threshold)
    harm, disagreement = (np.array(bad_scores(bench.traces, scores, loss)) for loss in ("harm", "disagreement"))
    assert (harm <= disagreement).all()
    with pytest.raises(ValueError, match="not harm or disagreement"):
        bench.traces[0].bad("regret")


def test_curves_of_the_recorded_traces(bench, probe):
    scores = score_traces(probe, bench.traces)
    curve = risk_coverage(bench.traces, scores)
    assert curve[-1]["exits"] == 0 == curve[-1]["bad"]
    assert [row["exits"] for row in curve] == sorted((row["exits"] for row in curve), reverse=True)
    flat = [score for row in scores for score in row]
    rows = reliability(flat, [r for t in bench.traces for r in t.exits_right])
    assert sum(row["cues"] for row in rows) == len(flat)
    with pytest.raises(ValueError, match="no traces"):
        replay([], [], 0.5)


def test_q_exit_stops_later_for_a_higher_quantile(bench, probe):
    exits = []
    for quantile in (0.2, 0.9, 0.999):
        rule = QExit(probe, bench.layers, bench.recorder.cues, bench.elicitor, quantile)
        exits.append([s.exit_at or CAP for s in bench.decode(StopPolicy(rule=rule))])
    assert all(a <= b <= c for a, b, c in zip(*exits, strict=True))
    assert sum(exits[0]) < sum(exits[2])
    with pytest.raises(ValueError, match="quantile"):
        QExit(probe, bench.layers, bench.recorder.cues, bench.elicitor, 1.0)


def test_branches_give_what_the_recorder_gives_while_the_trace_is_written(bench):
    stopped = bench.decode(StopPolicy(rule=bench.recorder))
    for trace, written in zip(bench.traces, stopped, strict=True):
        looks = written.state
        assert trace.positions == tuple(look.position for look in looks)
        assert trace.label_tokens == written.side_tokens
        assert trace.exit_tokens == tuple(min(CAP, look.position + 2 + len(look.answer_ids)) for look in looks)
        if looks:
            assert torch.allclose(trace.features, torch.stack([look.features for look in looks]), atol=1e-3)
    answers = [bench.grader.extracted((*bench.elicitor.ids, *look.answer_ids)) for s in stopped for look in s.state]
    assert len(answers) > 300
    # A cut answer counts as none; every other one is the same.
    labelled = [answer for trace in bench.traces for answer in trace.answers]
    assert all(mine in (None, theirs) for mine, theirs in zip(labelled, answers, strict=True))
    assert labelled.count(None) < len(labelled) / 4


def test_exits_need_attention_that_takes_masks(bench):
    text = Text((3,), (4, 5), (1,))
    with pytest.raises(ValueError, match="at least one suffix"):
        try_exits(bench.model, [text], Ask((), 4, (1,)), (4,))
    kind, bench.model.config._attn_implementation = bench.model.config._attn_implementation, "flash_attention_2"
    try:
        with pytest.raises(RecipeError, match=r"attn_implementation flash_attention_2.*sdpa or eager"):
            try_exits(bench.model, [text], Ask((6,), 4, (1,)), (4,))
    finally:
        bench.model.config._attn_implementation = kind


class Everywhere:
    """A rule that tries the exit at every think position and keeps what came back."""

    layers = ()

    def __init__(self, elicitor):
        self.elicitor = elicitor

    def start(self):
        return ()

    def decide(self, state, look):
        return (state, self.elicitor.ask()) if look.trial is None else ((*state, look.trial), GO)


@pytest.fixture(scope="module")
def recordings(bench):
    requests = [
        SamplingRequest(tuple(prompt), CAP, sampling_seed(SEED, problem.id, 0))
        for prompt, problem in zip(bench.prompts[:24], bench.problems[:24], strict=True)
    ]
    layers = bench.layers
    return record(bench.backend, bench.grader, bench.problems[:24], requests, SAMPLED, bench.elicitor, layers), requests


def test_trials_are_those_of_side_decodes(bench, recordings):
    recorded, requests = recordings
    decoded = bench.backend.under(StopPolicy(rule=Everywhere(bench.elicitor))).decode(requests[:8], SAMPLED)
    for recording, stopped in zip(recorded[:8], decoded, strict=True):
        assert recording.text.completion == stopped.sample.token_ids
        assert len(recording.text.cues) == len(stopped.state)
        for mine, theirs in zip(recording.exits.trials, stopped.state, strict=True):
            assert mine.token_ids == theirs.token_ids
            assert mine.logps == pytest.approx(theirs.logps, abs=1e-3)
            assert isinstance(mine.entropy, float)  # no vocabulary at each think position
            assert mine.entropy == pytest.approx(theirs.entropy, abs=1e-3)


def played_rules(bench, probe):
    """One rule of every kind that can be played."""
    wait = bench.tokenizer.convert_tokens_to_ids("wait")
    every, ask = Cues(frozenset(), every=12), bench.elicitor
    return [
        ProbeExit(probe, bench.layers, bench.recorder.cues, ask, 0.5),
        QExit(probe, bench.layers, bench.recorder.cues, ask, 0.9),
        BudgetForcing(bench.tokens.end, ask, 30),
        AnswerConsistency(every, ask, bench.grader.extracted, 2),
        EntropyAfterThink(every, ask.ids, ask, 0.5, min_looks=2),
        Deer(frozenset({wait}), ask.ids, ask.eos, ask, 0.9, trial_tokens=ask.answer_tokens),
    ]


@pytest.mark.parametrize("number", range(6))
def test_playing_a_rule_gives_what_decoding_under_it_gives(bench, probe, recordings, number):
    recorded, requests = recordings
    rule = played_rules(bench, probe)[number]
    found = outcome(lambda problem: rule, recorded, bench.elicitor, bench.grader, CAP)
    decoded = bench.backend.under(StopPolicy(rule=rule)).decode(requests, SAMPLED)
    assert found.exits.tolist() == [s.exit_at is not None for s in decoded]
    assert found.exits.any()
    assert found.tokens.tolist() == [len(s.sample.token_ids) for s in decoded]
    assert found.side_tokens.tolist() == [s.side_tokens for s in decoded]
    verdicts = bench.grader.verifier.verify(
        [bench.grader.extracted(s.sample.token_ids) for s in decoded], [p.answer for p in bench.problems[:24]]
    )
    right = [v and s.sample.finish_reason != "length" for v, s in zip(verdicts, decoded, strict=True)]
    assert found.right.tolist() == right


def test_a_rule_that_writes_or_asks_for_something_else_cannot_be_played(bench, recordings):
    recorded, _ = recordings
    with pytest.raises(ValueError, match="only exits by the elicitor"):
        play(ConciseHint((9,), first=4), recorded[0], bench.elicitor)
    with pytest.raises(ValueError, match="was not recorded"):
        play(EntropyAfterThink(Cues(frozenset(), every=1), (9,), bench.elicitor, 0.1), recorded[0], bench.elicitor)
