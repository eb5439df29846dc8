"""Speed of rollouts and updates against stock TRL: same weights, prompts and sampled lengths, as ratios of one run.

Lengths are heavy-tailed, as those of reasoning models are. Each side runs in a process of its own, so that its peak memory
can be told.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np

from reason_rl.algorithm.budget import FixedBudget
from reason_rl.bench.jobs import Row
from reason_rl.run_folder import environment

Side = Literal["stock", "ours"]
Part = Literal["rollout", "update", "step"]
CONTEXT_TOKENS = 1024
MATMUL_SIZE = 2048


@dataclass(frozen=True)
class Workload:
    """One generation batch: rows in groups, updates, and completion lengths from a log-normal distribution.

    ``old_logps`` is ours only, as ``update.old_logps`` of a recipe; stock TRL always computes them.
    """

    rows: int = 128
    group_size: int = 8
    updates: int = 4
    chunk_rows: int = 8
    median_tokens: int = 60
    p99_tokens: int = 600
    prompt_tokens: int = 32
    repeats: int = 2
    seed: int = 0
    old_logps: Literal["sampled", "recomputed"] = "sampled"

    def short(self) -> Workload:
        """Return the same rows with a few tokens each, to warm up with."""
        return replace(self, median_tokens=4, p99_tokens=6)

    def lengths(self) -> list[int]:
        """Return the completion tokens of each row.

        >>> lengths = sorted(Workload(rows=2000).lengths())
        >>> 55 < lengths[1000] < 65 and 450 < lengths[1980] <= 900
        True
        """
        sigma = np.log(self.p99_tokens / self.median_tokens) / 2.3263
        drawn = np.random.default_rng(self.seed).lognormal(np.log(self.median_tokens), sigma, self.rows)
        return np.clip(drawn, 2, CONTEXT_TOKENS - self.prompt_tokens - 1).astype(int).tolist()

    def prompts(self) -> list[list[int]]:
        """Return prompt token ids, all of one length, the same within a group."""
        rng = np.random.default_rng(self.seed + 1)
        groups = rng.integers(10, 100, (self.rows // self.group_size, self.prompt_tokens))
        return np.repeat(groups, self.group_size, axis=0).tolist()


@dataclass(frozen=True)
class SpeedJob:
    """One part, both sides."""

    part: Part
    workload: Workload
    say: Callable[[str], None]

    @property
    def key(self) -> str:
        """Part, rows and repeats, and where it is not the sampler that gives the old log-probabilities."""
        how = "" if self.workload.old_logps == "sampled" else f"-{self.workload.old_logps}"
        return f"{self.part}-{self.workload.rows}x{self.workload.repeats}{how}"

    def __call__(self) -> Row:
        """Return the comparison, with the command and what it ran on."""
        return compare_speed(self.part, self.workload, self.say) | {"environment": environment()}


def compare_speed(part: Part, workload: Workload, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure both sides and return seconds, useful tokens a second, peak memory and ``ratio_vs_trl``.

    ``step`` is a whole step of training on one generation batch, from prompts to new weights: rollouts, rewards, the
    log-probabilities before the update, loss and optimizer. A ratio above 1 means that ours is faster.
    """
    measured: dict[str, dict[str, Any]] = {}
    context = multiprocessing.get_context("spawn")
    sides: tuple[Side, ...] = ("stock", "ours")
    for side in sides:
        say(f"{part}: {side}")
        with ProcessPoolExecutor(1, context) as pool:
            measured[side] = pool.submit(measure, side, part, workload).result()
    tokens = sum(workload.lengths())
    for result in measured.values():
        result["tokens_per_second"] = tokens / result["seconds"]
    ours, stock = measured["ours"], measured["stock"]
    return {
        "part": part,
        "workload": asdict(workload) | {"completion_tokens": tokens},
        **measured,
        "ratio_vs_trl": stock["seconds"] / ours["seconds"],
        "memory_ratio_vs_trl": ours["peak_memory_mb"] / stock["peak_memory_mb"],
    }


def measure(side: Side, part: Part, workload: Workload) -> dict[str, Any]:
    """Time one side in this process: the median of the repeats, after an unmeasured pass over short rows."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(side, workload, folder)
        result: dict[str, Any] = {}
        if part == "step":
            result["seconds"] = statistics.median(step_seconds(trainer, side, workload))
        else:
            passes = ROLLOUTS[side] if part == "rollout" else one_update
            passes(trainer, workload.short())()
            once = passes(trainer, workload)
            result["seconds"] = statistics.median(timed(once) for _ in range(workload.repeats))
        if part == "update":
            result["share_of_matmul_flops"] = update_flops(trainer, workload) / result["seconds"] / matmul_flops()
        result["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result


def step_seconds(trainer: Any, side: Side, workload: Workload) -> list[float]:
    """Train for one generation batch of short rows and one a repeat; return the seconds of each of the latter."""
    from transformers import PrinterCallback, TrainerCallback

    class Clock(TrainerCallback):
        """Notes the time whenever the updates of a generation batch are done."""

        times: ClassVar[list[float]] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Note it."""
            if state.global_step % workload.updates == 0:
                self.times.append(time.perf_counter())

    if side == "stock":
        end_rows_at(trainer, [workload.short().lengths(), *[workload.lengths()] * workload.repeats])
    clock = Clock()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(clock)
    trainer.train()
    return [after - before for before, after in pairwise(clock.times)]


def timed(once: Callable[[], Any]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    once()
    return time.perf_counter() - start


def make_trainer(side: Side, workload: Workload, folder: str) -> Any:
    """Return stock TRL's trainer or ours on a random Llama of the tiny reasoner's size, with room for long traces."""
    import torch
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    from reason_rl.models import load_tokenizer
    from reason_rl.recipe.schema import ModelSection
    from reason_rl.world import reasoner_path

    config = LlamaConfig.from_pretrained(reasoner_path())
    config.max_position_embeddings = CONTEXT_TOKENS
    torch.manual_seed(workload.seed)
    model = LlamaForCausalLM(config)
    args = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=workload.rows // workload.updates,
        steps_per_generation=workload.updates,
        num_generations=workload.group_size,
        max_completion_length=max(workload.lengths()),
        max_steps=workload.updates * (1 + workload.repeats),
        learning_rate=1e-6,
        disable_tqdm=True,
        beta=0.0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
    )
    common: dict[str, Any] = {
        "model": model,
        "args": args,
        "train_dataset": Dataset.from_dict(
            {name: [value] * workload.rows for name, value in (("prompt", "1 + 1"), ("answer", "2"))}
            | {"problem_id": [f"p{row}" for row in range(workload.rows)]}
        ),
        "processing_class": load_tokenizer(ModelSection()),
    }
    if side == "stock":
        trainer: Any = GRPOTrainer(**common, reward_funcs=[even_reward])
    else:
        trainer = our_trainer(common, model, workload)
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def even_reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """Return the share of even token ids: something cheap that leaves no group without a signal."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


@dataclass(frozen=True)
class DrawnLengths(FixedBudget):
    """The lengths of the workload as budgets; short ones at the first generation batch."""

    workload: Workload = field(default_factory=Workload)

    def assign(self, problem_ids: Any, columns: Any, store: Any, step: int, progress: float) -> Any:
        """Return the length of each row."""
        import torch

        return torch.tensor((self.workload.short() if step == 0 else self.workload).lengths())


def our_trainer(common: dict[str, Any], model: Any, workload: Workload) -> Any:
    """Return our trainer with the neutral composition; rollouts end at their budget only."""
    import torch

    from reason_rl.answer.verify import ExactVerifier
    from reason_rl.rollout.backend import SamplingOptions
    from reason_rl.rollout.grading import Grader
    from reason_rl.rollout.hf import HFBackend
    from reason_rl.trainer.composition import Composition
    from reason_rl.trainer.grpo import ReasonGRPOTrainer

    tokenizer = common["processing_class"]
    return ReasonGRPOTrainer(
        **common,
        composition=Composition(
            lambda batch: torch.tensor(even_reward(batch.completion_ids)),
            DrawnLengths(max(workload.lengths()), workload),
        ),
        grader=Grader(tokenizer, ExactVerifier(), None),
        backend=HFBackend(model, (), tokenizer.pad_token_id, context_tokens=CONTEXT_TOKENS),
        sampling=SamplingOptions(),
        chunk_rows=workload.chunk_rows,
        sampled_logps=workload.old_logps == "sampled",
    )


def our_rollout(trainer: Any, workload: Workload) -> Callable[[], Any]:
    """Sample with the hf backend; the lengths are budgets."""
    from reason_rl.rollout.backend import SamplingOptions, SamplingRequest

    rows = zip(workload.prompts(), workload.lengths(), strict=True)
    requests = [SamplingRequest(tuple(prompt), length, i) for i, (prompt, length) in enumerate(rows)]
    backend = trainer.vllm_generation.backend
    return lambda: backend.generate(requests, SamplingOptions())


def stock_rollout(trainer: Any, workload: Workload) -> Callable[[], Any]:
    """Sample as TRL does without vLLM: one ``generate`` over all rows, which end at their lengths."""
    import torch

    ids = torch.tensor(workload.prompts())
    generate = ending_at(
        trainer.model.generate, trainer.eos_token_ids[0], [workload.lengths()] * (workload.repeats + 1)
    )

    def once() -> None:
        trainer.model.eval()
        with torch.no_grad():
            out = generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=trainer.generation_config
            )
        assert out.shape[1] == ids.shape[1] + max(workload.lengths())

    return once


def end_rows_at(trainer: Any, lengths: list[list[int]]) -> None:
    """Let TRL's own rollouts end at these lengths, one list a generation batch."""
    trainer.model.generate = ending_at(trainer.model.generate, trainer.eos_token_ids[0], lengths)


def ending_at(generate: Callable[..., Any], end: int, lengths: list[list[int]]) -> Callable[..., Any]:
    """Return ``generate`` with a processor that ends each row at its length, one list of lengths a call."""
    import torch
    from transformers import LogitsProcessorList

    calls = iter(lengths)

    def ended(*args: Any, **kwargs: Any) -> Any:
        wanted = torch.tensor(next(calls))
        prompt_tokens: list[int] = []

        def end_at_length(seen: Any, scores: Any) -> Any:
            if not prompt_tokens:
                prompt_tokens.append(seen.shape[1])
            last = seen.shape[1] - prompt_tokens[0] >= wanted - 1
            never = torch.full_like(scores, -torch.inf)
            never[:, end] = 0.0
            scores[:, end] = -torch.inf
            return torch.where(last[:, None], never, scores)

        return generate(*args, logits_processor=LogitsProcessorList([end_at_length]), **kwargs)

    return ended


ROLLOUTS: dict[Side, Callable[[Any, Workload], Callable[[], Any]]] = {"stock": stock_rollout, "ours": our_rollout}


def one_update(trainer: Any, workload: Workload) -> Callable[[], Any]:
    """Loss, gradients and optimizer steps of a generation batch, in the slices that TRL makes of it."""
    slices = micro_batches(workload, trainer._tokenizer.pad_token_id)

    def once() -> None:
        trainer.model.train()
        for inputs in slices:
            trainer.compute_loss(trainer.model, inputs).backward()
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()

    return once


def micro_batches(workload: Workload, pad_token_id: int) -> list[dict[str, Any]]:
    """Return the slices of a generation batch as TRL hands them to the loss, every one as wide as the longest row."""
    import torch

    lengths, prompts = torch.tensor(workload.lengths()), torch.tensor(workload.prompts())
    width = int(lengths.max())
    mask = (torch.arange(width) < lengths[:, None]).long()
    generator = torch.Generator().manual_seed(workload.seed)
    ids = torch.randint(10, 100, mask.shape, generator=generator) * mask + pad_token_id * (1 - mask)
    batch = {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": torch.randn(workload.rows, generator=generator),
        "importance_sampling_ratio": torch.ones(mask.shape),
    }
    rows = workload.rows // workload.updates
    return [
        {key: value[start : start + rows] for key, value in batch.items()} | {"num_items_in_batch": mask.sum()}
        for start in range(0, workload.rows, rows)
    ]


def update_flops(trainer: Any, workload: Workload) -> float:
    """Return the floating-point operations that an update needs: 6 a parameter and token that is no padding."""
    parameters = sum(p.numel() for p in trainer.model.parameters())
    tokens = sum(workload.lengths()) + workload.rows * workload.prompt_tokens
    return 6.0 * parameters * tokens


def matmul_flops() -> float:
    """Return the floating-point operations a second of a large float32 matrix product on this machine."""
    import torch

    a = torch.randn(MATMUL_SIZE, MATMUL_SIZE)
    seconds = min(timed(lambda: a @ a) for _ in range(5))
    return 2.0 * MATMUL_SIZE**3 / seconds
