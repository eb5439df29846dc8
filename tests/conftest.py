import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import settings
from transformers import LlamaConfig, LlamaForCausalLM
from trl import GRPOConfig

from reason_rl.algorithm.budget import FixedBudget
from reason_rl.algorithm.reward import correctness
from reason_rl.answer.verify import ExactVerifier
from reason_rl.rollout.backend import Sample, SamplingOptions, sampling_seed
from reason_rl.rollout.grading import Grader
from reason_rl.trainer.composition import Composition
from reason_rl.trainer.grpo import ReasonGRPOTrainer
from reason_rl.world.tokenizer import END_THINK, build_tokenizer

# A slow machine is no failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def in_two_processes():
    """Return the start of a command line that runs what follows in two processes; `--cpu --num_processes 2` starts one."""
    config = Path(__file__).parents[1] / "recipes" / "accelerate" / "cpu_2.yaml"
    launch = ("-m", "accelerate.commands.launch", "--config_file", str(config), "--main_process_port", "0")
    return [sys.executable, *launch]


@pytest.fixture(scope="session")
def tiny_tokenizer():
    return build_tokenizer()


@pytest.fixture
def make_llama(tiny_tokenizer):
    """Return a maker of random two-layer Llamas over the tiny world's tokens."""

    def make(seed=0, **fields):
        torch.manual_seed(seed)
        config = {
            "vocab_size": len(tiny_tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "bos_token_id": None,
            "eos_token_id": tiny_tokenizer.eos_token_id,
            "pad_token_id": tiny_tokenizer.pad_token_id,
        }
        return LlamaForCausalLM(LlamaConfig(**{**config, **fields})).eval()

    return make


class ScriptedBackend:
    """Writes completions that depend on the request's prompt and on how often it was asked, never on weights."""

    def __init__(self, tokenizer, right_share=0.5, cut_share=0.25):
        self.tokenizer, self.right_share, self.cut_share = tokenizer, right_share, cut_share
        self.asked = {}
        self.requests = []
        self.versions = []
        self.version = -1

    def sync_weights(self, version):
        self.versions.append(version)
        self.version = version

    def generate(self, requests, options, on_progress=None):
        self.requests.append(list(requests))
        return [self.write(request) for request in requests]

    def write(self, request):
        count = self.asked[request.prompt_ids] = self.asked.get(request.prompt_ids, -1) + 1
        rng = np.random.default_rng(sampling_seed(*request.prompt_ids, count))
        words = [str(rng.integers(100)) for _ in range(rng.integers(2, 9))]
        answer = "7" if rng.random() < self.right_share else "8"
        ids = self.tokenizer(" ".join([*words, END_THINK, "\\boxed{", answer, "}", "<eos>"])).input_ids
        cut = rng.random() < self.cut_share
        if cut or len(ids) > request.max_tokens:
            ids = ids[: min(request.max_tokens, len(words))]
        logps = tuple(-4.0 - 0.01 * i for i in range(len(ids)))
        return Sample(tuple(ids), logps, "stop" if ids[-1] == self.tokenizer.eos_token_id else "length")


@pytest.fixture
def make_backend(tiny_tokenizer):
    return lambda **fields: ScriptedBackend(tiny_tokenizer, **fields)


@pytest.fixture
def problems_dataset():
    """Return 24 problems whose answer is always 7."""
    rows = range(24)
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": f"chain {i} + 1"}] for i in rows],
            "problem_id": [f"p{i}" for i in rows],
            "answer": ["7" for _ in rows],
            "level": [1 + i % 3 for i in rows],
        }
    )


@pytest.fixture
def make_config(tmp_path):
    def make(**fields):
        values = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 8,
            "steps_per_generation": 2,
            "num_generations": 4,
            "max_completion_length": 16,
            "max_steps": 4,
            "learning_rate": 1e-3,
            "seed": 0,
            "bf16": False,
            "use_cpu": True,
            "gradient_checkpointing": False,
            "report_to": "none",
            "logging_steps": 2,
            "save_strategy": "no",
            "disable_tqdm": True,
            "beta": 0.0,
            "vllm_importance_sampling_mode": "token_truncate",
            "vllm_importance_sampling_clip_max": 2.0,
        }
        return GRPOConfig(**{**values, **fields})

    return make


@pytest.fixture
def make_trainer(tiny_tokenizer, make_llama, make_backend, make_config, problems_dataset):
    """Return a maker of our trainer; by default the neutral composition on a random model and scripted rollouts."""

    own = ("chunk_rows", "skip_zero_advantage", "sampled_logps")

    def make(backend=None, model=None, config=None, composition=None, **fields):
        policies = {name: value for name, value in fields.items() if name not in own}
        method = composition or Composition(**{"reward": correctness(), "budget": FixedBudget(16), **policies})
        return ReasonGRPOTrainer(
            model=model or make_llama(),
            args=config or make_config(scale_rewards="none"),
            train_dataset=problems_dataset,
            processing_class=tiny_tokenizer,
            composition=method,
            grader=Grader(tiny_tokenizer, ExactVerifier(), tiny_tokenizer.convert_tokens_to_ids(END_THINK)),
            backend=backend or make_backend(),
            sampling=SamplingOptions(),
            **{name: value for name, value in fields.items() if name in own},
        )

    return make
