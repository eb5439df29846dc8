"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import enum
import json
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from reason_rl.attention.commands import register as register_attention
from reason_rl.bench.commands import bench_app, register_arena
from reason_rl.errors import ReasonRLError, RecipeError
from reason_rl.live_line import live_line
from reason_rl.merge.commands import register as register_merge
from reason_rl.models import Dtype
from reason_rl.serve.commands import register as register_serve
from reason_rl.stopping.commands import probe_app, stop_app
from reason_rl.terminal import AsJson, Overrides, RecipeName, emit, say

app = typer.Typer(
    help="Reinforcement-learning fine-tuning for efficient reasoning: the same answers, far fewer tokens.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
recipes_app = typer.Typer(help="List and copy the recipes that ship.", no_args_is_help=True)
app.add_typer(recipes_app, name="recipes")
app.add_typer(bench_app, name="bench")
app.add_typer(stop_app, name="stop")
app.add_typer(probe_app, name="probe")
register_attention(app)
register_merge(app)
register_serve(app)
register_arena(app)

VERDICTS = {"right": True, "wrong": False, "unverifiable": None}


class Engine(enum.StrEnum):
    """Rollout engines."""

    hf = "hf"
    vllm = "vllm"
    openai = "openai"


Resume = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")]


def load(name: str, overrides: list[str] | None) -> Any:
    """Load and check a recipe."""
    from reason_rl.recipe.load import load_recipe

    return load_recipe(name, overrides or [])


def smoked(loaded: Any, resume: bool) -> Any:
    """Return the smoke run of a recipe; the folder of an earlier one is deleted."""
    import os
    from dataclasses import replace

    from reason_rl.recipe.smoke import drop_last_smoke, smoke

    recipe = smoke(loaded.recipe)
    if not resume and int(os.environ.get("RANK", "0")) == 0:
        drop_last_smoke(Path(recipe.output))
    return replace(loaded, recipe=recipe)


def open_run(loaded: Any, resume: bool) -> Any:
    """Return the run folder of a recipe, prepared, or None when that run is finished."""
    from reason_rl.run_folder import RunFolder

    folder = RunFolder(Path(loaded.recipe.output))
    if folder.finished:
        folder.check_recipe(loaded.resolved())
        say(f"{folder.path} is finished; nothing to do (name another output= to run again)")
        return None
    folder.prepare(loaded.resolved(), resume=resume)
    return folder


@app.command()
def run(recipe: RecipeName, overrides: Overrides = None, resume: Resume = False, as_json: AsJson = False) -> None:
    """Evaluate the start, train, evaluate again, report."""
    from reason_rl.report.tables import level_table, summary_table
    from reason_rl.run_folder import RunFolder

    loaded = load(recipe, overrides)
    folder = open_run(loaded, resume)
    if folder is None:
        done = RunFolder(Path(loaded.recipe.output))
        summary = json.loads(done.summary.read_text()) if done.summary.is_file() else {"finished": True}
    else:
        from reason_rl.pipeline import run as run_recipe

        summary = run_recipe(loaded.recipe, folder, resume=resume, say=say)
    if as_json or "metrics" not in summary:
        emit(summary, True)
        return
    emit(summary, False, summary_table(summary))
    emit(summary, False, level_table(summary))
    say(f"report: {Path(loaded.recipe.output) / 'report.html'}")


@app.command()
def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    resume: Resume = False,
    smoke: Annotated[
        bool,
        typer.Option("--smoke", help="Two steps of a tiny random model of the same architecture, without the hub."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train only; works under accelerate launch -m reason_rl.cli train RECIPE."""
    import os

    from reason_rl.pipeline import check_task, train_to_the_end
    from reason_rl.run_folder import RunFolder

    loaded = smoked(load(recipe, overrides), resume) if smoke else load(recipe, overrides)
    check_task(loaded.recipe, "train")
    folder, first = RunFolder(Path(loaded.recipe.output)), int(os.environ.get("RANK", "0")) == 0
    # A smoke run begins anew, though a process may come here before the first one has deleted the last.
    done = None if smoke and not resume else folder.training()
    if done is not None:
        folder.check_recipe(loaded.resolved())
    elif first:
        folder.prepare(loaded.resolved(), resume=resume)
    if done is None:
        result = train_to_the_end(loaded.recipe, folder, resume=resume, say=say)
        done = {"steps": result.steps, "seconds": result.seconds}
    elif first:
        say(f"{folder.path} is trained; nothing to do (name another output= to train again)")
    if first:
        text = f"trained {done['steps']} steps in {done['seconds']:.0f} s: {folder.model}"
        emit({"model": str(folder.model), **done}, as_json, text)


@app.command()
def prepare(recipe: RecipeName, overrides: Overrides = None, resume: Resume = False, as_json: AsJson = False) -> None:
    """Make what training reads (task dpo: the merged start, the pairs); run and train do it too, with one process."""
    from reason_rl.pipeline import check_task
    from reason_rl.pipeline import prepare as prepare_recipe

    loaded = load(recipe, overrides)
    check_task(loaded.recipe, "prepare")
    folder = open_run(loaded, resume)
    if folder is not None:
        made = prepare_recipe(loaded.recipe, folder, say)
        emit(made, as_json, f"{made['file']}: go on with --resume")


@app.command("eval")
def evaluate(
    what: Annotated[str, typer.Argument(help="A recipe, or one suite or several: gsm8k,math500.", show_default=False)],
    overrides: Overrides = None,
    model: Annotated[
        str | None, typer.Option(help="Folder, hub id or name of the model; for a recipe, a trained model or adapter.")
    ] = None,
    adapter: Annotated[Path | None, typer.Option(help="LoRA adapter to put on the model (suites only).")] = None,
    engine: Annotated[Engine | None, typer.Option(help="Rollout engine (suites only); default: hf.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Completions a problem.")] = None,
    cap: Annotated[int | None, typer.Option(min=1, help="Completion tokens; longer ones count as wrong.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first so many problems only.")] = None,
    stop: Annotated[
        str | None,
        typer.Option(
            help="End thinking by strength:X (engines hf, vllm), budget:TOKENS, no_thinking or probe:FOLDER (engine hf); "
            "a server of reason-rl serve takes strength, budget and probe:RISK."
        ),
    ] = None,
    batch_rows: Annotated[
        int | None, typer.Option(min=1, help="Rows decoded together (suites only); default: 64.")
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Type of the weights (suites only); default: auto, as stored.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint, up to /v1 (engine openai).")] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Requests at a time (engine openai); default: 16.")
    ] = None,
    requests_per_minute: Annotated[
        float | None, typer.Option(min=0.1, help="Pace of requests (engine openai).")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Model whose tokenizer counts what the server does not (engine openai).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the rows go: a file, for several suites a folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on a recipe's eval problems or on suites; an interrupted evaluation goes on where it was."""
    from reason_rl.evaluate.suites import EvalChanges, check_options, evaluate_recipe, evaluate_suites, is_recipe
    from reason_rl.rollout.endpoint import Endpoint

    if (engine is Engine.openai) != (url is not None):
        raise RecipeError("eval: --engine openai and --url belong together; give both or neither")
    remote = {"concurrency": concurrency, "requests-per-minute": requests_per_minute, "tokenizer": tokenizer}
    local = {"adapter": adapter, "engine": engine, "dtype": dtype, "batch-rows": batch_rows}
    check_options(what, url, remote, local)
    endpoint = Endpoint(url, model or "", concurrency or 16, requests_per_minute) if url else None
    engine, batch_rows, dtype = engine or Engine.hf, batch_rows or 64, dtype or "auto"
    changes = EvalChanges(samples, cap, limit, engine.value, batch_rows, endpoint, tokenizer, stop, dtype)
    if is_recipe(what):
        results = {what: evaluate_recipe(what, overrides or [], Path(model) if model else None, changes, out)}
    elif model is None:
        raise RecipeError("eval: a suite needs --model")
    elif overrides:
        raise RecipeError(f"eval: {overrides[0]}: overrides are for recipes; a suite takes --samples, --cap, --limit")
    else:
        results = evaluate_suites(what.split(","), model, adapter, changes, out, say)
    text = "\n".join(_eval_line(name, summary) for name, summary in results.items())
    emit(results if len(results) > 1 else results.popitem()[1], as_json, text)


def _eval_line(name: str, summary: dict[str, Any]) -> str:
    figures = f"accuracy {summary['accuracy']:.1%}, {summary['completion_tokens']:.1f} completion tokens"
    return f"{name}: {figures}: {summary['rows']}"


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(help="Evaluation (JSONL) of the start model.")],
    runs: Annotated[list[Path], typer.Argument(help="Evaluations of the same problems by others.")],
    allow_different: Annotated[
        bool,
        typer.Option("--allow-different", help="Compare what differs in problems, prompt, cap, sampling or grading."),
    ] = False,
    margin: Annotated[float, typer.Option(min=0.0001, max=1, help="Loss of accuracy that counts as none.")] = 0.01,
    price: Annotated[
        float | None, typer.Option(min=0, help="US dollars a million completion tokens; default: as evaluated.")
    ] = None,
    model_config: Annotated[
        Path | None, typer.Option(help="config.json of the models: adds idealised FLOPs and decoding time.")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=0, help="Prompt tokens for the idealised cost.")] = 200,
    html: Annotated[
        Path | None, typer.Option(help="Write an offline page with pictures and regressions there.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Write each drawing there, as SVG and PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare evaluations (JSONL) of the same problems with that of a start model, paired, with 95 % intervals."""
    from reason_rl.evaluate.comparison import compare_files
    from reason_rl.report.comparison import comparison_table

    result = compare_files(
        base,
        runs,
        allow_different=allow_different,
        margin=margin,
        dollars_per_million_tokens=price,
        model_config=model_config,
        prompt_tokens=prompt_tokens,
    )
    if html is not None or figures is not None:
        from reason_rl.report.comparison_page import write_files

        for file in write_files(result, base, runs, html, figures):
            say(f"written: {file}")
    # With one run the JSON is a run folder's summary.json.
    one = {**result["runs"][0], "pareto": result["pareto"]} if len(runs) == 1 else result
    emit(one, as_json, None if as_json else comparison_table(result))


@app.command()
def report(
    folder: Path,
    figures: Annotated[Path | None, typer.Option(help="Write each drawing there, as SVG and PNG.")] = None,
    push: Annotated[
        str | None,
        typer.Option(help="Hub repository: push the model with a card that holds the results.", metavar="ID"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --push: only write the card.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write report.html of a run folder."""
    from reason_rl.report.page import write_page
    from reason_rl.run_folder import RunFolder

    page = write_page(folder)
    summary = RunFolder(folder).summary
    value: dict[str, Any] = {"report": str(page), **(json.loads(summary.read_text()) if summary.is_file() else {})}
    if figures is not None:
        from reason_rl.report.figure_files import write_figures

        value["figures"] = [str(path) for path in write_figures(page, figures)]
    if push is not None:
        from reason_rl.report.card import publish

        value["card"] = str(publish(RunFolder(folder), push, dry_run=dry_run))
    emit(value, as_json, "\n".join([str(page), *value.get("figures", []), *([value["card"]] if push else [])]))


@app.command()
def export(
    folder: Path,
    output: Path,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the base model.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Merge an adapter into plain weights that AutoModelForCausalLM loads."""
    from reason_rl.export import export as export_model

    emit({"model": str(export_model(folder, output, trust_remote_code))}, as_json, f"{output}")


@app.command()
def validate(recipe: RecipeName, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a recipe without running it."""
    loaded = load(recipe, overrides)
    emit({"valid": True, "recipe": str(loaded.path)}, as_json, f"{loaded.path}: valid")


@app.command()
def show(
    recipe: RecipeName,
    overrides: Overrides = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value was set.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the recipe with extends, overrides and defaults resolved."""
    loaded = load(recipe, overrides)
    origins = {".".join(key): place for key, place in loaded.document.origins.items()}
    if as_json:
        emit({"recipe": loaded.recipe.model_dump(mode="json"), "origins": origins}, True)
    elif origin:
        emit(None, False, "\n".join(f"{key}: {place}" for key, place in sorted(origins.items())))
    else:
        emit(None, False, loaded.resolved().rstrip())


@app.command()
def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes of accelerate launch.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Print rows, updates, tokens and memory, without loading weights."""
    from reason_rl.recipe.plan import plan as make_plan
    from reason_rl.recipe.plan import read_config
    from reason_rl.world import reasoner_path

    loaded = load(recipe, overrides)
    path = loaded.recipe.model.path
    config = read_config(str(reasoner_path()) if path == "tiny-reasoner" else path)
    figures = make_plan(loaded.recipe, config, processes)
    text = "\n".join(f"{name.replace('_', ' ')}: {'unknown' if v is None else v}" for name, v in figures.items())
    emit(figures, as_json, text)


@app.command()
def schema(as_json: AsJson = True) -> None:
    """Print the JSON schema of recipes, for editors."""
    from reason_rl.recipe.schema import Recipe

    value = Recipe.model_json_schema()
    value["properties"]["extends"] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    # Required keys may come from the file that is extended.
    value.pop("required", None)
    emit(value, True)


@app.command()
def difficulty(
    recipe: RecipeName,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option(min=1, help="Completions a problem.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first so many training problems only.")] = None,
    out: Annotated[Path | None, typer.Option(help="The table; default: difficulty.jsonl in the output folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how often the start model solves each training problem; recipes read the table (difficulty.table)."""
    from reason_rl.evaluate.difficulty import measure_difficulty

    loaded = load(recipe, overrides)
    path = out or Path(loaded.recipe.output) / "difficulty.jsonl"
    with live_line("difficulty") as on_progress:
        table = measure_difficulty(loaded.recipe, path, samples=samples, limit=limit, on_progress=on_progress)
    rates = [entry.pass_rate for entry in table.values()]
    figures = {
        "table": str(path),
        "problems": len(rates),
        "pass_rate": sum(rates) / len(rates),
        "never_right": rates.count(0.0),
        "always_right": rates.count(1.0),
    }
    line = (
        f"{len(rates)} problems, {figures['pass_rate']:.1%} right, {rates.count(0.0)} never, {rates.count(1.0)} always"
    )
    emit(figures, as_json, f"{path}: {line}")


@recipes_app.command("ls")
def recipes_ls(as_json: AsJson = False) -> None:
    """List the shipped recipes: method, paper, state and what each is."""
    from dataclasses import asdict

    from reason_rl.recipe.catalogue import catalogue, text

    entries = catalogue()
    emit([asdict(entry) for entry in entries], as_json, text(entries))


@recipes_app.command("cp")
def recipes_cp(name: str, target: Path, as_json: AsJson = False) -> None:
    """Copy a shipped recipe (or a file of rewards/) to edit it; runs of the copy go to outputs/<its name>."""
    from reason_rl.content import find_content, shipped_recipes
    from reason_rl.recipe.catalogue import portable

    source = shipped_recipes().get(name) or find_content(name if Path(name).suffix else f"recipes/{name}.yaml")
    goal = target / source.name if target.is_dir() else target
    if goal.exists():
        raise RecipeError(f"{goal} exists; name another target")
    goal.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".yaml":
        goal.write_text(portable(source, goal), encoding="utf-8")
    else:
        shutil.copyfile(source, goal)
    emit({"copied": str(goal)}, as_json, str(goal))


@app.command()
def grade(
    file: Annotated[Path, typer.Argument(help="JSONL; each row has gold and prediction (a response or an answer).")],
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds a pair.")] = 5.0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core, at most four.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say of each prediction whether it equals its gold answer: the same rows with correct and reason, in order."""
    from reason_rl.answer.grade import grade_file

    rows = grade_file(file, timeout, workers)
    counts = {name: sum(row["correct"] is value for row in rows) for name, value in VERDICTS.items()}
    text = ", ".join(f"{count} {name}" for name, count in counts.items())
    if as_json:
        for row in rows:
            print(json.dumps(row))
    else:
        emit(counts, False, f"{len(rows)} rows: {text}")


def main() -> None:
    """Run the command line; errors of ours are one clear line, exit code 2 for a bad recipe, else 1."""
    try:
        app()
    except ReasonRLError as error:
        lines = str(error).splitlines()
        if "--json" in sys.argv:
            print(json.dumps({"error": lines}))
        for line in lines:
            print(f"error: {line}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, RecipeError) else 1) from None


if __name__ == "__main__":
    main()
