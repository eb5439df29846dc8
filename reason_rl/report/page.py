"""The report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reason_rl.errors import RunError
from reason_rl.evaluate.records import EvalRows, read_rows
from reason_rl.report import tables
from reason_rl.run_folder import RunFolder, write_text

NOTHING = 0.0005  # differences that round to zero are not given a direction


@dataclass(frozen=True)
class RunData:
    """What a run folder holds; None or empty for what is not there."""

    name: str
    summary: dict[str, Any] | None
    history: tuple[dict[str, Any], ...]
    before: EvalRows | None
    after: EvalRows | None
    resolved: str
    environment: dict[str, Any]


def write_page(run_folder: Path) -> Path:
    """Write ``report.html`` of a run folder; parts that are not there are named on the page.

    Raises:
        RunError: when the folder holds nothing of a run, or a file in it cannot be read.
    """
    run = RunFolder(run_folder)
    data = read_run(run)
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("reason_rl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = lambda text: str(text).replace("-", "\N{MINUS SIGN}")
    write_text(run.report, environment.get_template("page.html.j2").render(**context(data)))
    return run.report


def read_run(run: RunFolder) -> RunData:
    """Read all there is.

    Raises:
        RunError: naming the file that is missing altogether or cannot be read.
    """
    before, after = (run.eval / f"{side}.jsonl" for side in ("before", "after"))
    if not any(path.is_file() for path in (run.summary, run.metrics, before, after)):
        raise RunError(f"{run.path}: no summary.json, metrics.jsonl or eval/*.jsonl; is this a run folder?")
    lines = enumerate(_text(run.metrics).splitlines(), start=1)
    return RunData(
        name=run.path.resolve().name,
        summary=_summary(run.summary),
        history=tuple(_json(line, f"{run.metrics}:{number}") for number, line in lines),
        before=read_rows(before) if before.is_file() else None,
        after=read_rows(after) if after.is_file() else None,
        resolved=_text(run.resolved),
        environment=_json(_text(run.path / "environment.json") or "{}", str(run.path / "environment.json")),
    )


def context(data: RunData) -> dict[str, Any]:
    """Return what the template prints."""
    from reason_rl.report import examples, plots

    summary, before, after = data.summary, data.before, data.after
    first, second = (side.rows if side else () for side in (before, after))
    cap = max((side.header["max_tokens"] for side in (before, after) if side), default=None)
    mark = end_think_token(data.resolved)
    pairs = [
        (pair, [(side, examples.parts(side.completion, mark)) for side in (pair.before, pair.after)])
        for pair in examples.choose(first, second)
    ]
    return {
        "data": data,
        "recipe": recipe_name(data.environment),
        "command": command(data.environment),
        "tables": tables,
        "headline": headline(summary) if summary else None,
        "verdict": verdict(summary) if summary else None,
        "sides": {name: describe(side) for name, side in (("before", before), ("after", after)) if side and side.rows},
        "tradeoff": plots.accuracy_against_tokens(summary) if summary else None,
        "histogram": plots.length_histogram(first, second, cap) if first or second else None,
        "curves": plots.learning_curves(data.history),
        "pairs": pairs,
        "rule": examples.RULE,
    }


def headline(summary: Mapping[str, Any]) -> str:
    """Say the result in one sentence.

    >>> estimates = {"accuracy": {"difference": {"mean": -0.0125}}}
    >>> headline({"token_cut": {"mean": 0.556}, "metrics": estimates})
    '56\xa0% fewer tokens, accuracy down 1.2\xa0points'
    """
    saved, gain = summary["token_cut"]["mean"], summary["metrics"]["accuracy"]["difference"]["mean"]
    tokens = "as many tokens as before"
    if saved is not None and abs(saved) >= 0.005:
        tokens = f"{abs(saved) * 100:.0f}\xa0% {'fewer' if saved > 0 else 'more'} tokens"
    accuracy = "the same accuracy"
    if abs(gain) >= NOTHING:
        accuracy = f"accuracy {'up' if gain > 0 else 'down'} {abs(gain) * 100:.1f}\xa0points"
    return f"{tokens[0].upper()}{tokens[1:]}, {accuracy}"


def verdict(summary: Mapping[str, Any]) -> str:
    """Say whether accuracy held, by the interval and the margin."""
    difference = summary["metrics"]["accuracy"]["difference"]
    if difference["low"] is None:
        return "One problem gives no interval."
    margin = f"{abs(summary['accuracy_margin']) * 100:g} point"
    interval = tables.parts("accuracy", difference, signed=True).interval
    if summary["accuracy_held"]:
        meaning = f"lies above -{margin}, so accuracy held"
    elif difference["high"] < 0:
        meaning = "lies below zero, so accuracy fell"
    else:
        meaning = f"reaches below -{margin}, so a loss cannot be ruled out"
    return f"The 95 % interval of the accuracy difference, {interval} points, {meaning}."


def describe(side: EvalRows) -> dict[str, str]:
    """Return one evaluation in words, for a page without a comparison."""
    from reason_rl.evaluate.metrics import summarise

    facts, sampled = summarise(side.rows), side.header
    text = (
        f"accuracy {facts['accuracy'] * 100:.1f}\xa0%, {facts['completion_tokens']:.1f} completion tokens "
        f"(median {facts['median_completion_tokens']:g}), {facts['share_cut'] * 100:.1f}\xa0% cut at "
        f"{sampled['max_tokens']:,} tokens; {facts['samples']:,} completions, temperature {sampled['temperature']:g}"
    )
    return {"model": str(sampled["model"]), "text": text}


def recipe_name(environment: Mapping[str, Any]) -> str:
    """Return the recipe that the command line named, "" when it named none.

    >>> recipe_name({"command": ["/bin/reason-rl", "bench", "seeds", "tiny/dler", "--out", "x"]})
    'tiny/dler'
    """
    words = [str(word) for word in environment.get("command", [])[1:]]
    while words and words[0] in {"run", "train", "bench", "seeds"}:
        words.pop(0)
    return words[0] if words and not words[0].startswith("-") else ""


def command(environment: Mapping[str, Any]) -> str:
    """Return the command line as one would type it."""
    words = [str(word) for word in environment.get("command", [])]
    return shlex.join([Path(words[0]).name, *words[1:]]) if words else ""


def end_think_token(resolved: str) -> str | None:
    """Return the end-of-think token that the resolved recipe names."""
    from ruamel.yaml import YAML

    recipe = YAML(typ="safe").load(resolved) if resolved else None
    return (recipe or {}).get("model", {}).get("end_think_token")


def _summary(path: Path) -> dict[str, Any] | None:
    summary = _json(_text(path) or "null", str(path))
    if summary is not None and not {"metrics", "levels", "token_cut", "accuracy_margin"} <= summary.keys():
        raise RunError(
            f"{path}: not a summary of this version; write it anew with reason-rl compare eval/before.jsonl "
            "eval/after.jsonl --json > summary.json"
        )
    return summary


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RunError(f"{where}: not JSON ({error})") from error
