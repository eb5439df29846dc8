"""``reason-rl stop`` and ``reason-rl probe``; torch is imported inside a command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from reason_rl.errors import RecipeError
from reason_rl.terminal import AsJson, Overrides, RecipeName

stop_app = typer.Typer(help="Temperature-scaled stopping of thinking.", no_args_is_help=True)
probe_app = typer.Typer(help="Early exits by a probe, with a guarantee.", no_args_is_help=True)

Model = Annotated[Path | None, typer.Option(help="A trained model or adapter; default: the recipe's model.")]
ElicitorText = Annotated[
    str | None, typer.Option("--elicitor", help="What an exit writes; default: end-of-think token and \\boxed{.")
]
AnswerTokens = Annotated[int, typer.Option(min=1, help="Answer tokens after an exit at most.")]


@stop_app.callback()
def stop() -> None:
    """Keep ``calibrate`` a command of its own although it is the only one."""


@stop_app.command("calibrate")
def stop_calibrate(
    recipe: RecipeName,
    overrides: Overrides = None,
    model: Model = None,
    out: Annotated[Path | None, typer.Option(help="Where the figures and the page go.")] = None,
    strength: Annotated[list[float] | None, typer.Option(help="Strengths to try; repeat the option.")] = None,
    budget: Annotated[list[int] | None, typer.Option(help="Think tokens of budget forcing, to compare with.")] = None,
    mode: Annotated[str, typer.Option(help="logprob, bias or logit.")] = "logprob",
    gate: Annotated[int, typer.Option(min=0, help="Scale only among so many likeliest tokens; 0 = everywhere.")] = 5,
    elicitor: ElicitorText = None,
    answer_tokens: AnswerTokens = 64,
    as_json: AsJson = False,
) -> None:
    """Sweep stopping strengths on the recipe's eval problems and choose the cheapest that keeps accuracy."""
    from reason_rl.recipe.load import load_recipe
    from reason_rl.stopping.page import strength_page, write_page
    from reason_rl.stopping.setting import make_elicitor, open_setting
    from reason_rl.stopping.strength import STRENGTHS, check_strengths
    from reason_rl.stopping.temperature import StopOptions
    from reason_rl.stopping.workflow import calibrate_strength

    if mode not in ("logprob", "bias", "logit"):
        raise RecipeError(f"--mode {mode}: logprob, bias or logit")
    strengths = check_strengths(strength or STRENGTHS)
    options = StopOptions(mode, gate or None)  # type: ignore[arg-type]
    loaded = load_recipe(recipe, overrides or [])
    with open_setting(loaded.recipe, model) as setting:
        ends = make_elicitor(setting, elicitor, answer_tokens)
        result = calibrate_strength(setting, strengths, options, budget or [], ends, _say)
    folder = out or Path(loaded.recipe.output) / "stopping"
    _write(folder / "strength.json", result)
    write_page(folder / "strength.html", strength_page(result))
    chosen = result["chosen"]
    text = (
        f"strength {chosen['setting']:g}: accuracy {chosen['accuracy']:.1%}, {chosen['tokens']:.1f} completion tokens; "
        f"{folder / 'strength.html'}"
    )
    _emit(result, as_json, text)


@probe_app.command("fit")
def probe_fit(
    recipe: RecipeName,
    overrides: Overrides = None,
    model: Model = None,
    out: Annotated[Path | None, typer.Option(help="Where the probe goes.")] = None,
    problems: Annotated[int, typer.Option(min=2, help="Problems of the recipe's data, one trace each.")] = 1000,
    cue: Annotated[list[str] | None, typer.Option(help="Cue words; repeat. Default: wait, none with --every.")] = None,
    every: Annotated[int | None, typer.Option(min=1, help="A cue every so many think tokens.")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="Layers to read; default: the last, after the norm.")] = None,
    kind: Annotated[str, typer.Option(help="logistic or mlp.")] = "logistic",
    target: Annotated[
        str, typer.Option(help="safe: spoils no right answer; right: is right; same: as the trace's.")
    ] = "safe",
    elicitor: ElicitorText = None,
    answer_tokens: AnswerTokens = 64,
    seed: Annotated[int, typer.Option(help="Seed of traces, split and weights.")] = 42,
    as_json: AsJson = False,
) -> None:
    """Fit a probe that tells at cue points whether an exit would give the right answer."""
    from reason_rl.recipe.load import load_recipe
    from reason_rl.stopping.fit import FitOptions
    from reason_rl.stopping.page import write_page
    from reason_rl.stopping.probe_fit import ProbePlan, fit_from
    from reason_rl.stopping.probe_page import probe_page
    from reason_rl.stopping.setting import ENGINES, make_elicitor, open_setting

    if kind not in ("logistic", "mlp"):
        raise RecipeError(f"--kind {kind}: logistic or mlp")
    if target not in ("safe", "right", "same"):
        raise RecipeError(f"--target {target}: safe, right or same")
    loaded = load_recipe(recipe, overrides or [])
    folder = out or Path(loaded.recipe.output) / "probe"
    with open_setting(loaded.recipe, model, ENGINES) as setting:
        ends = make_elicitor(setting, elicitor, answer_tokens)
        words = tuple(cue) if cue else (() if every else ("wait",))
        plan = ProbePlan(words, every, tuple(layer or ()), ends, target)  # type: ignore[arg-type]
        fit, figures = fit_from(setting, plan, FitOptions(kind=kind, seed=seed), problems, folder, _say)  # type: ignore[arg-type]
    write_page(folder / "probe.html", probe_page(figures, target))
    result = {
        "probe": str(folder),
        "auc": fit.auc,
        "accuracy": fit.accuracy,
        "base_rate": fit.base_rate,
        "cues": fit.cues,
    }
    text = (
        f"AUC {fit.auc:.3f} on {len(fit.held_out)} held-out problems ({fit.base_rate:.0%} of exits {target}): {folder}"
    )
    _emit(result, as_json, text)


@probe_app.command("calibrate")
def probe_calibrate(
    recipe: RecipeName,
    probe: Annotated[Path, typer.Argument(help="The folder that probe fit wrote.")],
    overrides: Overrides = None,
    model: Model = None,
    risk: Annotated[float, typer.Option(help="Share of traces that exits may spoil.")] = 0.02,
    confidence: Annotated[float, typer.Option(help="Over the draw of the calibration problems.")] = 0.9,
    average: Annotated[bool, typer.Option("--average", help="Bound the risk on average instead.")] = False,
    loss: Annotated[str, typer.Option(help="harm: right answers lost; disagreement: other answers.")] = "harm",
    floor: Annotated[float, typer.Option(help="Lowest threshold.")] = 0.5,
    shift: Annotated[
        float, typer.Option(help="Hold also where some kind of trace is up to so many times as common as here.")
    ] = 1.0,
    level: Annotated[list[int] | None, typer.Option(help="Only problems of this level; repeat the option.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the calibration traces.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Certify an exit threshold on the recipe's eval problems and say exactly what is guaranteed."""
    from reason_rl.recipe.load import load_recipe
    from reason_rl.stopping.page import write_page
    from reason_rl.stopping.probe_page import certificate_page
    from reason_rl.stopping.setting import ENGINES, open_setting
    from reason_rl.stopping.workflow import Levels, certify_from

    if loss not in ("harm", "disagreement"):
        raise RecipeError(f"--loss {loss}: harm or disagreement")
    loaded = load_recipe(recipe, overrides or [])
    levels = Levels(risk, None if average else confidence, loss, floor, tuple(level or ()), shift)
    with open_setting(loaded.recipe, model, ENGINES) as setting:
        certificate = certify_from(setting, probe, levels, _say, seed)
    write_page(probe / "certificate.html", certificate_page(certificate))
    outcome = certificate.figures["on_calibration_problems"]
    lines = [
        f"threshold {certificate.guarantee.threshold:.4f}",
        certificate.guarantee.statement(),
        f"On the calibration problems themselves: {outcome['exits']['share']:.1%} exit, {outcome['saved']:.1%} fewer "
        f"completion tokens, {outcome['bad']['share']:.1%} went bad, {outcome['help']['share']:.1%} put right.",
    ]
    result = {"threshold": certificate.guarantee.threshold, "statement": lines[1], **certificate.figures}
    _emit(result, as_json, "\n".join(lines))


@probe_app.command("validity")
def probe_validity(
    recipe: RecipeName,
    probe: Annotated[Path, typer.Argument(help="The folder that probe fit wrote.")],
    overrides: Overrides = None,
    model: Model = None,
    risk: Annotated[
        list[float] | None, typer.Option(help="Levels; repeat the option. Default: .01, .05, .1 and .2.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Over the draw of the calibration problems.")] = 0.9,
    splits: Annotated[int, typer.Option(min=1, help="Random halves.")] = 200,
    out: Annotated[Path | None, typer.Option(help="Where the figures go, as JSON.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the traces; those of probe calibrate are used again.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Count over random halves of the recipe's eval problems how often a certified threshold fails on the other half."""
    from reason_rl.recipe.load import load_recipe
    from reason_rl.stopping.setting import ENGINES, open_setting
    from reason_rl.stopping.workflow import validate

    loaded = load_recipe(recipe, overrides or [])
    with open_setting(loaded.recipe, model, ENGINES) as setting:
        rows = validate(setting, probe, risk or [0.01, 0.05, 0.1, 0.2], confidence, splits, _say, seed)
    if out is not None:
        _write(out, rows)
    lines = [
        f"{row['rule']}, risk {row['risk']:g}: above it in {row['exceeded']['share']:.1%} of {splits} splits"
        + (f" (promised: at most {row['promised']:.0%})" if row["promised"] is not None else " (nothing promised)")
        + f", mean risk {row['mean_risk']:.3f}, {row['mean_saved']:.1%} fewer tokens"
        for row in rows
    ]
    _emit(rows, as_json, "\n".join(lines))


@probe_app.command("check")
def probe_check(
    recipe: RecipeName,
    probe: Annotated[Path, typer.Argument(help="The folder with probe and certificate.")],
    overrides: Overrides = None,
    model: Model = None,
    risk: Annotated[list[float] | None, typer.Option(help="Levels; repeat. Default: .01, .05, .1 and .2.")] = None,
    level: Annotated[list[int] | None, typer.Option(help="Only problems of this level; repeat the option.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the figures go, as JSON.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what certified thresholds do to the recipe's eval problems, also where nothing is promised for those."""
    from reason_rl.recipe.load import load_recipe
    from reason_rl.stopping.page import write_page
    from reason_rl.stopping.probe_page import check_page
    from reason_rl.stopping.setting import ENGINES, open_setting
    from reason_rl.stopping.workflow import check

    loaded = load_recipe(recipe, overrides or [])
    with open_setting(loaded.recipe, model, ENGINES) as setting:
        result = check(setting, probe, risk or [0.01, 0.05, 0.1, 0.2], level or [], _say)
    if out is not None:
        _write(out, result)
    write_page(out.with_suffix(".html") if out else probe / "check.html", check_page(result))
    other = result["other_conditions"]
    lines = [f"NOT certified here: another {', '.join(other)}"] if other else []
    lines += [f"NOT certified here: {reason}" for reason in result["other_problems"]]
    lines += [
        f"risk {row['risk']:g}: {row['bad']['share']:.1%} [{row['bad']['low']:.1%}, {row['bad']['high']:.1%}] went bad, "
        f"{row['exits']['share']:.1%} exit, {row['saved']:.1%} fewer completion tokens"
        for row in result["risks"]
    ]
    _emit(result, as_json, "\n".join(lines))


@probe_app.command("compare")
def probe_compare(
    recipe: RecipeName,
    probe: Annotated[Path, typer.Argument(help="The folder with probe and certificate.")],
    out: Annotated[Path, typer.Option(help="Where the figures go; runs found beside it are not repeated.")],
    overrides: Overrides = None,
    model: Model = None,
    word: Annotated[str, typer.Option(help="The reconsidering word of DEER and patience.")] = "wait",
    hint: Annotated[str, typer.Option(help="ConciseHint's hint.")] = "yes",
    learn_from: Annotated[
        int, typer.Option(min=0, help="Training problems for DiffAdapt and steering; 0 = neither.")
    ] = 150,
    as_json: AsJson = False,
) -> None:
    """Compare all stopping rules on the recipe's eval problems: accuracy, net tokens, savings at matched accuracy."""
    from reason_rl.recipe.load import load_recipe
    from reason_rl.stopping.page import comparison_page, write_page
    from reason_rl.stopping.setting import open_setting
    from reason_rl.stopping.side_by_side import make_kit, run_comparison

    loaded = load_recipe(recipe, overrides or [])
    with open_setting(loaded.recipe, model) as setting:
        result = run_comparison(make_kit(setting, probe, word, hint, learn_from), out, _say)
    write_page(out.with_suffix(".html"), comparison_page(result))
    lines = [
        f"{' '.join((row['rule'], row['setting']))}: accuracy {row['accuracy']:.1%}, {row['net_tokens']:.1f} net tokens, "
        f"{row['net_saved']['mean']:.1%} saved"
        for row in result["runs"]
    ]
    lines += ["", "net tokens saved where a rule is one point less accurate:"]
    lines += [f"{rule}: {_saved(value)}" for rule, value in result["saved_at_one_point_less"].items()]
    _emit(result, as_json, "\n".join(lines))


@probe_app.command("eval")
def probe_eval(
    recipe: RecipeName,
    probe: Annotated[Path, typer.Argument(help="The folder with probe and certificate.")],
    overrides: Overrides = None,
    model: Model = None,
    out: Annotated[Path | None, typer.Option(help="Where the rows go.")] = None,
    threshold: Annotated[float | None, typer.Option(help="A stricter threshold than the certified one.")] = None,
    uncertified: Annotated[bool, typer.Option("--uncertified", help="Go on where no guarantee holds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate the recipe's eval problems with early exits; compare the rows with those of reason-rl eval."""
    from reason_rl.evaluate.metrics import summarise
    from reason_rl.recipe.load import load_recipe
    from reason_rl.stopping.setting import ENGINES, open_setting
    from reason_rl.stopping.workflow import evaluate_exit, load_exit

    loaded = load_recipe(recipe, overrides or [])
    target = out or Path(loaded.recipe.output) / "eval" / "exits.jsonl"
    with open_setting(loaded.recipe, model, ENGINES) as setting:
        chosen = load_exit(setting, probe, threshold, allow_uncertified=uncertified)
        for warning in chosen.warnings:
            _say(f"NOT certified here: {warning}")
        rows = evaluate_exit(setting, chosen, target, _say)
    exits = sum(row.finish_reason == "exit" for row in rows) / len(rows)
    summary = summarise(rows)
    state = "certified" if chosen.certified else "NOT certified"
    text = (
        f"accuracy {summary['accuracy']:.1%}, {summary['completion_tokens']:.1f} completion tokens, {exits:.1%} exits at "
        f"threshold {chosen.threshold:.4f} ({state}): {target}"
    )
    value = {
        "rows": str(target),
        "exits": exits,
        "threshold": chosen.threshold,
        "certified": chosen.certified,
        "warnings": list(chosen.warnings),
        **summary,
    }
    _emit(value, as_json, text)


def _emit(value: Any, as_json: bool, text: str) -> None:
    print(json.dumps(value, indent=2) if as_json else text)


def _saved(value: dict[str, float | None]) -> str:
    if value["mean"] is None:
        return "does not get there"
    ends = ["-" if value[name] is None else f"{value[name]:.1%}" for name in ("low", "high")]
    return f"{value['mean']:.1%} [{', '.join(ends)}]"


def _say(line: str) -> None:
    print(f"reason-rl: {line}", file=sys.stderr, flush=True)


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
