"""AES, E3, cost-of-pass, and the idealised cost: worked examples and laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.evaluate.cost import ModelShape, decode_seconds, prefill_seconds, sequence_flops, shape_of, time_saved
from reason_rl.evaluate.efficiency import (
    accuracy_per_kilotoken,
    aes,
    aes_estimate,
    completion_dollars,
    cost_of_pass,
    e3,
    essentialness,
    frontier_cost_of_pass,
    gain_per_doubling,
)

ACCURACIES, TOKENS = st.floats(0.01, 1.0), st.floats(1.0, 1e5)
COSTS = np.array([[0.025, 0.2], [0.05, np.inf], [0.5, 0.04]])
QWEN = ModelShape(1.54e9, layers=28, attention_width=1536, key_value_heads=2, head_size=128)


def test_aes_of_the_worked_examples():
    assert aes(80, 4000, 82, 2400) == pytest.approx(0.475)
    assert aes(80, 4000, 78, 2400) == pytest.approx(0.275)
    # The constants of QFFT, which quotes the same form.
    assert aes(80, 4000, 82, 2400, alpha=0.1, beta=0.1, gamma=1.0) == pytest.approx(0.0425)
    assert aes(80, 4000, 78, 2400, alpha=0.1, beta=0.1, gamma=1.0) == pytest.approx(0.015)
    # Of DLER's Table 1, means of its five benchmarks: DLER, AdaptThink, Laser-DE.
    assert round(aes(51.71, 10_499, 56.74, 2_466), 3) == 1.057
    assert round(aes(51.71, 10_499, np.mean([82.26, 30.21, 61.37, 41.52, 42.50]), 3_769), 3) == 0.628
    assert round(aes(51.71, 10_499, np.mean([85.27, 30.62, 68.14, 42.69, 46.21]), 4_882), 3) == 0.702


def test_its_parts_are_those_of_the_score_of_siri():
    start = [(28.2, 12333), (21.5, 12264), (61.8, 8449), (82.4, 4745)]
    short = [(40.4, 7093), (29.6, 6509), (74.6, 4700), (87.7, 2881)]
    gains = [aes(*a, *b, alpha=0, beta=1, gamma=1) for a, b in zip(start, short, strict=True)]
    ratios = [1 - aes(*a, *b, alpha=1, beta=0, gamma=0) for a, b in zip(start, short, strict=True)]
    gain, ratio = np.mean(gains), np.mean(ratios)
    assert (gain, ratio, gain / ratio) == pytest.approx((0.270202, 0.567327, 0.476272), abs=5e-7)
    # What is printed, 0.47, is neither the mean of the quotients nor that of AIME24 alone.
    quotients = np.divide(gains, ratios)
    assert (quotients.mean(), quotients[0]) == pytest.approx((0.485085, 0.752228), abs=5e-7)


@given(ACCURACIES, TOKENS)
def test_aes_against_itself_is_nought(accuracy, tokens):
    assert aes(accuracy, tokens, accuracy, tokens) == 0


@given(ACCURACIES, TOKENS, ACCURACIES, TOKENS, TOKENS)
def test_aes_does_not_fall_with_fewer_tokens(base, base_tokens, accuracy, some, more):
    fewer, many = sorted((some, more))
    assert aes(base, base_tokens, accuracy, fewer) >= aes(base, base_tokens, accuracy, many)


def test_aes_punishes_a_loss_more_than_it_pays_a_gain():
    gain, loss = aes(0.5, 100, 0.55, 100), aes(0.5, 100, 0.45, 100)
    assert (gain, loss) == (pytest.approx(0.3), pytest.approx(-0.5))


def test_aes_of_a_start_model_that_is_never_right():
    assert aes(0.0, 100, 0.5, 100) is None
    zero, one, tokens = np.zeros((3, 2)), np.ones((3, 2)), np.full((3, 2), 9.0)
    assert aes_estimate(zero, tokens, one, tokens)["mean"] is None
    with pytest.raises(ValueError, match="without tokens"):
        aes(0.5, 0, 0.5, 1)


def test_the_interval_of_aes_is_of_the_same_problems():
    rng = np.random.default_rng(0)
    correct, tokens = (rng.random((60, 4)) < 0.7).astype(float), rng.integers(100, 900, (60, 4)).astype(float)
    result = aes_estimate(correct, tokens, correct, tokens / 2, resamples=200)
    assert result == pytest.approx({"mean": 0.5, "low": 0.5, "high": 0.5})


def test_e3_prefers_the_short_and_bad():
    assert [round(e3(*point), 3) for point in ((80, 4000), (78, 2000), (60, 1000))] == [1.6, 3.042, 3.6]
    assert accuracy_per_kilotoken(0.6, 1000) == pytest.approx(0.6)
    assert gain_per_doubling([1000, 4000], [0.4, 0.6]) == [pytest.approx(0.1)]


def test_cost_of_pass_of_the_worked_example():
    correct = np.array([[1.0] * 8 + [0] * 2, [1] + [0] * 9, [0] * 10])
    costs = np.repeat([[0.02], [0.005], [0.001]], 10, axis=1)
    assert cost_of_pass(correct, costs) == pytest.approx([0.025, 0.05, np.inf])
    assert cost_of_pass(np.tile(correct, 3), np.tile(costs, 3)) == pytest.approx([0.025, 0.05, np.inf])
    assert completion_dollars(np.array([[2e6]]), 0.5).tolist() == [[1.0]]


def test_frontier_cost_of_pass_of_the_worked_example():
    assert frontier_cost_of_pass(COSTS, expert_cost=0.30) == pytest.approx(0.115 / 3)
    assert frontier_cost_of_pass(COSTS) == pytest.approx(0.115 / 3)
    assert essentialness(COSTS, [0], 0.30) == pytest.approx((0.18 - 0.115 / 3) / 0.18)
    assert essentialness(COSTS, [0, 1], 0.30) == pytest.approx((0.30 - 0.115 / 3) / 0.30)
    with pytest.raises(ValueError, match="1 problems are solved by no model"):
        frontier_cost_of_pass(COSTS[:, 1:])


@given(st.lists(st.lists(st.floats(0.001, 10), min_size=3, max_size=3), min_size=1, max_size=6))
def test_the_frontier_is_no_dearer_than_any_member(rows):
    costs = np.array(rows)
    assert frontier_cost_of_pass(costs) <= costs.mean(axis=0).min() + 1e-12


@pytest.mark.parametrize(("batch", "seconds"), [(1, (0.925, 3.75, 15.8)), (64, (0.0204, 0.133, 1.35))])
def test_ideal_seconds_of_the_worked_example(batch, seconds):
    assert QWEN.kv_bytes_per_token == 28_672
    found = [decode_seconds(QWEN, 200, length, batch) for length in (1000, 4000, 16_000)]
    assert found == pytest.approx(seconds, rel=5e-3)


def test_long_completions_cost_more_than_their_share_in_a_batch():
    assert time_saved(QWEN, 200, 16_000, 4000, batch=64) == pytest.approx(0.902, abs=5e-4)
    assert time_saved(QWEN, 200, 16_000, 4000, batch=1) == pytest.approx(0.763, abs=5e-4)
    seconds = [decode_seconds(QWEN, 200, length, 64) for length in (1000, 2000, 4000)]
    assert seconds[1] > 2 * seconds[0]
    assert seconds[2] > 2 * seconds[1]


def test_without_a_cache_time_is_the_reading_of_the_weights():
    bare = ModelShape(1e9, layers=0, attention_width=1, key_value_heads=0, head_size=0)
    assert decode_seconds(bare, 200, 500) == pytest.approx(500 * 2e9 / 3.35e12)
    assert sequence_flops(bare, 200, 500) == pytest.approx(2e9 * 700)
    assert prefill_seconds(bare, 200) == pytest.approx(2e9 * 200 / 989e12)


def test_the_shape_of_a_configuration():
    config = {
        "hidden_size": 1536,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "intermediate_size": 8960,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
        "model_type": "qwen2",
    }
    shape = shape_of(config)
    assert shape.kv_bytes_per_token == 28_672
    assert shape.attention_width == 1536
    assert shape.parameters == pytest.approx(1.54e9, rel=0.01)
