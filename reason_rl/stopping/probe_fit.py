"""``probe fit`` without its command line: traces of training problems, their exits tried, a probe fitted and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reason_rl.errors import RecipeError
from reason_rl.rollout.backend import Sample
from reason_rl.stopping.artefact import ProbeCard, save_probe
from reason_rl.stopping.cues import Cues, recall, word_cues
from reason_rl.stopping.fit import Fit, FitOptions, fit_probe
from reason_rl.stopping.replay import reliability, score_traces
from reason_rl.stopping.rule import Elicitor
from reason_rl.stopping.setting import Setting
from reason_rl.stopping.states import last_layer
from reason_rl.stopping.traces import Recorder, Target, Trace
from reason_rl.stopping.workflow import Say, in_tenths, sample_traces

MIN_RECALL = 0.99  # of cue words; our choice


@dataclass(frozen=True)
class ProbePlan:
    """Cue words, interval of think tokens, layers (none = the last), elicitor, and what the probe is to predict."""

    words: tuple[str, ...]
    every: int | None
    layers: tuple[int, ...]
    elicitor: Elicitor
    target: Target = "safe"


def fit_from(
    setting: Setting, plan: ProbePlan, options: FitOptions, count: int, folder: Path, say: Say
) -> tuple[Fit, dict[str, Any]]:
    """Sample traces of the recipe's training problems, try the exit at each cue, fit a probe, write it into ``folder``.

    Returns:
        The fit, and its figures as they are kept with the probe.

    Raises:
        RecipeError: without training problems, for cues that never come, or when nothing can be learned.
    """
    if setting.recipe.data is None:
        raise RecipeError("data: is missing; it says which problems a probe is fitted on")
    problems = setting.problems(setting.recipe.data, count)
    cues = _cues(setting, plan)
    layers = plan.layers or (last_layer(setting.backend.model),)
    recorder = Recorder(cues, plan.elicitor, layers)
    samples: list[Sample] = []
    traces = sample_traces(setting, problems, recorder, options.seed, say, samples.extend)
    found = recall(cues, setting.tokenizer, [s.token_ids for s in samples], plan.words) if plan.words else None
    if found is not None and found < MIN_RECALL:
        say(f"the cues find {found:.1%} of the words {', '.join(plan.words)}; longer tokens hide the others")
    offered = [trace for trace in traces if trace.positions]
    if not offered:
        raise RecipeError(f"probe fit: none of the {len(traces)} traces has a cue; use other words, or an interval")
    fit = fit_probe(
        torch.cat([trace.features for trace in offered]),
        torch.tensor([label for trace in offered for label in trace.labels(plan.target)]),
        [trace.problem_id for trace in offered for _ in trace.positions],
        options,
        in_tenths(say, "epochs at most"),
    )
    figures = {
        "model": setting.recipe.model.path,
        "revision": setting.recipe.model.revision,
        "dtype": str(setting.backend.model.dtype).removeprefix("torch."),
        "cue_recall": found,
        **_figures(fit, traces, plan.target),
    }
    ids = tuple(problem.id for problem in problems)
    end = setting.recipe.model.end_think_token
    card = ProbeCard(setting.fingerprint(), layers, cues, plan.elicitor, end, figures, ids, plan.target)
    save_probe(folder, fit.probe, card)
    return fit, figures


def _cues(setting: Setting, plan: ProbePlan) -> Cues:
    if plan.words:
        return word_cues(setting.tokenizer, plan.words, plan.every)
    if plan.every is not None:
        return Cues(frozenset(), plan.every)
    raise RecipeError("probe fit: give cue words, an interval, or both")


def _figures(fit: Fit, traces: Sequence[Trace], target: Target) -> dict[str, Any]:
    """Return how the probe does on held-out problems, and what finding that out took."""
    offered = [trace for trace in traces if trace.positions]
    held = [trace for trace in offered if trace.problem_id in set(fit.held_out)]
    scores = [score for row in score_traces(fit.probe, held) for score in row]
    return {
        "auc": fit.auc,
        "accuracy": fit.accuracy,
        "base_rate": fit.base_rate,
        "epochs": fit.epochs,
        "cues": fit.cues,
        "problems": len(traces),
        "problems_without_cues": len(traces) - len(offered),
        "completion_tokens": sum(trace.tokens for trace in traces),
        "label_tokens": sum(trace.label_tokens for trace in traces),
        "reliability": reliability(scores, [good for trace in held for good in trace.labels(target)]),
    }
