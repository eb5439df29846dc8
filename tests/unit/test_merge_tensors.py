"""The arithmetic of merging: numbers worked out by hand, limits, and what must not matter."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.errors import RecipeError
from reason_rl.merge.spec import DEFAULTS, MergeSpec, complaint_about
from reason_rl.merge.tensors import drop, elect, generator_of, linear, merge_tensor, trim, working_dtype

LONG = torch.tensor([1.0, -0.4, 0.05, 0.8, -0.02, 0.3])
SHORT = torch.tensor([-0.6, -0.5, 0.4, 0.1, 0.01, -0.9])
ZERO = torch.zeros(6)
SELECTED_FROM = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, -1.0, 2.0, 0.25])
SELECTED_TO = torch.tensor([1.2, -2.1, 0.5, -0.4, 3.05, -1.0, 2.3, 0.2])


def merged(method, base, models, **fields):
    spec = MergeSpec(method, tuple(f"m{k}" for k in range(len(models))), base="base", **fields).checked()
    return merge_tensor(spec, "layer.weight", base, models)


def random(seed, shape=(7, 5), dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(found, wanted):
    torch.testing.assert_close(found.float(), torch.as_tensor(wanted), atol=1e-6, rtol=0)


def test_task_arithmetic_by_hand():
    close(merged("task_arithmetic", ZERO, [LONG], scale=0.7), [0.7, -0.28, 0.035, 0.56, -0.014, 0.21])


def test_interpolation_by_hand():
    close(linear(torch.stack([LONG, SHORT]), (0.8, 0.2)), [0.68, -0.42, 0.12, 0.66, -0.014, 0.06])


def test_ties_by_hand():
    close(trim(LONG, 0.5), [1.0, -0.4, 0.0, 0.8, 0.0, 0.0])
    close(trim(SHORT, 0.5), [-0.6, -0.5, 0.0, 0.0, 0.0, -0.9])
    close(merged("ties", ZERO, [LONG, SHORT], density=0.5), [1.0, -0.45, 0.0, 0.8, 0.0, -0.9])


def test_selective_by_hand():
    close(merged("selective", ZERO, [LONG]), [0.7, 0.0, 0.0, 0.56, 0.0, 0.0])
    close(merged("selective", SELECTED_FROM, [SELECTED_TO]), [1.0, -2.0, 0.5, -0.28, 3.0, -1.0, 2.21, 0.25])


def test_ties_weighs_only_those_that_agree():
    models = torch.tensor([[1.0, 1.0], [3.0, -2.0]])
    close(elect(models, (3.0, 1.0)), [(3 * 1.0 + 3.0) / 4, 1.0])
    # The sign is that of the weighted sum: 1 - 2 is negative, 3 - 2 is not.
    close(elect(models, (1.0, 1.0)), [2.0, -2.0])


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_linear", "dare_ties", "selective"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scale_zero_is_the_base_and_keeping_all_of_one_model_is_that_model(method, dtype):
    base, model = random(0, dtype=dtype), random(1, dtype=dtype)
    keep_all = {} if method == "task_arithmetic" else {"density": 1.0}
    for scale, wanted in ((0.0, base), (1.0, model)):
        found = merged(method, base, [model], scale=scale, **keep_all)
        assert found.dtype == working_dtype(dtype)
        assert torch.equal(found.to(dtype), wanted)


def test_interpolation_at_its_ends_is_a_parent_and_moves_in_proportion():
    long, short = random(0), random(1)
    mix = {a: linear(torch.stack([long, short]).double(), (a, 1 - a)) for a in (0.0, 0.3, 0.7, 0.9, 1.0)}
    assert torch.equal(mix[0.0].float(), short)
    assert torch.equal(mix[1.0].float(), long)
    torch.testing.assert_close((mix[0.9] - mix[0.3]) / 0.6, (mix[0.7] - mix[0.3]) / 0.4)
    same = linear(torch.stack([long, long]).double(), (0.8, 0.2))
    assert torch.equal(same.float(), long)


@pytest.mark.parametrize("method", ["ties", "selective"])
def test_with_one_model_ties_and_selective_are_trimmed_task_arithmetic(method):
    base, model = random(0), random(1)
    found = merged(method, base, [model], density=0.3, scale=0.6)
    torch.testing.assert_close(found, base.double() + 0.6 * trim(model.double() - base.double(), 0.3))


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "selective"])
def test_the_order_of_models_does_not_matter(method):
    models, weights = [random(k) for k in range(4)], (1.0, 0.5, 2.0, 1.0)

    def run(order):
        base = None if method == "linear" else "base"
        spec = MergeSpec(method, tuple(f"m{k}" for k in order), tuple(weights[k] for k in order), base=base).checked()
        return merge_tensor(spec, "w", None if base is None else random(9), [models[k] for k in order])

    torch.testing.assert_close(run([0, 1, 2, 3]), run([2, 0, 3, 1]))


@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(0.05, 1.0))
def test_ties_against_a_loop_over_entries(seed, count, density):
    rows = [trim(random(seed + k, (12,)).double(), density) for k in range(count)]
    found = elect(torch.stack(rows), (1.0,) * count)
    for i, value in enumerate(found.tolist()):
        entries = [row[i].item() for row in rows]
        sign = 1 if sum(entries) >= 0 else -1
        agreeing = [entry for entry in entries if entry * sign > 0]
        assert value == pytest.approx(sum(agreeing) / max(1, len(agreeing)), abs=1e-12)
        assert value * sign >= 0


@given(st.integers(1, 400), st.floats(0.001, 1.0))
def test_the_trim_keeps_exactly_the_rounded_count_of_the_largest(size, density):
    values = random(size, (size,))
    kept = trim(values, density)
    count = round(density * size)
    assert int((kept != 0).sum()) == count
    assert torch.equal(kept[kept != 0], values[kept != 0])
    if 0 < count < size:
        assert kept[kept != 0].abs().min() >= values[kept == 0].abs().max()


def test_the_trim_where_a_rounded_down_count_differs():
    assert int(0.29 * 100) == 28
    assert int((trim(random(0, (100,)), 0.29) != 0).sum()) == 29


def test_dare_is_unbiased_with_the_variance_it_should_have():
    drawn = torch.stack([drop(torch.tensor([1.0, -2.0]), 0.1, generator_of(seed, 0, "w")) for seed in range(4000)])
    variance = torch.tensor([9.0, 36.0])
    assert ((drawn.mean(0) - torch.tensor([1.0, -2.0])).abs() < 4 * (variance / 4000).sqrt()).all()
    torch.testing.assert_close(drawn.var(0), variance, rtol=0.15, atol=0)


def test_dare_depends_on_seed_tensor_and_model_alone():
    base, model = random(0, (30, 30)), random(1, (30, 30))

    def run(name, seed):
        spec = MergeSpec("dare_linear", ("m",), base="b", density=0.5, seed=seed).checked()
        return merge_tensor(spec, name, base, [model])

    torch.manual_seed(0)
    first = run("a", 0)
    torch.manual_seed(1)
    assert torch.equal(first, run("a", 0))
    assert not torch.equal(first, run("b", 0))
    assert not torch.equal(first, run("a", 1))
    masks = [drop(torch.ones(900), 0.5, generator_of(0, k, "a")) for k in range(2)]
    assert not torch.equal(*masks)


def test_a_tensor_too_small_to_keep_an_entry_keeps_the_base():
    base, model = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0])
    assert torch.equal(merged("ties", base, [model], density=0.2).float(), base)


def test_differences_of_nearby_16_bit_weights_survive():
    base = torch.tensor([1.0], dtype=torch.bfloat16)
    model = torch.tensor([1.0078125], dtype=torch.bfloat16)
    assert merged("task_arithmetic", base, [model], scale=0.5).item() == 1.00390625


def test_defaults_are_the_published_ones():
    assert {name: (d.density, d.scale) for name, d in DEFAULTS.items()} == {
        "linear": (None, None),
        "task_arithmetic": (None, 0.7),
        "ties": (0.2, 1.0),
        "dare_linear": (0.7, 0.7),
        "dare_ties": (0.7, 1.0),
        "selective": (0.25, 0.7),
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "linear", "base": "b"}, "linear takes no base"),
        ({"method": "ties"}, "ties needs a base"),
        ({"method": "linear", "models": ("a",)}, "needs two models"),
        ({"method": "ties", "models": (), "base": "b"}, "needs a model"),
        ({"method": "ties", "base": "a"}, "base a is also a model"),
        ({"weights": (1.0,)}, "1 weights for 2 models"),
        ({"weights": (1.0, math.nan)}, "not all finite"),
        ({"weights": (2.0, -1.0)}, "no weight may be below 0; task_arithmetic"),
        ({"weights": (0.0, 0.0)}, "all weights are 0"),
        ({"density": 0.5}, "takes no density"),
        ({"scale": 0.5}, "scale 0.5 is not for method linear"),
        ({"method": "ties", "base": "c", "density": 0.0}, "density 0 is not above 0"),
        ({"method": "ties", "base": "c", "density": 1.5}, "density 1.5 is not above 0"),
        ({"method": "ties", "base": "c", "scale": math.inf}, "scale is not finite"),
        ({"tokenizer": "c"}, "tokenizer c is none of the models: a, b"),
        ({"exclude": "("}, "no regular expression"),
    ],
)
def test_what_makes_no_sense_is_one_line(fields, message):
    spec = MergeSpec(**{"method": "linear", "models": ("a", "b"), **fields})
    assert message in complaint_about(spec)
    with pytest.raises(RecipeError, match=r"^merge: "):
        spec.checked()
