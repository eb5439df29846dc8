"""A real ``vllm serve`` on CPU: weights in step with the trainer, and a stop strength for each request."""

import importlib.util
import os
import socket
import subprocess
import sys
import time

import httpx
import pytest
import torch
from peft import LoraConfig, get_peft_model

from reason_rl.models import eos_ids, load_model, load_tokenizer
from reason_rl.problem.prompt import render_prompts
from reason_rl.problem.sources import load_problems
from reason_rl.recipe.schema import ModelSection, PromptSection, WorldData
from reason_rl.rollout.backend import SamplingOptions, SamplingRequest
from reason_rl.rollout.server_client import ServerClient, ServerOptions
from reason_rl.rollout.vllm_server import VLLMServerBackend
from reason_rl.stopping.temperature import StopOptions, TemperatureStop
from reason_rl.stopping.thinking import think_tokens
from reason_rl.stopping.vllm_strength import PROCESSORS, EngineStop

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (make vllm)")
START_SECONDS = 300
STRENGTHS = (1.0, 2.0, 4.0, 8.0)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(ModelSection())


@pytest.fixture(scope="module")
def policy(tokenizer, tmp_path_factory):
    """Return a folder with the tiny reasoner, its output head a tensor of its own: a server on CPU takes no tied one."""
    model = load_model(ModelSection())
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    folder = tmp_path_factory.mktemp("policy")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelSection(path=str(folder))


@pytest.fixture(scope="module")
def server(policy, tmp_path_factory):
    """Start the server as docs/engines.md says, and return how to reach it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not through the command vllm: it asks for the version of a distribution "vllm", and the CPU build has another name.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", policy.path]
    flags = [
        "--served-model-name",
        "policy",
        "--logprobs-mode",
        "processed_logprobs",
        "--generation-config",
        "vllm",
        "--no-enable-prefix-caching",
    ]
    flags += ["--logits-processors", PROCESSORS[0], "--enable-lora", "--max-loras", "1", "--max-lora-rank", "8"]
    flags += [
        "--dtype",
        "float32",
        "--max-model-len",
        "512",
        "--max-num-seqs",
        "16",
        "--enforce-eager",
        "--no-enable-chunked-prefill",
    ]
    flags += ["--host", "127.0.0.1", "--port", str(port)]
    settings = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    folder = tmp_path_factory.mktemp("server")
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        serving = subprocess.Popen([*command, *flags], env=os.environ | settings, stdout=log, stderr=log)
        try:
            wait_until_up(url, serving, folder / "log")
            yield ServerClient(ServerOptions(url, "policy", str(folder / "shared"), timeout_seconds=60.0))
        finally:
            serving.terminate()
            serving.wait(60)


def wait_until_up(url, serving, log):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert serving.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(f"the server is not up after {START_SECONDS} s: {log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def asked(tokenizer):
    problems = load_problems(WorldData(use="world", split="test", count=12, seed=1))
    prompts = render_prompts(problems, tokenizer, PromptSection())
    return [SamplingRequest(tuple(prompt), 48, 100 + i) for i, prompt in enumerate(prompts)]


def own_logits(model, request, sample):
    with torch.no_grad():
        logits = model(torch.tensor([[*request.prompt_ids, *sample.token_ids]])).logits[0].float()
    return logits[len(request.prompt_ids) - 1 : -1]


def distance(backend, asked):
    """Return the largest gap between the server's log-probabilities and the trainer model's own."""
    worst = 0.0
    for request, sample in zip(asked, backend.generate(asked, SamplingOptions()), strict=True):
        logps = own_logits(backend.model, request, sample).log_softmax(dim=-1)
        ours = logps.gather(1, torch.tensor(sample.token_ids)[:, None]).squeeze(1)
        worst = max(worst, float((ours - torch.tensor(sample.logps)).abs().max()))
    return worst


def disturb(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.05 * torch.randn_like(parameter) * (parameter.std() + 0.1 * hasattr(model, "peft_config")))


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_weights_follow_the_trainer(server, policy, tokenizer, asked, kind):
    model = load_model(policy)
    ends = eos_ids(model, tokenizer)
    if kind == "adapter":
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
    backend = VLLMServerBackend(server, model, ends)
    for version in range(2):
        disturb(model)
        if version:
            assert distance(backend, asked) > 1e-3
        backend.sync_weights(version)
        assert distance(backend, asked) < 1e-4


def test_each_request_has_its_own_stop_strength(server, policy, tokenizer, asked):
    model = load_model(policy)
    tokens = think_tokens(model, tokenizer)
    strengths = tuple(STRENGTHS[i % 4] for i in range(len(asked)))
    edit = TemperatureStop(strengths, tokens, StopOptions(topk_gate=None, mask_eos=False, mask_restart=False))
    backend = VLLMServerBackend(server, model, eos_ids(model, tokenizer), EngineStop(edit))
    backend.sync_weights(0)
    moved = 0.0
    for request, sample, strength in zip(asked, backend.generate(asked, SamplingOptions()), strengths, strict=True):
        logits = own_logits(model, request, sample)
        plain = logits.log_softmax(dim=-1)
        end = sample.token_ids.index(tokens.end) if tokens.end in sample.token_ids else len(sample.token_ids)
        edited = logits.clone()
        edited[: end + 1, tokens.end] = logits.logsumexp(dim=-1)[: end + 1] + plain[: end + 1, tokens.end] / strength
        drawn = torch.tensor(sample.token_ids)[:, None]
        expected = edited.log_softmax(dim=-1).gather(1, drawn).squeeze(1)
        torch.testing.assert_close(torch.tensor(sample.logps), expected, atol=1e-4, rtol=0)
        moved = max(moved, float((expected - plain.gather(1, drawn).squeeze(1)).abs().max()))
    assert moved > 0.1
