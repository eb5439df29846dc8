"""The stopping commands without their command line: sweep strengths, certify a threshold, use it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from reason_rl.errors import RecipeError
from reason_rl.evaluate.records import EvalRow, write_rows
from reason_rl.evaluate.run import EvalOptions, evaluate_model, make_header
from reason_rl.problem.record import Problem
from reason_rl.problem.sources import digest
from reason_rl.rollout.backend import Sample, SamplingOptions
from reason_rl.stopping.artefact import (
    Certificate,
    ProbeCard,
    load_certificate,
    save_certificate,
)
from reason_rl.stopping.conformal import certify
from reason_rl.stopping.lynx import cue_threshold
from reason_rl.stopping.probe import Probe
from reason_rl.stopping.replay import (
    bad_scores,
    offers,
    reliability,
    replay,
    replay_offers,
    risk_coverage,
    score_traces,
)
from reason_rl.stopping.reuse import not_exchangeable, population
from reason_rl.stopping.rule import Elicitor, StopPolicy
from reason_rl.stopping.rules.budget_forcing import BudgetForcing
from reason_rl.stopping.rules.probe_exit import ProbeExit
from reason_rl.stopping.setting import Setting, check_disjoint
from reason_rl.stopping.store import Scores, load_traces, save_traces, traces_path
from reason_rl.stopping.strength import advantage, choose, point, sweep
from reason_rl.stopping.temperature import StopOptions, TemperatureStop
from reason_rl.stopping.traces import Recorder, Trace, collect
from reason_rl.stopping.validity import calibration_size, over_splits

Say = Callable[[str], None]
MIN_THRESHOLD = 0.5  # our choice


def calibrate_strength(
    setting: Setting,
    strengths: Sequence[float],
    options: StopOptions,
    budgets: Sequence[int],
    elicitor: Elicitor,
    say: Say,
) -> dict[str, Any]:
    """Sweep strengths, and budgets of budget forcing beside them, on the recipe's eval problems; choose a strength.

    Args:
        setting: the opened recipe.
        strengths: rising, the first is 1.
        options: mode, gate and limits of the scaled stop.
        budgets: think tokens of budget forcing; none = no comparison.
        elicitor: what budget forcing writes at its cap.
        say: told the progress.
    """
    problems = setting.eval_problems()
    prompts = setting.prompts(problems)
    sampled = EvalOptions(**setting.sampling.model_dump(include={field.name for field in fields(EvalOptions)}))

    def under(policy: StopPolicy) -> list[EvalRow]:
        return evaluate_model(setting.backend.under(policy), setting.grader, problems, prompts, sampled)

    tokens = setting.backend.tokens
    scaled = sweep(strengths, lambda s: under(StopPolicy(edit=TemperatureStop(s, tokens, options))), say)
    forced = sweep(
        sorted(map(float, set(budgets))),
        lambda cap: under(StopPolicy(rule=BudgetForcing(tokens.end, elicitor, int(cap)))),
        say,
        "budget",
    )
    base = scaled[strengths[0]]
    points = [point(strength, base, rows) for strength, rows in scaled.items()]
    # The unchanged model is the largest budget, so that the other curve reaches that far.
    other = [*forced.values(), base] if forced else []
    return {
        "problems": len(problems),
        "sampling": asdict(sampled),
        "strengths": [p.figures() for p in points],
        "budgets": [point(cap, base, rows).figures() for cap, rows in forced.items()],
        "advantage_at_equal_tokens": {
            f"{s:g}": advantage(rows, other) for s, rows in scaled.items() if other and s != 1
        },
        "chosen": choose(points).figures(),
    }


@dataclass(frozen=True)
class Levels:
    """What is to be guaranteed: risk, confidence (None = on average), loss, a floor, on which levels, under which shift."""

    risk: float
    confidence: float | None
    loss: str
    floor: float = MIN_THRESHOLD
    difficulty: tuple[int, ...] = ()
    shift: float = 1.0


def certify_from(setting: Setting, folder: Path, levels: Levels, say: Say, seed: int = 1) -> Certificate:
    """Sample traces of the recipe's eval problems, certify a threshold on them, and write it beside the probe.

    Raises:
        RecipeError: for a probe of another model, problems used before, or too few of them.
    """
    probe, card = setting.open_probe(folder)
    problems = setting.eval_problems(levels.difficulty)
    # Its refusals, before anything is sampled.
    certify([float("-inf")] * len(problems), levels.risk, levels.confidence, shift=levels.shift)
    rule = ProbeExit(probe, card.layers, card.cues, card.elicitor, math.inf)
    setting.under(StopPolicy(rule=rule))
    check_disjoint(problems, card.problems, "used to fit the probe")
    if setting.recipe.data is not None:
        trained = [problem.id for problem in setting.problems(setting.recipe.data)]
        check_disjoint(problems, trained, "training problems of the recipe")
    traces, scores = _scored(setting, folder, (probe, card), problems, seed, say)
    numbers = bad_scores(traces, scores, levels.loss)
    guarantee = certify(
        numbers,
        levels.risk,
        levels.confidence,
        floor=levels.floor,
        loss=levels.loss,
        shift=levels.shift,
    )
    flat = [score for row in scores for score in row]
    right = [flag for trace in traces for flag in trace.exits_right]
    figures: dict[str, Any] = {
        "data_sha256": digest(problems),
        "bad_scores": sorted((number for number in numbers if number > float("-inf")), reverse=True),
        "on_calibration_problems": replay(traces, scores, guarantee.threshold, levels.loss).figures(),
        "per_cue": _per_cue(flat, right, levels.risk),
        "target": card.target,
        "reliability": reliability(flat, [good for t in traces for good in t.labels(card.target)]) if flat else [],
        "risk_coverage": risk_coverage(traces, scores, loss=levels.loss),
        "exits_by_level": _by_level(traces, scores, guarantee.threshold, levels.loss),
    }
    if setting.recipe.rollout.engine == "vllm":
        from reason_rl.stopping.drift import check_drift

        figures["engine_drift"] = check_drift(setting, rule, setting.prompts(problems))
    ids = tuple(problem.id for problem in problems)
    certificate = Certificate(guarantee, setting.conditions(probe, card), ids, figures, population(problems))
    save_certificate(folder, certificate)
    return certificate


@dataclass(frozen=True)
class CertifiedExit:
    """A policy that exits by a probe, its threshold, and whether the guarantee holds here.

    ``warnings`` say why it does not although the conditions are those of the certificate: problems that do not come like
    the calibration problems.
    """

    policy: StopPolicy
    threshold: float
    certified: bool
    warnings: tuple[str, ...] = ()


def load_exit(
    setting: Setting, folder: Path, threshold: float | None = None, *, allow_uncertified: bool = False
) -> CertifiedExit:
    """Return the policy of a certified probe; a threshold of one's own may only be stricter.

    Raises:
        RecipeError: for a probe of another model, and, unless allowed, under other conditions or below the certified
            threshold.
    """
    probe, card = setting.open_probe(folder)
    certificate = load_certificate(folder)
    lowest, certified = certificate.threshold_for(setting.conditions(probe, card), allow_uncertified=allow_uncertified)
    value = lowest if threshold is None else threshold
    if value < lowest:
        if not allow_uncertified:
            raise RecipeError(f"threshold {value:g} is below the certified {lowest:g}: nothing is guaranteed there")
        certified = False
    # States are scored where the model computes them.
    here = probe.to(setting.backend.model.device)
    rule = ProbeExit(here, card.layers, card.cues, card.elicitor, value)
    used = (*card.problems, *certificate.problems)
    warnings = not_exchangeable(setting.eval_problems(), certificate.population, used) if certified else []
    return CertifiedExit(StopPolicy(rule=rule), value, certified and not warnings, tuple(warnings))


def evaluate_exit(setting: Setting, chosen: CertifiedExit, out: Path, say: Say) -> list[EvalRow]:
    """Evaluate the recipe's eval problems with exits and write rows that ``reason-rl compare`` reads."""
    problems = setting.eval_problems()
    sampled = EvalOptions(**setting.sampling.model_dump(include={field.name for field in fields(EvalOptions)}))
    rows = evaluate_model(
        setting.under(chosen.policy),
        setting.grader,
        problems,
        setting.prompts(problems),
        sampled,
        in_tenths(say, "completions decoded"),
    )
    recipe = setting.recipe
    ends = {"stop": "probe", "threshold": chosen.threshold, "certified": chosen.certified}
    write_rows(out, make_header(recipe, recipe.model.path, problems, recipe.rollout.engine, **ends), rows)
    return rows


def check(
    setting: Setting, folder: Path, risks: Sequence[float], difficulty: Sequence[int], say: Say, seed: int = 2
) -> dict[str, Any]:
    """Sample traces of the recipe's eval problems and tell what certified thresholds do to them.

    Under other conditions, or on problems of another kind, nothing is promised: this shows what happens then.

    Args:
        setting: the opened recipe; its sampling may differ from the certificate's.
        folder: of probe and certificate.
        risks: levels, each certified from the same calibration problems.
        difficulty: only problems of these levels; none = all.
        say: told the progress.
        seed: of the traces.

    Raises:
        RecipeError: for a probe of another model, problems it was fitted or calibrated on, or a level that is none.
    """
    probe, card = setting.open_probe(folder)
    certificate = load_certificate(folder)
    thresholds = [max(certificate.threshold_at(risk), MIN_THRESHOLD) for risk in risks]
    problems = setting.eval_problems(difficulty)
    check_disjoint(problems, card.problems, "used to fit the probe")
    check_disjoint(problems, certificate.problems, "used to calibrate it")
    traces, scores = _scored(setting, folder, (probe, card), problems, seed, say)
    guarantee = certificate.guarantee
    table = offers(traces, scores, guarantee.loss)
    rows = []
    for risk, threshold in zip(risks, thresholds, strict=True):
        # Infinity, where the calibration problems are too few for any exit, is no JSON.
        given = threshold if math.isfinite(threshold) else None
        rows.append({"risk": risk, "threshold": given, **replay_offers(table, threshold).figures()})
    return {
        "traces": len(traces),
        "levels": sorted({trace.level for trace in traces if trace.level is not None}),
        "other_conditions": certificate.conditions.differences(setting.conditions(probe, card)),
        "other_problems": not_exchangeable(problems, certificate.population, ()),
        "risks": rows,
        "loss": guarantee.loss,
        "certified_risk": guarantee.risk,
        "risk_coverage": risk_coverage(traces, scores, loss=guarantee.loss),
        "by_level": _by_level(traces, scores, guarantee.threshold, guarantee.loss),
    }


def validate(
    setting: Setting, folder: Path, risks: Sequence[float], confidence: float, splits: int, say: Say, seed: int = 1
) -> list[dict[str, Any]]:
    """Sample traces of the recipe's eval problems and count how often thresholds certified on a half fail on the rest.

    Raises:
        RecipeError: for a probe of another model, problems it was fitted on, or too few of them.
    """
    probe, card = setting.open_probe(folder)
    problems = setting.eval_problems()
    for risk in risks:
        calibration_size(len(problems), risk, confidence)
    check_disjoint(problems, card.problems, "used to fit the probe")
    traces, scores = _scored(setting, folder, (probe, card), problems, seed, say)
    rows = []
    for risk in risks:
        for name, per_cue in (("per trace", False), ("per cue", True)):
            outcome = over_splits(traces, scores, risk, confidence, per_cue=per_cue, splits=splits)
            rows.append({"rule": name, "traces": len(traces), "splits": splits, **asdict(outcome)})
            rows[-1]["exceeded"] = outcome.exceeded._asdict()
    return rows


def sample_traces(
    setting: Setting,
    problems: Sequence[Problem],
    recorder: Recorder,
    seed: int,
    say: Say,
    on_samples: Callable[[Sequence[Sample]], None] | None = None,
) -> list[Trace]:
    """Return a trace of each problem, sampled as the recipe's evaluation says, with every exit tried."""
    sampling = setting.sampling
    return collect(
        setting.backend,
        setting.grader,
        problems,
        setting.prompts(problems),
        recorder,
        SamplingOptions(sampling.temperature, sampling.top_p, sampling.top_k),
        sampling.max_tokens,
        seed,
        in_tenths(say, "traces sampled"),
        in_tenths(say, "traces with all exits tried"),
        setting.sampler,
        on_samples,
    )


def _scored(
    setting: Setting, folder: Path, made: tuple[Probe, ProbeCard], problems: Sequence[Problem], seed: int, say: Say
) -> tuple[list[Trace], Scores]:
    """Return traces of the problems with the probe's scores: those kept beside the probe, or new ones, which are kept."""
    probe, card = made
    every = setting.eval_problems()
    path, of_all = (
        traces_path(folder, setting.conditions(probe, card), card.layers, some, seed) for some in (problems, every)
    )
    # With eval.limit there may be problems of a level that are not among the first of all levels.
    among = {problem.id for problem in problems} <= {problem.id for problem in every}
    for kept in (path, of_all) if among else (path,):
        if kept.is_file():
            say(f"traces from {kept}")
            return _only(problems, *load_traces(kept))
    traces = sample_traces(setting, problems, Recorder(card.cues, card.elicitor, card.layers), seed, say)
    scores = score_traces(probe, traces)
    save_traces(path, traces, scores)
    return traces, scores


def _only(problems: Sequence[Problem], traces: Sequence[Trace], scores: Scores) -> tuple[list[Trace], Scores]:
    """Return the traces of these problems."""
    wanted = {problem.id for problem in problems}
    chosen = [i for i, trace in enumerate(traces) if trace.problem_id in wanted]
    return [traces[i] for i in chosen], [scores[i] for i in chosen]


def in_tenths(say: Say, what: str) -> Callable[[int, int], None]:
    """Return a progress callback that speaks up at each tenth."""
    told = -1

    def report(done: int, total: int) -> None:
        nonlocal told
        if 10 * done // total > told:
            told = 10 * done // total
            say(f"{done} of {total} {what}")

    return report


def _per_cue(scores: Sequence[float], right: Sequence[bool], miss: float) -> dict[str, Any]:
    """Return LYNX's rule at the same number, for comparison, or why there is none."""
    try:
        rule = cue_threshold(scores, right, miss)
    except RecipeError as error:
        return {"refused": str(error)}
    return {"threshold": rule.threshold, "statement": rule.statement()}


def _by_level(
    traces: Sequence[Trace], scores: Sequence[Sequence[float]], threshold: float, loss: str
) -> dict[str, Any]:
    levels = sorted({trace.level for trace in traces if trace.level is not None})
    outcome = {}
    for level in levels:
        inside = [i for i, trace in enumerate(traces) if trace.level == level]
        result = replay([traces[i] for i in inside], [scores[i] for i in inside], threshold, loss)
        outcome[str(level)] = {
            "traces": len(inside),
            "exits": result.exits.share,
            "bad": result.bad.share,
            "help": result.help.share,
            "saved": result.saved,
        }
    return outcome
