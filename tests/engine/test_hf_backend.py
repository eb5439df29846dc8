import numpy as np
import pytest
import torch
from scipy import stats
from transformers import Qwen2Config, Qwen2ForCausalLM

from reason_rl.errors import RunError
from reason_rl.rollout.backend import SamplingOptions, SamplingRequest
from reason_rl.rollout.hf import HFBackend

GREEDY = SamplingOptions(temperature=0.0)


def sharpened(model, factor=20.0):
    """Make a random model opinionated, so that greedy choices are far from ties."""
    with torch.no_grad():
        model.lm_head.weight.mul_(factor)
    return model


def backend(model, rows=256, eos=(1,)):
    return HFBackend(model, eos, pad_token_id=0, max_batch_rows=rows, context_tokens=256)


def requests(count, max_tokens=24, seed=0):
    rng = np.random.default_rng(seed)
    return [
        SamplingRequest(tuple(rng.integers(10, 100, rng.integers(3, 12)).tolist()), max_tokens, 1000 + i)
        for i in range(count)
    ]


def forward_logps(model, request, sample, temperature=1.0):
    ids = torch.tensor([[*request.prompt_ids, *sample.token_ids]])
    with torch.no_grad():
        logps = (model(ids).logits[0].float() / temperature).log_softmax(dim=-1)
    start = len(request.prompt_ids) - 1
    return torch.stack([logps[start + i, token] for i, token in enumerate(sample.token_ids)])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_greedy_is_generate(make_llama, attention):
    model = sharpened(make_llama())
    model.set_attn_implementation(attention)
    for request in requests(6):
        sample = backend(model).generate([request], GREEDY)[0]
        reference = model.generate(
            torch.tensor([request.prompt_ids]), do_sample=False, max_new_tokens=24, eos_token_id=1, pad_token_id=0
        )
        assert list(sample.token_ids) == reference[0, len(request.prompt_ids) :].tolist()


def test_log_probabilities_are_those_of_a_fresh_forward_pass(make_llama):
    model = make_llama()
    asked = requests(20)
    for temperature in (1.0, 0.7):
        samples = backend(model).generate(asked, SamplingOptions(temperature=temperature))
        for request, sample in zip(asked, samples, strict=True):
            expected = forward_logps(model, request, sample, temperature)
            torch.testing.assert_close(torch.tensor(sample.logps), expected, atol=1e-4, rtol=0)


def test_a_row_does_not_depend_on_its_neighbours(make_llama):
    model = make_llama()
    asked = requests(17, max_tokens=40)
    together = backend(model).generate(asked, SamplingOptions())
    in_parts = backend(model, rows=5).generate(asked, SamplingOptions())
    alone = [backend(model).generate([request], SamplingOptions())[0] for request in asked]
    assert [s.token_ids for s in together] == [s.token_ids for s in in_parts] == [s.token_ids for s in alone]
    other = backend(model).generate([SamplingRequest(r.prompt_ids, 40, r.seed + 1) for r in asked], SamplingOptions())
    assert [s.token_ids for s in together] != [s.token_ids for s in other]


def test_freed_places_are_filled(make_llama):
    model = make_llama()
    # Ends at random places: some rows finish early, one of each batch late.
    asked, ends = requests(60, max_tokens=60), tuple(range(20, 26))
    widths = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    samples = backend(model, rows=10, eos=ends).generate(asked, SamplingOptions())
    hook.remove()
    together = backend(model, eos=ends).generate(asked, SamplingOptions())
    assert [s.token_ids for s in samples] == [s.token_ids for s in together]
    steps = [rows for rows, tokens in widths if tokens == 1]
    assert max(steps) == 10
    one_after_another = sum(max(len(s.token_ids) for s in samples[i : i + 10]) - 1 for i in range(0, 60, 10))
    assert len(steps) < 0.75 * one_after_another


def test_budgets_finish_reasons_and_retired_rows(make_llama):
    model = make_llama()
    asked = [SamplingRequest(r.prompt_ids, 1 + 7 * (i % 12), r.seed) for i, r in enumerate(requests(48))]
    ends = (1, 20, 21, 22, 23, 24, 25)
    samples = backend(model, eos=ends).generate(asked, SamplingOptions())
    reasons = set()
    for request, sample in zip(asked, samples, strict=True):
        assert 1 <= len(sample.token_ids) <= request.max_tokens
        assert len(sample.logps) == len(sample.token_ids)
        assert not set(sample.token_ids[:-1]) & set(ends)
        if sample.finish_reason == "stop":
            assert sample.token_ids[-1] in ends
        else:
            assert len(sample.token_ids) == request.max_tokens
            assert sample.token_ids[-1] not in ends
        torch.testing.assert_close(torch.tensor(sample.logps), forward_logps(model, request, sample), atol=1e-4, rtol=0)
        reasons.add(sample.finish_reason)
    assert reasons == {"stop", "length"}


def test_an_end_token_at_the_last_allowed_place_is_a_stop(make_llama):
    model = make_llama()
    request = requests(1)[0]
    first = backend(model).generate([request], SamplingOptions())[0].token_ids[0]
    sample = backend(model, eos=(first,)).generate(
        [SamplingRequest(request.prompt_ids, 1, request.seed)], SamplingOptions()
    )[0]
    assert sample.finish_reason == "stop"


def test_the_sampled_distribution_is_the_softmax(make_llama):
    model = sharpened(make_llama(), 30.0)
    prompt = requests(1)[0].prompt_ids
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits[0, -1].softmax(dim=-1).double().numpy()
    drawn = backend(model).generate([SamplingRequest(prompt, 1, seed) for seed in range(6000)], SamplingOptions())
    counts = np.bincount([s.token_ids[0] for s in drawn], minlength=len(expected))
    common = expected > 1e-3
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum()) * counts.sum() / expected.sum()
    assert common.sum() > 3
    assert stats.chisquare(observed, wanted).pvalue > 1e-4


def test_dropout_is_off_while_sampling_and_the_mode_comes_back(make_llama):
    model = make_llama(attention_dropout=0.5)
    asked = requests(4)
    quiet = backend(model).generate(asked, SamplingOptions())
    model.train()
    assert backend(model).generate(asked, SamplingOptions()) == quiet
    assert model.training
    out = model(torch.tensor([[5, 6]]))
    assert out.logits.requires_grad


def test_top_k_and_top_p_stay_inside_and_renormalise(make_llama):
    model = sharpened(make_llama(), 5.0)
    prompt = requests(1)[0].prompt_ids
    with torch.no_grad():
        probabilities = model(torch.tensor([prompt])).logits[0, -1].softmax(dim=-1)
    order = probabilities.argsort(descending=True)
    many = [SamplingRequest(prompt, 1, seed) for seed in range(300)]
    for options, kept in (
        (SamplingOptions(top_k=5), order[:5]),
        (SamplingOptions(top_p=0.5), order[: int((probabilities[order].cumsum(0) < 0.5).sum()) + 1]),
    ):
        for sample in backend(model).generate(many, options):
            token = sample.token_ids[0]
            assert token in kept.tolist()
            expected = (probabilities[token] / probabilities[kept].sum()).log()
            assert sample.logps[0] == pytest.approx(float(expected), abs=1e-4)


def test_a_prompt_that_does_not_fit_is_refused(make_llama):
    with pytest.raises(RunError, match=r"250 needs 25[0-9] tokens of context, the model has 256"):
        backend(make_llama()).generate([SamplingRequest(tuple(range(10, 17)), 250, 0)], GREEDY)


def test_rows_are_told_as_they_end(make_llama):
    model, asked, ends = make_llama(), requests(30, max_tokens=40), tuple(range(20, 30))
    told, steps = [], []
    hook = model.register_forward_pre_hook(lambda *_: steps.append(None))
    samples = backend(model, rows=8, eos=ends).generate(
        asked, SamplingOptions(), on_ended=lambda rows: told.append((len(steps), rows))
    )
    hook.remove()
    assert sorted(row for _, rows in told for row in rows) == list(enumerate(samples))
    assert told[0][0] < len(steps) / 4
    assert len(told) > 10


def test_not_only_llama():
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=110,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    model = Qwen2ForCausalLM(config).eval()
    asked = requests(8)
    for request, sample in zip(asked, backend(model).generate(asked, SamplingOptions()), strict=True):
        torch.testing.assert_close(torch.tensor(sample.logps), forward_logps(model, request, sample), atol=1e-4, rtol=0)


def test_a_copy_goes_where_the_trainers_weights_went(make_llama):
    """FSDP moves them when training begins, after the copy was made; "meta" stands for the accelerator here."""
    model = make_llama()
    sampler = backend(model)
    sampler.follow(model, still=True)
    model.to("meta")
    sampler.sync_weights(0)
    assert {tensor.device.type for tensor in (*sampler.model.parameters(), *sampler.model.buffers())} == {"meta"}


def test_progress_counts_every_row_once(make_llama):
    seen = []
    backend(make_llama(), rows=3).generate(
        requests(8, 5), SamplingOptions(), lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (8, 8)
    assert seen == sorted(seen)


def test_a_step_repeats_no_keys(make_llama, monkeypatch):
    from transformers.integrations import sdpa_attention

    model = make_llama()
    repeated = []
    stock = sdpa_attention.repeat_kv

    def repeat(states, times):
        repeated.append(states.shape)
        return stock(states, times)

    monkeypatch.setattr(sdpa_attention, "repeat_kv", repeat)
    asked = requests(5)
    backend(model).generate(asked, GREEDY)
    assert len(repeated) == 2 * model.config.num_hidden_layers  # the prompts, once
    assert model.config._attn_implementation == "sdpa"


def test_a_failed_run_gives_the_model_its_attention_back(make_llama):
    model = make_llama()

    def fail(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend(model).generate(requests(2), GREEDY, fail)
    assert model.config._attn_implementation == "sdpa"
