"""The stop logit: closed forms, hand-worked numbers, limits, and the exact correction of log-probabilities."""

import itertools
import math

import numpy as np
import pytest
import torch

from reason_rl.stopping.temperature import StopOptions, TemperatureStop, edited_logps, scale_stop, stop_logit
from reason_rl.stopping.thinking import Phase, ThinkTokens, phase, whole_completion

MODES = ("logprob", "logit", "bias")
TOKENS = ThinkTokens(end=0, start=3, eos=(4,))
FREE = {"topk_gate": None, "mask_eos": False, "mask_restart": False}


def thinking(rows, count=10):
    return Phase(torch.ones(rows, dtype=torch.bool), torch.full((rows,), count))


def scaled(logits, strength, mode="logprob", **fields):
    options = StopOptions(mode, **{**FREE, **fields})
    return scale_stop(logits, torch.full((len(logits),), float(strength)), thinking(len(logits)), TOKENS, options)


def stop_share(logits, strength, mode="logprob", **fields):
    return scaled(logits, strength, mode, **fields).softmax(dim=-1)[:, 0]


def with_stop_probability(p, vocabulary=7):
    """Return double logits whose stop probability is p."""
    return torch.tensor(
        [[math.log(p)] + [math.log((1 - p) / (vocabulary - 1))] * (vocabulary - 1)], dtype=torch.float64
    )


@pytest.fixture
def random_logits():
    return torch.randn(32, 50, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("mode", MODES)
def test_strength_one_changes_nothing(random_logits, mode):
    assert (scaled(random_logits, 1.0, mode) - random_logits).abs().max() < 1e-6


@pytest.mark.parametrize("mode", ["logprob", "bias"])
def test_a_shift_of_all_logits_does_not_matter(random_logits, mode):
    shifted = scaled(random_logits - 10, 2.0, mode).softmax(dim=-1)
    assert torch.allclose(shifted, scaled(random_logits, 2.0, mode).softmax(dim=-1), atol=1e-6)


def test_the_literal_reading_does_depend_on_the_offset():
    z = torch.tensor([[2.0, 3.0, 1.0, 0.0]])
    assert stop_share(z, 2.0, "logit").item() == pytest.approx(0.696, abs=1e-3)
    # Below zero it leaves the stop logit alone, where a scaled one would have moved the wrong way.
    assert stop_share(z - 10, 2.0, "logit").item() == pytest.approx(0.2369, abs=1e-4)


@pytest.mark.parametrize("strength", [0.5, 1.5, 4.0])
def test_closed_forms_and_untouched_odds_of_the_others(random_logits, strength):
    p = random_logits.softmax(dim=-1)[:, 0]
    root = p ** (1 / strength)
    assert torch.allclose(stop_share(random_logits, strength), root / (root + 1 - p), atol=1e-6)
    odds = strength * p / (1 - p)
    assert torch.allclose(stop_share(random_logits, strength, "bias"), odds / (1 + odds), atol=1e-6)
    for mode in MODES:
        assert torch.equal(scaled(random_logits, strength, mode)[:, 1:], random_logits[:, 1:])


@pytest.mark.parametrize(
    ("mode", "strength", "expected"),
    [("logprob", 2, 0.190530), ("logprob", 4, 0.332336), ("logprob", 0.5, 0.002625), ("bias", 2, 0.095238)],
)
def test_hand_worked_five_percent(mode, strength, expected):
    assert stop_share(with_stop_probability(0.05), strength, mode).item() == pytest.approx(expected, abs=2e-6)


def test_hand_worked_logits():
    z = torch.tensor([[2.0, 3.0, 1.0, 0.0]], dtype=torch.float64)
    assert z.softmax(dim=-1)[0, 0].item() == pytest.approx(0.2369, abs=5e-5)
    assert z.logsumexp(dim=-1).item() == pytest.approx(3.440190, abs=1e-6)
    assert stop_logit(z, 0, torch.tensor([2.0]), "logprob").item() == pytest.approx(2.720095, abs=1e-6)
    assert scaled(z, 2.0).softmax(dim=-1)[0].tolist() == pytest.approx([0.3894, 0.5152, 0.0697, 0.0257], abs=5e-5)


@pytest.mark.parametrize("mode", ["logprob", "bias"])
def test_stopping_grows_strictly_with_strength(mode):
    for p in (1e-4, 0.05, 0.5, 0.95):
        shares = [stop_share(with_stop_probability(p), s, mode).item() for s in (0.25, 0.5, 1, 1.5, 2, 4, 8)]
        assert all(a < b for a, b in itertools.pairwise(shares))


def test_limits_of_the_strength():
    for p in (0.01, 0.4):
        z = with_stop_probability(p)
        assert stop_share(z, 1e9).item() == pytest.approx(1 / (2 - p), abs=1e-6)
        assert scaled(z, 1e9).argmax(dim=-1).item() == 0
        assert stop_share(z, 1e-3).item() < 1e-9


def test_greedy_stops_exactly_when_the_closed_form_says():
    # p_e >= p_max^s
    assert scaled(torch.tensor([[0.3, 0.5, 0.2]]).log(), 1.8).argmax().item() == 0  # 0.5^1.8 = 0.287
    assert scaled(torch.tensor([[0.3, 0.5, 0.2]]).log(), 1.7).argmax().item() == 1  # 0.5^1.7 = 0.308


def test_rows_that_answer_or_fail_the_gate_are_the_input_bit_by_bit(random_logits):
    where = Phase(torch.arange(32) % 2 == 0, torch.full((32,), 9))
    options = StopOptions(topk_gate=5, mask_eos=False, mask_restart=False)
    out = scale_stop(random_logits, torch.full((32,), 3.0), where, TOKENS, options)
    rank = (random_logits > random_logits[:, :1]).sum(dim=-1)
    touched = where.thinking & (rank < 5)
    assert 0 < touched.sum() < 16
    assert torch.equal(out[~touched], random_logits[~touched])
    assert (out[touched, 0] > random_logits[touched, 0]).all()


def test_without_the_gate_tiny_probabilities_are_lifted_at_every_step():
    z = with_stop_probability(1e-6)
    assert stop_share(z, 4).item() == pytest.approx(0.031, abs=1e-3)
    assert stop_share(z, 4, topk_gate=5).item() == pytest.approx(1e-6, rel=1e-3)


def test_limits_and_masks_while_thinking():
    z = torch.zeros(1, 6)
    assert scaled(z, 2.0, min_think_tokens=11)[0, 0] == -torch.inf
    capped = scaled(z, 2.0, max_think_tokens=10)
    assert capped[0, 0] == 0
    assert (capped[0, 1:] == -torch.inf).all()
    masked = scaled(z, 1.0, mask_eos=True, mask_restart=True)
    assert (masked[0] == -torch.inf).tolist() == [False, False, False, True, True, False]


def test_where_a_completion_does_not_think_its_end_is_what_is_scaled():
    logits = torch.tensor([[1.0, 0.5, 0.0, 0.2]])
    where = Phase(torch.tensor([True]), torch.tensor([4]))
    edited = scale_stop(logits, torch.tensor([3.0]), where, ThinkTokens(end=1, start=None, eos=(1, 3)), StopOptions())
    assert edited[0, 1] > logits[0, 1]
    assert torch.equal(edited[0, [0, 2, 3]], logits[0, [0, 2, 3]])


def test_the_end_of_a_model_that_does_not_think_is_that_of_its_generation_config(make_llama, tiny_tokenizer):
    model, own = make_llama(), tiny_tokenizer.eos_token_id
    for configured, end in (([9, 7], 9), (9, 9), (None, own)):
        model.generation_config.eos_token_id = configured
        assert whole_completion(model, tiny_tokenizer).end == end
    assert own in whole_completion(model, tiny_tokenizer).eos


def test_half_precision_is_computed_in_single():
    z = (torch.randn(16, 4000, generator=torch.Generator().manual_seed(1)) * 3).bfloat16()
    exact = stop_logit(z.double().float(), 0, torch.full((16,), 2.0), "logprob")
    assert torch.equal(scaled(z, 2.0)[:, 0], exact.bfloat16())


def test_mean_length_is_the_inverse_of_the_hazard():
    hazard = stop_share(with_stop_probability(0.01), 2.0).item()
    assert hazard == pytest.approx(0.0917, abs=1e-4)
    lengths = np.random.default_rng(0).geometric(hazard, size=20_000)
    assert lengths.mean() == pytest.approx(1 / hazard, rel=0.03)


@pytest.mark.parametrize("is_stop", [True, False])
@pytest.mark.parametrize(("mode", "strength"), [("logprob", 4.0), ("logprob", 0.5), ("bias", 3.0), ("bias", 0.2)])
def test_log_probabilities_of_one_edited_logit_against_brute_force(random_logits, is_stop, mode, strength):
    z = random_logits.double()
    before = z.log_softmax(dim=-1)
    after = scaled(z, strength, mode).log_softmax(dim=-1)
    stop = before[:, 0]
    shift = stop * (1 / strength - 1) if mode == "logprob" else torch.full_like(stop, math.log(strength))
    token = 0 if is_stop else 17
    flags = torch.full((32,), is_stop)
    corrected = edited_logps(before[:, token], flags, stop, shift)
    assert torch.allclose(corrected, after[:, token], atol=1e-5)  # the transform itself is float32
    assert torch.allclose(edited_logps(corrected, flags, after[:, 0], -shift), before[:, token], atol=1e-5)


@pytest.mark.parametrize("strength", [0.0, -1.0, float("inf"), ()])
def test_a_strength_that_is_none_is_refused(strength):
    with pytest.raises(ValueError, match="not above 0"):
        TemperatureStop(strength, TOKENS)


@pytest.mark.parametrize(
    "fields",
    [{"mode": "odds"}, {"topk_gate": 0}, {"min_think_tokens": -1}, {"min_think_tokens": 9, "max_think_tokens": 8}],
)
def test_options_that_contradict_themselves_are_refused(fields):
    with pytest.raises(ValueError, match=r"mode|topk_gate|think"):
        StopOptions(**fields)


def test_the_phase_latches():
    ids = torch.tensor([[3, 9, 9, 3, 9], [9, 9, 0, 3, 9], [9, 9, 9, 9, 9], [9, 0, 3, 9, 0]])
    opened = torch.tensor([True, True, False, False])
    found = phase(ids, opened, TOKENS)
    assert found.thinking.tolist() == [True, False, False, False]
    assert found.think_tokens.tolist() == [5, 3, 0, 2]
