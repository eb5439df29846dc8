"""Tokens a second of the rollout engines side by side, at three sizes of model."""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reason_rl.bench.jobs import Row, Say, run_jobs
from reason_rl.bench.speed import Workload, timed
from reason_rl.models import SMOLLM, TINY_REASONER

Engine = Literal["hf", "vllm"]
ENGINES: tuple[Engine, ...] = ("hf", "vllm")
TEN_MILLION = "random-llama-10m"
MODELS = (TINY_REASONER, TEN_MILLION, SMOLLM)
CONTEXT_TOKENS, LONGEST_TOKENS = 512, 400


@dataclass(frozen=True)
class EngineJob:
    """One engine on one model, in a process of its own: vLLM changes torch's threads for good."""

    engine: Engine
    model: str
    rows: int
    repeats: int

    @property
    def key(self) -> str:
        """Name of the pair among the results."""
        return f"{self.model}-{self.engine}-{self.rows}"

    def __call__(self) -> Row:
        """Measure the pair."""
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(measure_engine, self).result()


def compare_engines(out: Path, rows: int, repeats: int, say: Say) -> dict[str, Any]:
    """Measure what is missing and return, for each model, both engines and vllm's ratio to hf."""
    jobs = [EngineJob(engine, model, rows, repeats) for model in MODELS for engine in ENGINES]
    found = {(row["model"], row["engine"]): row for row in run_jobs(jobs, out, 1, say)}
    table: dict[str, Any] = {}
    for model in MODELS:
        pair: dict[str, Any] = {engine: found[model, engine] for engine in ENGINES}
        speeds = {engine: pair[engine]["tokens_per_second"] for engine in ENGINES}
        table[model] = {**pair, "vllm_to_hf": speeds["vllm"] / speeds["hf"]}
    return table


def measure_engine(job: EngineJob) -> Row:
    """Return the tokens a second of one engine in this process: median of the repeats, after one unmeasured pass."""
    from reason_rl.models import eos_ids, load_model, load_tokenizer
    from reason_rl.recipe.schema import ModelSection
    from reason_rl.rollout.backend import Backend, SamplingOptions, SamplingRequest
    from reason_rl.rollout.hf import HFBackend
    from reason_rl.rollout.vllm_local import EngineOptions, VLLMBackend, start_engine

    workload = Workload(rows=job.rows)
    rows = zip(workload.prompts(), workload.lengths(), strict=True)
    asked = [SamplingRequest(tuple(p), min(n, LONGEST_TOKENS), i) for i, (p, n) in enumerate(rows)]
    with tempfile.TemporaryDirectory() as folder:
        spec = ModelSection(path=prepared(job.model, Path(folder)))
        model, tokenizer = load_model(spec).eval(), load_tokenizer(spec)
        ends = eos_ids(model, tokenizer)
        backend: Backend
        if job.engine == "hf":
            backend = HFBackend(model, ends, tokenizer.pad_token_id, job.rows)
        else:
            backend = VLLMBackend(
                start_engine(spec.path, EngineOptions(CONTEXT_TOKENS, max_batch_rows=job.rows)), model, ends
            )
        backend.sync_weights(0)
        tokens = sum(len(sample.token_ids) for sample in backend.generate(asked, SamplingOptions()))
        seconds = statistics.median(
            timed(lambda: backend.generate(asked, SamplingOptions())) for _ in range(job.repeats)
        )
    return {
        "engine": job.engine,
        "model": job.model,
        "parameters": sum(p.numel() for p in model.parameters()),
        "rows": job.rows,
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
    }


def prepared(model: str, folder: Path) -> str:
    """Return the folder of a model; the random one is made in ``folder``, over the tiny world's tokens."""
    from reason_rl.models import load_tokenizer, resolve_model
    from reason_rl.recipe.schema import ModelSection

    if model != TEN_MILLION:
        return resolve_model(model)
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = load_tokenizer(ModelSection())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
