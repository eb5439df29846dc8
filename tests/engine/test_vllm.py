"""A real vLLM engine in this process: weights in step with the trainer, budgets, seeds, log-probabilities, failures."""

import importlib.util
import math
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from reason_rl.bench.jobs import read_results
from reason_rl.errors import RecipeError, RunError
from reason_rl.evaluate.suites import EvalChanges, evaluate_suites
from reason_rl.models import eos_ids, load_model, load_tokenizer, resolve_model
from reason_rl.problem.prompt import render_prompts
from reason_rl.problem.sources import load_problems
from reason_rl.recipe.load import load_recipe
from reason_rl.recipe.schema import ModelSection, PromptSection, WorldData
from reason_rl.rollout.backend import SamplingOptions, SamplingRequest
from reason_rl.rollout.hf import HFBackend
from reason_rl.rollout.vllm_local import (
    EngineOptions,
    VLLMBackend,
    check_version,
    engine_rank,
    run_engine,
    start_engine,
)
from reason_rl.run_folder import RunFolder
from reason_rl.stopping.generate import StoppingBackend
from reason_rl.stopping.rule import StopPolicy
from reason_rl.stopping.temperature import StopOptions, TemperatureStop
from reason_rl.stopping.thinking import think_tokens
from reason_rl.stopping.vllm_strength import PROCESSORS, EngineStop
from reason_rl.trainer.train import train

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (make vllm)")
SPEC = ModelSection()
PREFILL_TOKENS = 512
GREEDY, SAMPLED = SamplingOptions(temperature=0.0), SamplingOptions(temperature=0.8)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(SPEC)


@pytest.fixture(scope="module")
def asked(tokenizer):
    problems = load_problems(WorldData(use="world", split="test", count=18, seed=1))
    prompts = render_prompts(problems, tokenizer, PromptSection())
    return [SamplingRequest(tuple(prompt), 8 + 2 * i, 100 + i) for i, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def engine():
    options = EngineOptions(
        512, max_batch_rows=32, processors=(PROCESSORS,), extra={"max_num_batched_tokens": PREFILL_TOKENS}
    )
    return start_engine(resolve_model("tiny-reasoner"), options)


@pytest.fixture(scope="module")
def adapter_engine():
    return start_engine(resolve_model("tiny-reasoner"), EngineOptions(512, max_batch_rows=32, lora_rank=4))


@pytest.fixture
def full(engine, tokenizer):
    model = load_model(SPEC)
    return VLLMBackend(engine, model, eos_ids(model, tokenizer))


@pytest.fixture
def adapted(adapter_engine, tokenizer):
    base = load_model(SPEC)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    return VLLMBackend(adapter_engine, get_peft_model(base, config), eos_ids(base, tokenizer))


def distance(backend, asked, options=SAMPLED):
    """Return the largest gap between the engine's log-probabilities and the trainer model's own."""
    worst = 0.0
    for request, sample in zip(asked, backend.generate(asked, options), strict=True):
        ids = torch.tensor([[*request.prompt_ids, *sample.token_ids]])
        with torch.no_grad():
            logps = (backend.model(ids).logits[0].float() / options.temperature).log_softmax(dim=-1)
        start = len(request.prompt_ids)
        ours = logps[start - 1 : -1].gather(1, ids[0, start:, None]).squeeze(1)
        worst = max(worst, float((ours - torch.tensor(sample.logps)).abs().max()))
    return worst


def disturb(model, mark, size):
    """Change the weights as an optimizer step would, by a share of their spread."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if mark in name:
                parameter.add_(torch.randn_like(parameter) * size * (parameter.std() + 0.1 * (mark == "lora_")))


@needs_vllm
@pytest.mark.parametrize(("kind", "mark"), [("full", ""), ("adapted", "lora_")])
def test_weights_follow_the_trainer(kind, mark, asked, request):
    backend = request.getfixturevalue(kind)
    for version in range(3):
        if version:
            disturb(backend.model, mark, 0.05)
            assert distance(backend, asked) > 1e-3
        before = [p.detach().clone() for p in backend.model.parameters()]
        backend.sync_weights(version)
        assert distance(backend, asked) < 1e-4
        assert all(torch.equal(a, b) for a, b in zip(before, backend.model.parameters(), strict=True))


@needs_vllm
def test_rows_keep_their_budget_seed_and_finish_reason(full, asked, tokenizer):
    full.sync_weights(0)
    samples = full.generate(asked, SAMPLED)
    assert samples == full.generate(asked, SAMPLED)
    assert samples != full.generate([SamplingRequest(r.prompt_ids, r.max_tokens, r.seed + 1) for r in asked], SAMPLED)
    for request, sample in zip(asked, samples, strict=True):
        assert 1 <= len(sample.token_ids) <= request.max_tokens
        assert len(sample.logps) == len(sample.token_ids)
        ended = sample.token_ids[-1] == tokenizer.eos_token_id
        assert sample.finish_reason == ("stop" if ended else "length")
        assert ended or len(sample.token_ids) == request.max_tokens


@needs_vllm
def test_more_prompts_than_are_read_at_once_are_sampled_alike(full, asked):
    full.sync_weights(0)
    longest = max((request.prompt_ids for request in asked), key=len)
    many = [SamplingRequest(longest, 6, 1000 + i) for i in range(32)]
    assert len(many) * len(longest) > 2 * PREFILL_TOKENS
    assert [s.token_ids for s in full.generate(many, SAMPLED)] == [
        sample.token_ids for request in many for sample in full.generate([request], SAMPLED)
    ]


@needs_vllm
def test_rows_are_told_as_they_end_and_an_interruption_leaves_nothing_behind(full, asked):
    full.sync_weights(0)
    told, shown = [], []
    samples = full.generate(asked, SAMPLED, lambda done, total: shown.append((done, total)), told.append)
    assert sorted(row for rows in told for row in rows) == list(enumerate(samples))
    assert len(told) > 1
    assert shown[-1] == (len(asked), len(asked))

    def interrupt(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        full.generate(asked, SAMPLED, None, interrupt)
    assert not full.engine.llm_engine.has_unfinished_requests()
    assert full.generate(asked, SAMPLED) == samples


@needs_vllm
def test_greedy_rollouts_are_those_of_the_hf_engine(full, asked, tokenizer):
    full.sync_weights(0)
    hf = HFBackend(full.model, full.eos_token_ids, tokenizer.pad_token_id)
    ours, theirs = full.generate(asked, GREEDY), hf.generate(asked, GREEDY)
    assert [s.token_ids for s in ours] == [s.token_ids for s in theirs]
    assert [s.finish_reason for s in ours] == [s.finish_reason for s in theirs]


def edited_by_hand(logits, ids, tokens, strength, options):
    """Return the log-probability of each token under the edited distribution, with loops and nothing shared."""
    expected, written, thinking = [], 0, True
    for row, token in zip(logits.double(), ids, strict=True):
        z = row.clone()
        for banned in tokens.eos if thinking and options.mask_eos else ():
            z[banned] = -math.inf
        if thinking and options.mask_restart:
            z[tokens.start] = -math.inf
        if thinking and (options.topk_gate is None or int((z > z[tokens.end]).sum()) < options.topk_gate):
            logp = float(z.log_softmax(-1)[tokens.end])
            z[tokens.end] = (
                z.logsumexp(-1) + logp / strength if options.mode == "logprob" else z[tokens.end] + math.log(strength)
            )
        if thinking and written == options.max_think_tokens:
            z = torch.full_like(z, -math.inf)
            z[tokens.end] = 0.0
        expected.append(float(z.log_softmax(-1)[token]))
        written, thinking = written + thinking, thinking and token != tokens.end
    return expected


STRENGTHS = (1.0, 0.5, 2.0, 4.0, 8.0, 3.0)


@needs_vllm
@pytest.mark.parametrize(
    "options",
    [
        StopOptions(topk_gate=None, mask_eos=False, mask_restart=False),
        StopOptions("bias", 3, mask_eos=False, mask_restart=False),
        StopOptions(topk_gate=2, max_think_tokens=20, mask_eos=False, mask_restart=False),
        StopOptions(),
    ],
)
def test_scaled_stopping_is_exact_request_by_request(full, asked, tokenizer, options):
    tokens = think_tokens(full.model, tokenizer)
    strengths = tuple(STRENGTHS[i % 6] for i in range(len(asked)))
    full.stop = EngineStop(TemperatureStop(strengths, tokens, options))
    full.sync_weights(0)
    long = [SamplingRequest(r.prompt_ids, 40, r.seed) for r in asked]
    samples = full.generate(long, SamplingOptions())
    forced = 0
    for request, sample, strength in zip(long, samples, strengths, strict=True):
        with torch.no_grad():
            logits = full.model(torch.tensor([[*request.prompt_ids, *sample.token_ids]])).logits[0]
        logits = logits[len(request.prompt_ids) - 1 : -1]
        expected = edited_by_hand(logits, sample.token_ids, tokens, strength, options)
        assert sample.logps == pytest.approx(expected, abs=1e-4)
        # Only an end of thinking at the cap was not sampled.
        end = sample.token_ids.index(tokens.end) if tokens.end in sample.token_ids else None
        late = {end} if end == options.max_think_tokens else set()
        assert sample.sampled == tuple(place not in late for place in range(len(sample.token_ids)))
        forced += len(late - {None})
    assert (forced > 3) == (options.max_think_tokens is not None)


@needs_vllm
def test_greedy_scaled_stopping_is_that_of_the_hf_engine(full, asked, tokenizer):
    full.sync_weights(0)
    tokens = think_tokens(full.model, tokenizer)
    long = [SamplingRequest(r.prompt_ids, 100, r.seed) for r in asked]
    plain = full.generate(long, GREEDY)
    edit = TemperatureStop(tuple(STRENGTHS[i % 6] for i in range(len(asked))), tokens, StopOptions(topk_gate=None))
    full.stop = EngineStop(edit)
    ours = full.generate(long, GREEDY)
    hf = StoppingBackend(full.model, tokens, tokenizer.pad_token_id, StopPolicy(edit))
    assert [s.token_ids for s in ours] == [s.token_ids for s in hf.generate(long, GREEDY)]
    assert [s.token_ids for s in ours] != [s.token_ids for s in plain]
    full.stop = None
    assert full.generate(long, GREEDY) == plain


@needs_vllm
def test_stop_arguments_that_cannot_be_are_refused_by_the_engine(full, asked):
    from vllm.exceptions import VLLMValidationError

    full.sync_weights(0)
    full.stop = type("Wrong", (), {"arguments": lambda self, row: {"stop_strength": -1, "stop_end": 6}})()
    with pytest.raises(VLLMValidationError, match=r"strength -1\.0 is not above 0"):
        full.generate(asked, GREEDY)


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("lora", [(), ("lora={r: 4, target_modules: all-linear}",)])
def test_training_with_rollouts_from_vllm_is_on_policy(tmp_path, lora):
    changes = [
        "trainer.max_steps=4",
        "trainer.save_steps=4",
        "trainer.steps_per_generation=2",
        "trainer.per_device_train_batch_size=16",
        "trainer.warmup_steps=1",
        "algorithm.filter={keep: all, refill: false}",
    ]
    loaded = load_recipe("tiny/dler_vllm", [*changes, *lora, f"output={tmp_path}", "rollout.max_batch_rows=32"])
    run = RunFolder(tmp_path)
    run.prepare(loaded.resolved(), resume=False)
    train(loaded.recipe, run)
    rows = read_results(run.metrics)
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        assert row["importance_ratio_mean"] == pytest.approx(1.0, abs=1e-3)
        assert row["completion_tokens"] <= row["budget_tokens"]
        assert row["grad_norm"] > 0


def test_references_are_measured_with_the_engine_of_training(tmp_path, monkeypatch):
    started, given = [], []

    def measure(recipe, run, engine):
        given.append(engine)
        raise RunError("far enough")

    monkeypatch.setattr("reason_rl.rollout.engines.start_engine", lambda *_: started.append(object()) or started[-1])
    monkeypatch.setattr("reason_rl.trainer.train.starting_references", measure)
    loaded = load_recipe("tiny/dler_vllm", ["data.count=64", f"output={tmp_path}"])
    with pytest.raises(RunError, match="far enough"):
        train(loaded.recipe, RunFolder(tmp_path))
    assert len(started) == 1
    assert given == started


@needs_vllm
def test_an_adapter_is_evaluated_on_a_suite(tmp_path):
    base = load_model(SPEC)
    adapter = tmp_path / "adapter"
    config = LoraConfig(r=3, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(adapter)
    found = {}
    for engine in ("vllm", "hf"):
        changes = EvalChanges(samples=1, max_tokens=8, limit=2, engine=engine)
        out = tmp_path / f"{engine}.jsonl"
        found[engine] = evaluate_suites(["tiny"], "tiny-reasoner", adapter, changes, out)["tiny"]
    assert found["vllm"]["completion_tokens"] == found["hf"]["completion_tokens"] == 8


@needs_vllm
def test_an_argument_that_vllm_does_not_know_is_refused():
    with pytest.raises(RecipeError, match=r"rollout\.vllm\.max_model_length: .* did you mean max_model_len\?"):
        start_engine("nowhere", EngineOptions(64, extra={"max_model_length": 64}))


@needs_vllm
def test_an_engine_that_does_not_start_says_why():
    with pytest.raises(RecipeError, match=r"rollout\.vllm: vLLM does not start: .+"):
        start_engine(resolve_model("tiny-reasoner"), EngineOptions(1_000_000))


def test_an_engine_that_returns_fewer_rows_ends_the_round():
    class Engine:
        def __init__(self):
            self.llm_engine, self.steps, self.aborted = self, 0, []

        def enqueue(self, *_, **__):
            return ["0-x", "1-y"]

        def has_unfinished_requests(self):
            return self.steps == 0

        def step(self):
            self.steps += 1
            return [SimpleNamespace(finished=True, request_id="0", outputs=["row"])]

        def abort_request(self, ids, **_):
            self.aborted += ids

    engine = Engine()
    with pytest.raises(RunError, match="vLLM returned 1 of 2 rows"):
        run_engine(engine, [(5,), (6,)], [None, None], None, lambda row, output: output)
    assert engine.aborted == ["0-x", "1-y"]


class BrokenEngine:
    """Refuses every weight it is given."""

    def collective_rpc(self, name, kwargs):
        next(kwargs["weights_iterator"])
        raise RuntimeError("out of memory")


def test_a_failed_sync_says_so_and_leaves_model_and_version_alone(make_llama):
    model = make_llama()
    before = [p.detach().clone() for p in model.parameters()]
    backend = VLLMBackend(BrokenEngine(), model, [1])
    with pytest.raises(RunError, match=r"policy version 3 \(out of memory\)"):
        backend.sync_weights(3)
    assert backend.version == -1
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with pytest.raises(RunError, match="before it was given the trainer's weights"):
        backend.generate([], SAMPLED)


class SleepingEngine:
    """Notes what it is asked, and refuses work while it is asleep."""

    def __init__(self, reply):
        self.asked, self.asleep, self.reply = [], True, reply
        self.llm_engine = self
        self.model_config = type("Config", (), {"max_model_len": 64})

    def is_sleeping(self):
        return self.asleep

    def sleep(self, level):
        self.asked.append(f"sleep {level}")
        self.asleep = True

    def wake_up(self):
        self.asked.append("wake")
        self.asleep = False

    def collective_rpc(self, name, kwargs):
        assert not self.asleep
        self.asked.append(name)

    def apply_model(self, function):
        self.asked.append("head")

    def reset_prefix_cache(self):
        self.asked.append("cache")

    def enqueue(self, prompts, parameters, **_):
        assert not self.asleep
        self.asked.append("generate")
        return [f"{40 + row}-tail" for row in range(len(prompts))]

    def has_unfinished_requests(self):
        return True

    def step(self):
        return [self.reply]


class AdapterEngine:
    """Holds adapters as vLLM does: an id that it knows is not loaded again."""

    def __init__(self):
        self.llm_engine, self.held = self, {}

    def add_lora(self, request):
        if request.lora_int_id not in self.held:
            self.held[request.lora_int_id] = load_file(Path(request.lora_path) / "adapter_model.safetensors")

    def remove_lora(self, number):
        self.held.pop(number, None)

    def used(self, backend):
        return next(iter(self.held[backend.adapter.lora_int_id].values()))


def test_backends_that_share_an_engine_share_no_adapter(make_llama, monkeypatch):
    request = namedtuple("LoRARequest", ("lora_name", "lora_int_id", "lora_path"))
    monkeypatch.setitem(sys.modules, "vllm.lora.request", SimpleNamespace(LoRARequest=request))
    engine, config = AdapterEngine(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    trained, loaded = (VLLMBackend(engine, get_peft_model(make_llama(seed), config), [1]) for seed in (0, 1))
    names = []
    for version, backend in ((0, trained), (1, trained), (0, loaded), (1, loaded), (2, trained)):
        disturb(backend.model, "lora_A", 1.0 + version)
        backend.sync_weights(version)
        own = next(value for name, value in backend.model.named_parameters() if "lora_A" in name)
        assert torch.equal(engine.used(backend), own)
        names.append(backend.adapter.lora_name)
    assert len(set(names)) == 5
    assert len(engine.held) == 2


def test_an_engine_that_sleeps_is_woken_for_weights_and_rollouts(make_llama, monkeypatch):
    chosen = type("Logprob", (), {"logprob": -0.5})
    output = type("Output", (), {"finish_reason": "stop", "token_ids": [5], "logprobs": [{5: chosen}]})
    engine = SleepingEngine(type("Request", (), {"outputs": [output], "request_id": "40", "finished": True}))
    monkeypatch.setitem(sys.modules, "vllm", type("vllm", (), {"SamplingParams": dict}))
    backend = VLLMBackend(engine, make_llama(), [1], sleeps=True)
    backend.sync_weights(0)
    for _ in range(2):
        assert backend.generate([SamplingRequest((5, 6), 4, 0)], SAMPLED)[0].logps == (-0.5,)
    sync = ["wake", "reload_weights", "head", "cache"]
    assert engine.asked == [*sync, "generate", "sleep 1", "wake", "generate", "sleep 1"]
    with pytest.raises(RunError, match="62 tokens with a budget of 4 needs 66 tokens of context, the model has 64"):
        backend.generate([SamplingRequest((5,) * 62, 4, 0)], SAMPLED)


def test_a_missing_engine_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'reason_rl\[vllm\]'"):
        start_engine("anywhere", EngineOptions(512))


@pytest.mark.parametrize("version", ["0.24.0", "0.32.0"])
def test_versions_outside_the_window_are_refused(version):
    with pytest.raises(RecipeError, match=f"vLLM {version} is installed, versions <=0.31.0,>=0.25 work"):
        check_version(version)


def test_adapter_ranks_are_rounded_up():
    assert [engine_rank(rank) for rank in (1, 8, 9, 300, 512)] == [8, 8, 16, 320, 512]
    with pytest.raises(RecipeError, match="up to rank 512, not 513"):
        engine_rank(513)
