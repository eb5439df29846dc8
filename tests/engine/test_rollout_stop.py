"""Rollouts whose end of thinking is pushed: exact log-probabilities, and what was not sampled stays out of the loss."""

import math

import pytest
import torch

from reason_rl.algorithm.opening import Opening
from reason_rl.errors import RecipeError, RunError
from reason_rl.recipe.load import load_recipe
from reason_rl.recipe.rollout_specs import StopSection
from reason_rl.rollout.backend import Sample, SamplingOptions, SamplingRequest
from reason_rl.stopping.generate import StoppingBackend
from reason_rl.stopping.rollouts import stop_policy
from reason_rl.stopping.temperature import edited_logps
from reason_rl.stopping.thinking import think_tokens
from reason_rl.trainer.seam import put_before


@pytest.fixture
def make_stopped(make_llama, tiny_tokenizer):
    """Return a maker of backends on a random model under a stop section, with prompts that open thinking."""

    def make(model=None, **section):
        model = model or make_llama()
        tokens = think_tokens(model, tiny_tokenizer)
        policy = stop_policy(StopSection(**section), tokens)
        return StoppingBackend(model, tokens, tiny_tokenizer.pad_token_id, policy)

    return make


def requests(tokens, count=12, length=24):
    return [SamplingRequest((30 + i, 40, tokens.start), length, seed=i) for i in range(count)]


def logits_of(model, request, ids):
    """Return the logits that each token of a completion was drawn from, [tokens, vocabulary], by one forward pass."""
    with torch.no_grad():
        whole = model(torch.tensor([[*request.prompt_ids, *ids]])).logits[0]
    return whole[len(request.prompt_ids) - 1 : -1]


def edited_by_hand(logits, ids, end, strength, mode, gate):
    """Return the log-probability of each token when the stop token is scaled while thinking is open; loops, no sharing."""
    expected, thinking = [], True
    for row, token in zip(logits, ids, strict=True):
        z = row.clone()
        rank = int((z > z[end]).sum())
        if thinking and (gate is None or rank < gate):
            logp = float(row.log_softmax(-1)[end])
            z[end] = row.logsumexp(-1) + logp / strength if mode == "logprob" else row[end] + math.log(strength)
        expected.append(float(z.log_softmax(-1)[token]))
        thinking = thinking and token != end
    return expected


@pytest.mark.parametrize(("mode", "gate"), [("logprob", None), ("bias", None), ("logprob", 30), ("bias", 30)])
def test_log_probabilities_are_those_of_the_edited_distribution(make_stopped, mode, gate):
    backend = make_stopped(strength=3.0, mode=mode, topk_gate=gate)
    asked = requests(backend.tokens)
    for request, sample in zip(asked, backend.generate(asked, SamplingOptions()), strict=True):
        logits = logits_of(backend.model, request, sample.token_ids)
        expected = edited_by_hand(logits, sample.token_ids, backend.tokens.end, 3.0, mode, gate)
        assert sample.logps == pytest.approx(expected, abs=1e-4)
        assert all(sample.sampled)


def test_the_closed_form_agrees_where_no_gate_is(make_stopped):
    backend = make_stopped(strength=2.0, mode="bias", topk_gate=None)
    asked, end = requests(backend.tokens), backend.tokens.end
    for request, sample in zip(asked, backend.generate(asked, SamplingOptions()), strict=True):
        logps = logits_of(backend.model, request, sample.token_ids).log_softmax(-1)
        ids = torch.tensor(sample.token_ids)
        inside = torch.cumsum(ids == end, 0) - (ids == end).long() == 0
        shift = torch.where(inside, math.log(2.0), 0.0)
        found = edited_logps(logps.gather(1, ids[:, None])[:, 0], ids == end, logps[:, end], shift)
        assert sample.logps == pytest.approx(found.tolist(), abs=1e-4)


def test_the_push_is_felt(make_stopped):
    def mean_think(strength):
        backend = make_stopped(strength=strength, topk_gate=None)
        drawn = backend.generate(requests(backend.tokens, 48), SamplingOptions())
        end = backend.tokens.end
        return sum(s.token_ids.index(end) if end in s.token_ids else len(s.token_ids) for s in drawn)

    assert mean_think(4.0) < mean_think(1.5) < mean_think(0.5)


def test_thinking_is_closed_at_the_cap_and_that_token_was_not_sampled(make_stopped):
    backend = make_stopped(max_think_tokens=5)
    end, late = backend.tokens.end, 0
    for sample in backend.generate(requests(backend.tokens), SamplingOptions()):
        place = sample.token_ids.index(end) if end in sample.token_ids else None
        if place == 5:
            late += 1
            assert sample.sampled == tuple(i != 5 for i in range(len(sample.token_ids)))
        else:
            assert (place is not None and place < 5) or sample.finish_reason == "stop"
            assert all(sample.sampled)
        assert sample.finish_reason in ("stop", "length")
    assert late > 3


def test_completions_end_at_the_stop_tokens_of_the_round_too(make_stopped):
    backend = make_stopped(strength=1.5, topk_gate=None)
    options = SamplingOptions(stop_ids=tuple(range(20, 60)))
    drawn = backend.generate(requests(backend.tokens), options)
    assert all(not set(s.token_ids[:-1]) & set(options.stop_ids) for s in drawn)
    assert sum(s.token_ids[-1] in options.stop_ids and s.finish_reason == "stop" for s in drawn) > 6


def test_weights_are_followed_and_copies_refused(make_stopped, make_llama):
    backend, other = make_stopped(strength=2.0), make_llama(seed=5)
    first = backend.generate(requests(backend.tokens), SamplingOptions())
    backend.follow(other)
    assert backend.generate(requests(backend.tokens), SamplingOptions()) != first
    with pytest.raises(RunError, match=r"rollout.stop: weights that are sharded"):
        backend.follow(other, still=True)
    with pytest.raises(RunError, match="needs 303 tokens of context"):
        backend.generate(requests(backend.tokens, 1, length=300), SamplingOptions())


def test_an_opening_before_keeps_the_marks_in_place():
    sample = put_before(Opening((8, 9), 0.5), Sample((6, 7), (0.0, -1.0), "stop", sampled=(False, True)))
    assert (sample.forced, sample.sampled) == (2, (True, True, False, True))


def test_in_the_trainer_ratios_are_exact_and_forced_tokens_leave_the_loss(make_trainer, make_llama, make_stopped):
    model = make_llama()
    backend = make_stopped(model, strength=3.0, topk_gate=None, max_think_tokens=4)
    trainer = make_trainer(backend=backend, model=model)
    kept, generate = [], trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: kept.append(generate(inputs)) or kept[-1]
    trainer.train()
    output = kept[0]
    ids, mask, end = output["completion_ids"], output["completion_mask"].bool(), backend.tokens.end
    fresh = make_llama()
    forced = ratios = 0
    for row in range(len(ids)):
        prompt = output["prompt_ids"][row][output["prompt_mask"][row].bool()].tolist()
        written = ids[row][mask[row]].tolist()
        logits = logits_of(fresh, SamplingRequest(tuple(prompt), 16, 0), written)
        edited = edited_by_hand(logits, written, end, 3.0, "logprob", None)
        plain = logits.log_softmax(-1).gather(1, torch.tensor(written)[:, None])[:, 0].tolist()
        place = written.index(end) if end in written else None
        for i, (new, old) in enumerate(zip(edited, plain, strict=True)):
            if i == place == 4:
                forced += 1
                assert output["tool_mask"][row, i] == 0
                assert output["importance_sampling_ratio"][row, i] == 1
            else:
                ratios += 1
                assert output["tool_mask"][row, i] == 1
                expected = min(2.0, math.exp(old - new))
                assert output["importance_sampling_ratio"][row, i].item() == pytest.approx(expected, rel=1e-3)
    assert forced > 3
    assert ratios > 30
    assert output["num_items_in_batch"] == (output["tool_mask"] * output["completion_mask"]).sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["rollout.stop.strength=1"], "changes nothing"),
        (["rollout.stop.strength=2", "rollout.importance_correction=none"], "leaves the scaled stop token uncorrected"),
        (["rollout.stop.strength=0"], "greater than 0"),
        (["rollout.stop.mask_eos=true"], "mask_eos"),
        (["rollout.stop.mode=logit"], "logprob"),
    ],
)
def test_what_cannot_be_corrected_is_refused(changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("tiny/dler", changes)
