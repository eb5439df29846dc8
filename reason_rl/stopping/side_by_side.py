"""``reason-rl probe compare``: makes the contenders from a probe and the recipe's problems, and runs what is missing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reason_rl.errors import RecipeError
from reason_rl.evaluate.run import EvalOptions
from reason_rl.problem.record import Problem
from reason_rl.problem.sources import digest
from reason_rl.rollout.backend import Sample, SamplingOptions, SamplingRequest, sampling_seed
from reason_rl.rollout.hf import HFBackend, sampling_mode
from reason_rl.stopping import compare
from reason_rl.stopping.artefact import load_certificate
from reason_rl.stopping.compare import Run, decode_one, play_all, traces_of
from reason_rl.stopping.contenders import RISKS, Kit, decoded, played
from reason_rl.stopping.generate import StoppingBackend
from reason_rl.stopping.label import check_tries
from reason_rl.stopping.rules.diff_adapt import DifficultyProbe, difficulties, fit_difficulty
from reason_rl.stopping.setting import Setting
from reason_rl.stopping.states import tapped
from reason_rl.stopping.steering import direction, middle_layer, pairs_of

Say = Callable[[str], None]
SAMPLES = 4  # of each problem that difficulty and steering are learned from; our choice
PAIRS = 100


def make_kit(setting: Setting, folder: Path, word: str, hint: str, learn_from: int) -> Kit:
    """Return what the contenders are made from, without what :func:`taught` learns from ``learn_from`` training problems.

    Raises:
        RecipeError: for a probe of another model, one that exits cannot be tried with, without training problems, or a word
            that the tokenizer cannot write.
    """
    if setting.recipe.model.end_think_token is None:
        raise RecipeError(
            "model.end_think_token: is null; most rules compared close thinking, which this model does not do"
        )
    probe, card = setting.open_probe(folder)
    check_tries(setting.backend.model, card.layers)
    certificate = load_certificate(folder)
    kit = Kit(setting, probe, card, certificate, word, hint, learn_from)
    if not kit.drawn_forms:
        raise RecipeError(
            f"compare: the tokenizer writes {word!r} as several tokens; give --word one that is one token"
        )
    if setting.tokenizer.unk_token_id in kit.written(hint) or not kit.written(hint):
        raise RecipeError(f"compare: the tokenizer cannot write {hint!r}")
    if learn_from and setting.recipe.data is None:
        raise RecipeError("data: is missing; DiffAdapt and steering are learned from training problems")
    return kit


def taught(kit: Kit, say: Say) -> Kit:
    """Return the kit with DiffAdapt's probe and the steering direction, learned from completions of training problems."""
    if not kit.learn_from:
        return kit
    setting = kit.setting
    problems = setting.problems(setting.recipe.data, kit.learn_from)
    prompts = setting.prompts(problems)
    sampling = setting.sampling
    requests = [
        SamplingRequest(prompt, sampling.max_tokens, sampling_seed(sampling.seed, problem.id, "learn", number))
        for problem, prompt in zip(problems, prompts, strict=True)
        for number in range(SAMPLES)
    ]
    backend = setting.backend
    plain = HFBackend(backend.model, backend.tokens.eos, backend.pad_token_id, backend.max_batch_rows)
    say(f"sampling {len(requests)} completions of training problems for difficulty and steering")
    samples = plain.generate(requests, SamplingOptions(sampling.temperature, sampling.top_p, sampling.top_k))
    golds = [problem.answer for problem in problems for _ in range(SAMPLES)]
    right = setting.grader.verifier.verify([setting.grader.extracted(s.token_ids) for s in samples], golds)
    flags = [good and s.finish_reason != "length" for good, s in zip(right, samples, strict=True)]
    by_problem = [slice(start, start + SAMPLES) for start in range(0, len(samples), SAMPLES)]
    pairs = pairs_of(
        prompts, [[s.token_ids for s in samples[part]] for part in by_problem], [flags[part] for part in by_problem]
    )
    with sampling_mode(backend.model):
        push = direction(backend.model, pairs[:PAIRS], middle_layer(backend.model))
    states = first_states(backend, kit.card.layers[-1], prompts)
    difficulty = _difficulty(states, [samples[p] for p in by_problem], [flags[p] for p in by_problem])
    return replace(kit, difficulty=difficulty, steering=push)


def header_of(kit: Kit, problems: Sequence[Problem]) -> dict[str, Any]:
    """Return what the runs of a comparison on these problems depend on: runs under another header are others."""
    setting, card = kit.setting, kit.card
    sampling = setting.sampling.model_dump(include={field.name for field in fields(EvalOptions)})
    teachers = setting.problems(setting.recipe.data, kit.learn_from) if kit.learn_from else []
    thresholds = {f"{risk:g}": kit.certificate.threshold_at(risk) for risk in RISKS}
    return {
        "model": setting.recipe.model.path,
        "problems": len(problems),
        **sampling,
        "data_sha256": digest(problems),
        **asdict(setting.conditions(kit.probe, card)),
        "layers": list(card.layers),
        # Infinity is no JSON.
        "thresholds": {risk: value if math.isfinite(value) else None for risk, value in thresholds.items()},
        "word": kit.word,
        "hint": kit.hint,
        "learn_from": kit.learn_from,
        "taught_sha256": digest(teachers),
    }


def run_comparison(kit: Kit, out: Path, say: Say) -> dict[str, Any]:
    """Run what is missing in ``out`` with its runs, write the figures into ``out``, and return them.

    Runs are kept beside ``out`` one by one, so an interrupted comparison goes on where it was.
    """
    setting = kit.setting
    problems = setting.eval_problems()
    header = header_of(kit, problems)
    kept = out.with_suffix(".runs.jsonl")
    runs = compare.start(kept, header)
    kit = taught(kit, say)
    traces = traces_of(kit, problems)
    rules = [rule for rule in played(kit) if rule.key not in runs]
    if rules:
        for run in play_all(kit, rules, traces, say):
            _keep(kept, run, runs)
    for contender in decoded(kit):
        if contender.key not in runs:
            say(f"decoding under {contender.rule}, {contender.setting}")
            _keep(kept, decode_one(kit, contender, traces), runs)
    result = {"setting": header, **compare.summary(list(runs.values()))}
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _keep(path: Path, run: Run, runs: dict[str, Run]) -> None:
    if run.key not in runs:
        compare.keep(path, run)
        runs[run.key] = run


def first_states(
    backend: StoppingBackend, layer: int, prompts: Sequence[Sequence[int]]
) -> Float[Tensor, "prompts width"]:
    """Return the states that a rule sees at its first look: after the prompt, or the start token that the model writes."""
    model, tokens, states = backend.model, backend.tokens, []
    with sampling_mode(model), tapped(model, (layer,)) as tap:
        for prompt in prompts:
            opening = [] if tokens.start is None or tokens.opened_by(prompt) else [tokens.start]
            model(input_ids=torch.tensor([[*prompt, *opening]], device=model.device), logits_to_keep=1)
            features = tap.features()
            assert features is not None
            states.append(features[0].cpu())
    return torch.stack(states)


def _difficulty(
    states: Float[Tensor, "prompts width"], samples: Sequence[Sequence[Sample]], right: Sequence[Sequence[bool]]
) -> DifficultyProbe:
    """Fit DiffAdapt's probe on the first states of problems, from the samples of each."""
    entropy = [-np.mean([np.mean(sample.logps) for sample in row]) for row in samples]
    kinds = difficulties([float(np.mean(row)) for row in right], [float(value) for value in entropy])
    return fit_difficulty(states, kinds)
