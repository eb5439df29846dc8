"""The watch on rows of a batching engine: against the rule asked row by row, and in runner V2 of vLLM on steps by hand."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from reason_rl.errors import RunError
from reason_rl.stopping.cues import Cues
from reason_rl.stopping.probe import Probe
from reason_rl.stopping.rule import Elicitor, Exit, Look, Score
from reason_rl.stopping.rules.probe_exit import ProbeExit
from reason_rl.stopping.thinking import ThinkTokens
from reason_rl.stopping.vllm_tap import ROW, TapV1, TapV2
from reason_rl.stopping.watch import Watch

END, START, EOS = 7, 5, 1
TOKENS = ThinkTokens(end=END, start=START, eos=(EOS,))
# One feature, which is the logit of the score.
PROBE = Probe((torch.ones(1, 1),), (torch.zeros(1),))
RULE = ProbeExit(PROBE, (1,), Cues(frozenset({(11,), (12, 13)}), every=5), Elicitor((END, 8), 3, (EOS,)), 0.6)
VOCABULARY = 20


def by_the_rule(prompt, stream, features, logits, rule):
    """Return what a row writes and where it exits when the rule itself is asked before every token; plain loops."""
    thinking, closed, count, written, exit_at = TOKENS.opened_by(prompt), False, 0, [], None
    limit = len(rule.elicitor.ids) + rule.elicitor.answer_tokens
    while len(written) < len(stream):
        n = len(written)
        if thinking and exit_at is None:
            look = Look(written, count, stream[n], features[n])
            action = rule.decide((), look)[1]
            if isinstance(action, Score):
                action = rule.decide((), look._replace(score=float(PROBE.score(features[n][None])[0])))[1]
            if isinstance(action, Exit):
                exit_at = n
        if exit_at is None:
            token = stream[n]
        elif n - exit_at < len(rule.elicitor.ids):
            token = rule.elicitor.ids[n - exit_at]
        else:
            token = int(logits[n].argmax()) if n - exit_at < limit else EOS
        written.append(token)
        count += thinking
        thinking, closed = (
            (thinking and token != END) or (not thinking and not closed and token == START),
            closed or (thinking and token == END),
        )
        if token == EOS and exit_at is not None and n - exit_at >= limit:
            break
    return written, exit_at


@pytest.mark.parametrize("minimum", [0, 6])
def test_rows_in_any_place_and_order_do_what_the_rule_says(minimum):
    random = torch.Generator().manual_seed(minimum)
    rule = replace(RULE, min_think_tokens=minimum)
    prompts = [[3, START] if row % 3 else [3, 9] for row in range(60)]
    length = 24
    streams, features = (
        torch.randint(5, 16, (60, length), generator=random),
        torch.randn(60, length, 1, generator=random),
    )
    logits = torch.randn(60, length, VOCABULARY, generator=random)
    watch = Watch(rule, TOKENS, prompts, keep_scores=True)
    written = [[] for _ in prompts]
    ended = [False] * 60
    while not all(ended):
        lanes = [row for row in torch.randperm(60, generator=random).tolist() if not ended[row]][:8]
        fed = [[*prompts[row], *written[row]] for row in lanes]
        places = torch.tensor([len(text) - 1 for text in fed])
        states = torch.stack([features[row, len(written[row])] for row in lanes])
        raw = torch.stack([logits[row, len(written[row])] for row in lanes])
        last = torch.tensor([text[-1] for text in fed])
        # A chunk of a prompt, and a step that is made twice, change nothing.
        watch.step(torch.tensor(lanes), torch.full_like(last, 11), torch.zeros_like(last), states + 9, raw)
        edited = watch.step(torch.tensor(lanes), last, places, states, raw.clone())
        watch.step(torch.tensor(lanes), last, places, states + 9, raw)
        for row, before, after in zip(lanes, raw, edited, strict=True):
            untouched = torch.equal(before, after)
            token = int(streams[row, len(written[row])]) if untouched else int(after.argmax())
            assert untouched or after.isfinite().sum() == 1
            written[row].append(token)
            over = watch.exits()[row] is not None and token == EOS
            ended[row] = over or len(written[row]) == length
    expected = [by_the_rule(*row, rule) for row in zip(prompts, streams.tolist(), features, logits, strict=True)]
    for row, (text, exit_at) in enumerate(expected):
        assert watch.exits()[row] == exit_at
        assert written[row] == text[: len(written[row])]
    exits = [exit_at for _, exit_at in expected if exit_at is not None]
    assert 8 < len(exits) < 60
    assert min(exits) >= minimum
    assert all(row[-1][0] == at for row, (_, at) in zip(watch.scores(), expected, strict=True) if at is not None)


def test_states_that_are_not_finite_and_rows_that_are_not_watched_never_exit():
    watch = Watch(replace(RULE, cues=Cues(frozenset(), every=1), threshold=-0.5), TOKENS, [[3, START], [3, START]])
    logits = torch.zeros(3, VOCABULARY)
    rows, hot = torch.tensor([0, 1, -1]), torch.tensor([[float("nan")], [4.0], [4.0]])
    for place in (1, 2):
        edited = watch.step(rows, torch.tensor([START, 11, 11]), torch.full((3,), place), hot, logits)
    assert watch.exits() == [1, 1]
    careful = Watch(replace(RULE, cues=Cues(frozenset(), every=1), threshold=0.0), TOKENS, [[3, START], [3, START]])
    for place in (1, 2):
        edited = careful.step(rows, torch.tensor([START, 11, 11]), torch.full((3,), place), hot, logits)
    assert careful.exits() == [None, 1]
    assert torch.equal(edited[[0, 2]], logits[[0, 2]])


class Block(nn.Module):
    """A block as vLLM's: branch and residual stream apart."""

    def forward(self, branch, residual):
        return branch, residual


class RunnerV2:
    """As much of vLLM's runner V2 as the tap sees: two layers, three rows in slots of its choice."""

    def __init__(self):
        self.max_num_reqs, self.device = 8, torch.device("cpu")
        self.model = nn.Module()
        self.model.model = nn.Module()
        self.model.model.layers = nn.ModuleList([Block(), Block()])
        self.sampler = SimpleNamespace(logits_processors=[])
        self.fails = False

    def get_model(self):
        return self.model

    def sample(self, hidden_states, input_batch, grammar_output):
        if self.fails:
            raise ValueError("out of memory")
        logits = torch.zeros(len(input_batch.logits_indices), VOCABULARY)
        for processor in self.sampler.logits_processors:
            logits = processor.apply(logits, input_batch.ctx)
        return logits


def a_step(slots, fed, positions, places):
    ctx = SimpleNamespace(
        expanded_idx_mapping=torch.tensor(slots, dtype=torch.int32),
        input_ids=torch.tensor(fed, dtype=torch.int32),
        pos=torch.tensor(positions),
    )
    return SimpleNamespace(logits_indices=torch.tensor(places), ctx=ctx)


def asking(row):
    return SimpleNamespace(extra_args={ROW: row})


@pytest.fixture
def tapped():
    runner = RunnerV2()
    rule = replace(RULE, layers=(2,), cues=Cues(frozenset({(11,), (12,)})))
    watch = Watch(rule, TOKENS, [[3, START], [3, START]])
    return runner, watch, TapV2(runner, watch)


def test_runner_v2_forces_rows_above_the_threshold_only(tapped):
    runner, watch, tap = tapped
    # Slots 5 and 0 are watched, slot 2 is not.
    asked = [tap.add_request(slot, params) for slot, params in ((5, asking(0)), (2, SimpleNamespace()), (0, asking(1)))]
    assert asked == [True, False, True]
    tap.apply_staged_writes()
    states = torch.tensor([[9.0], [1.0], [9.0], [1.0], [-1.0]])
    places = [1, 3, 4]
    assert runner.sample(states, a_step((5, 2, 0), (START,) * 3, (1, 1, 1), places), None).eq(0).all()
    # Scores .731, .731 and .269 at cues.
    edited = runner.sample(states, a_step((5, 2, 0), (11, 11, 12), (2, 2, 2), places), None)
    assert edited[0].argmax() == END
    assert edited[0].isfinite().sum() == 1
    assert edited[1:].eq(0).all()
    assert watch.exits() == [1, None]
    # A slot that is used again knows nothing of the row before: it is not watched now.
    assert tap.add_request(5, SimpleNamespace(extra_args=None)) is False
    tap.apply_staged_writes()
    assert runner.sample(states, a_step((5,), (11,), (3,), [1]), None).eq(0).all()


def test_runner_v2_reads_layers_below_by_hooks_and_is_left_as_it_was():
    runner = RunnerV2()
    rule = replace(RULE, layers=(1, 2), probe=Probe((torch.tensor([[1.0, -1.0]]),), (torch.zeros(1),)))
    tap = TapV2(runner, Watch(replace(rule, cues=Cues(frozenset({(11,)}))), TOKENS, [[3, START]]))
    tap.add_request(4, asking(0))
    tap.apply_staged_writes()
    first, _ = runner.model.model.layers
    stream = torch.full((2, 1), 2.0)
    for position, fed in ((1, START), (2, 11)):
        first(torch.full((2, 1), -1.0), stream)
        stream += 5.0  # the next block writes into it
        edited = runner.sample(torch.zeros(2, 1), a_step((4,), (fed,), (position,), [1]), None)
        assert tap.features is None
    # -1 + 7 - 0 is sure, -1 alone would not be.
    assert edited[0].argmax() == END
    runner.fails = True
    with pytest.raises(ValueError, match="out of memory"):
        runner.sample(torch.zeros(2, 1), a_step((4,), (11,), (3,), [1]), None)
    assert tap.features is None
    tap.detach()
    assert "sample" not in vars(runner)
    assert runner.sampler.logits_processors == []
    assert not first._forward_hooks


def test_warm_up_passes_without_states_keep_their_logits(tapped):
    _, _, tap = tapped
    logits = torch.randn(4, VOCABULARY)
    assert tap.apply(logits, a_step((0,) * 4, (11,) * 4, (2,) * 4, [0]).ctx) is logits


@pytest.mark.parametrize("kind", [TapV1, TapV2])
def test_a_runner_that_is_not_known_is_named(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__="0.99"))
    with pytest.raises(RunError, match=r"vLLM 0.99: SimpleNamespace has no .*sample.*rollout.engine=hf"):
        kind(SimpleNamespace(), Watch(RULE, TOKENS, [[3, START]]))
