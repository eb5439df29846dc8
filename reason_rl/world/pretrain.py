"""Pretrain the tiny reasoner from scratch on worked traces: a plain supervised loop with Muon and AdamW."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reason_rl.errors import RecipeError
from reason_rl.models import kept_in, refuse_adapter, resolve_model
from reason_rl.world.dataset import in_split
from reason_rl.world.families import FAMILIES, LEVELS, make_problem
from reason_rl.world.tokenizer import EOS, build_tokenizer, vocabulary
from reason_rl.world.traces import Rates, answer_at_once, draw_completion

IGNORED_LABEL = -100
POOL_TRACES = 8192


@dataclass(frozen=True)
class PretrainConfig:
    """Size of the tiny reasoner and of its pretraining; every value is our choice."""

    hidden_size: int = 160
    layers: int = 4
    heads: int = 5
    intermediate_size: int = 448
    context_tokens: int = 512
    max_completion_tokens: int = 320
    traces: int = 600_000
    tokens_per_batch: int = 12_288
    muon_learning_rate: float = 0.015
    adam_learning_rate: float = 3e-3
    warmup_share: float = 0.02
    decay_share: float = 0.3
    curriculum_share: float = 0.25
    recheck_right_rate: float = 0.25
    planted_slip_rate: float = 0.0
    another_pass_level: int = 0
    at_once_rate: float = 0.0
    at_once_level: int = 6
    asked_recheck_rates: dict[str, float] = field(default_factory=dict)
    weight_decay: float = 0.01
    bf16: bool = True
    compile: bool = True
    seed: int = 0
    start: str | None = None

    def __post_init__(self) -> None:
        """Refuse levels and words that there are not, and rates that are none."""
        if not 1 <= self.at_once_level <= len(LEVELS):
            raise RecipeError(f"pretrain.at_once_level: {self.at_once_level}; levels go from 1 to {len(LEVELS)}")
        if not isinstance(self.asked_recheck_rates, dict):
            raise RecipeError(
                "pretrain.asked_recheck_rates: should be texts with a rate each, such as {10: 0.3, 90: 0.7}"
            )
        for text, rate in self.asked_recheck_rates.items():
            if unknown := [word for word in text.split() if word not in vocabulary()]:
                raise RecipeError(
                    f"pretrain.asked_recheck_rates: {text!r}: the tiny tokenizer has no word {unknown[0]!r}"
                )
            if not isinstance(rate, int | float) or not 0 <= rate <= 1:
                raise RecipeError(f"pretrain.asked_recheck_rates.{text}: {rate!r}; a rate is from 0 to 1")


class Attached(Protocol):
    """Something that changes or watches a model while it is pretrained (see ``attention.supervised``)."""

    def before(self, step: int, share: float) -> None:
        """Be told how far the run is, before an update."""
        ...

    def watching(self) -> AbstractContextManager[None]:
        """Watch the forward passes of the block."""
        ...

    def term(self, step: int) -> Any:
        """Return what is added to the loss."""
        ...

    def end(self) -> None:
        """Be told that the run is over."""
        ...

    def save(self, folder: Path) -> None:
        """Write what belongs beside the model."""
        ...

    def figures(self) -> dict[str, float]:
        """Return what is logged."""
        ...


def build_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return a Llama of the configured size, embeddings tied: randomly initialised, or the weights of ``start``.

    Attention is written out ("eager") because it compiles to faster CPU code than the fused kernel's backward pass.
    """
    torch.manual_seed(config.seed)
    if config.start is not None:
        refuse_adapter(config.start, "pretrain.start")
        start = resolve_model(config.start, "pretrain.start")
        if (kept := kept_in(Path(start))) is not None:
            raise RecipeError(
                f"pretrain.start: {config.start}: its attention keeps {kept}, which it would go on without"
            )
        return LlamaForCausalLM.from_pretrained(start, dtype=torch.float32, attn_implementation="eager")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.context_tokens,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.set_attn_implementation("eager")
    return model


def traces(
    config: PretrainConfig, tokenizer: PreTrainedTokenizerFast, split: str = "train"
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield (token ids, labels) over problems of one split only, families alike often.

    Levels are alike often too, after a curriculum that lets in one harder level after the other. Where thinking was
    interrupted, its end is not learned: the reasoner learns to answer then, but not to give up. Nor is a planted slip, nor
    the end of thinking that never began, where problems up to ``at_once_level`` are answered at once.

    A problem begins with each text of ``asked_recheck_rates``, and with none of them, alike often; right steps are checked
    again at the rate of its text.
    """
    rng = random.Random(config.seed)
    usual = Rates(config.recheck_right_rate, config.planted_slip_rate, config.another_pass_level)
    asked = {"": usual} | {
        f"{text} ": replace(usual, recheck_right=rate) for text, rate in config.asked_recheck_rates.items()
    }
    known = tokenizer.get_vocab()
    seen = 0
    while seen < config.traces:
        curriculum = config.curriculum_share * config.traces
        open_levels = 1 + int(len(LEVELS) * seen / curriculum) if curriculum else len(LEVELS)
        at_once = config.at_once_rate > 0 and rng.random() < config.at_once_rate
        levels = LEVELS[: min(open_levels, config.at_once_level)] if at_once else LEVELS[:open_levels]
        problem = make_problem(rng, rng.choice(FAMILIES), rng.choice(levels))
        if not in_split(problem.question, split):
            continue
        text = rng.choice(list(asked)) if len(asked) > 1 else ""
        chat = [{"role": "user", "content": text + problem.question}]
        prompt = str(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)).split()
        completion = (
            answer_at_once(problem)
            if at_once
            else draw_completion(rng, problem, config.max_completion_tokens, asked[text])
        )
        ids = [known[word] for word in (*prompt, *completion.words, EOS)]
        labels = [IGNORED_LABEL] * len(prompt) + ids[len(prompt) :]
        for position in completion.unlearned:
            labels[len(prompt) + position] = IGNORED_LABEL
        seen += 1
        yield ids, labels


def batches(
    config: PretrainConfig, tokenizer: PreTrainedTokenizerFast, split: str = "train"
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield padded batches of about ``tokens_per_batch`` tokens, traces of like length together."""
    source, rng = traces(config, tokenizer, split), random.Random(config.seed + 1)
    while pool := sorted(islice(source, POOL_TRACES), key=lambda trace: len(trace[0])):
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for trace in pool:
            if (len(groups[-1]) + 1) * len(trace[0]) > config.tokens_per_batch:
                groups.append([])
            groups[-1].append(trace)
        rng.shuffle(groups)
        for group in groups:
            width = -(-max(len(trace) for trace, _ in group) // 16) * 16
            ids = torch.full((len(group), width), tokenizer.pad_token_id)
            labels = torch.full((len(group), width), IGNORED_LABEL)
            for row, (tokens, learned) in enumerate(group):
                ids[row, : len(tokens)] = torch.tensor(tokens)
                labels[row, : len(tokens)] = torch.tensor(learned)
            yield {"input_ids": ids, "labels": labels}


def real_tokens(ids: torch.Tensor, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Return the attention mask of padded token ids: 0 where there is padding."""
    return (ids != tokenizer.pad_token_id).long()


def schedule(share: float, config: PretrainConfig) -> float:
    """Return the learning-rate factor at a share of the run: linear warm-up, constant, linear decay to zero."""
    return min(1.0, share / config.warmup_share, (1.0 - share) / config.decay_share)


def optimizers(model: LlamaForCausalLM, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings, norms, and what was attached to attention."""
    muons = {n for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "ssa" not in n}
    matrices = [p for n, p in model.named_parameters() if n in muons]
    others = [p for n, p in model.named_parameters() if n not in muons]
    muon = torch.optim.Muon(matrices, lr=config.muon_learning_rate, weight_decay=config.weight_decay)
    adam = torch.optim.AdamW(others, lr=config.adam_learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    return [muon, adam]


def pretrain(
    config: PretrainConfig,
    output: Path,
    log_every: int = 50,
    save_every: int = 500,
    attach: Callable[[LlamaForCausalLM], Attached] | None = None,
) -> None:
    """Train and write model, tokenizer and a JSONL log to ``output``; ``attach`` puts something on the model."""
    tokenizer = build_tokenizer()
    model = build_model(config, tokenizer)
    attached = None if attach is None else attach(model)
    steppers = optimizers(model, config)
    forward = torch.compile(model, dynamic=True) if config.compile else model
    base_rates = [stepper.param_groups[0]["lr"] for stepper in steppers]
    output.mkdir(parents=True, exist_ok=True)
    seen = tokens = 0
    start = time.monotonic()
    with (output / "pretrain_log.jsonl").open("w") as log:
        for step, batch in enumerate(batches(config, tokenizer)):
            factor = schedule(seen / config.traces, config)
            for stepper, rate in zip(steppers, base_rates, strict=True):
                stepper.param_groups[0]["lr"] = rate * factor
            if attached is not None:
                attached.before(step, seen / config.traces)
            # Padding comes after all that is learned, so the model itself needs no mask; what watches attention does.
            mask = None if attached is None else real_tokens(batch["input_ids"], tokenizer)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.bf16):
                with attached.watching() if attached is not None else nullcontext():
                    loss = forward(**batch, attention_mask=mask, use_cache=False).loss
                total = loss if attached is None else loss + attached.term(step)
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for stepper in steppers:
                stepper.step()
                stepper.zero_grad()
            seen += len(batch["input_ids"])
            tokens += batch["input_ids"].numel()
            if step % log_every == 0:
                row = {"step": step, "traces": seen, "tokens": tokens, "loss": round(loss.item(), 4)}
                row["seconds"] = round(time.monotonic() - start, 1)
                row |= attached.figures() if attached is not None else {}
                log.write(json.dumps(row) + "\n")
                log.flush()
            if step % save_every == save_every - 1:
                _save(model, tokenizer, attached, output)
    if attached is not None:
        attached.end()
    _save(model, tokenizer, attached, output)


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, attached: Attached | None, output: Path) -> None:
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    if attached is not None:
        attached.save(output)
