"""``reason-rl bench``: comparisons measured in one run; torch is imported inside a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from reason_rl.terminal import AsJson, RecipeName, Workers, emit, say

bench_app = typer.Typer(help="Comparisons measured in one run.", no_args_is_help=True)


def register_arena(app: typer.Typer) -> None:
    """Add the arena to the command line."""
    app.command()(arena)


@bench_app.command("seeds")
def bench_seeds(
    recipe: RecipeName,
    out: Annotated[Path, typer.Option(help="Results, one JSON line a seed; seeds found there are not repeated.")],
    seeds: Annotated[int, typer.Option(help="Training seeds.")] = 3,
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """Run a recipe with several training seeds."""
    from reason_rl.bench.seeds import over_seeds

    rows = over_seeds(recipe, seeds, out, workers, say)
    emit(rows, as_json, "\n".join(_seed_line(row) for row in rows))


def _seed_line(row: dict[str, Any]) -> str:
    from reason_rl.report.tables import figure

    difference = figure("accuracy", row["metrics"]["accuracy"]["difference"], signed=True)
    return f"seed {row['seed']}: {row['token_cut']['mean']:.1%} fewer tokens, accuracy {difference} points"


SpeedRows = Annotated[int, typer.Option("--rows", min=16, help="Rows of the generation batch.")]
SpeedRepeats = Annotated[int, typer.Option("--repeats", min=1, help="Measured passes; their median counts.")]
OldLogps = Literal["sampled", "recomputed"]
SpeedOut = Annotated[
    Path | None, typer.Option("--out", help="Results, one JSON line each; what is found there is not measured again.")
]


def _speed(
    part: Any, rows: int, repeats: int, out: Path | None, as_json: bool, old_logps: OldLogps = "sampled"
) -> None:
    from reason_rl.bench.jobs import run_jobs
    from reason_rl.bench.speed import SpeedJob, Workload

    job = SpeedJob(part, Workload(rows=rows, repeats=repeats, old_logps=old_logps), say)
    result = job() if out is None else run_jobs([job], out, 1, say)[0]
    ours, stock = (result[side]["tokens_per_second"] for side in ("ours", "stock"))
    line = f"{part}: {result['ratio_vs_trl']:.2f} times stock TRL ({ours:,.0f} against {stock:,.0f} tokens/s)"
    emit(result, as_json, f"{line}, {result['memory_ratio_vs_trl']:.2f} times its peak memory")


@bench_app.command("rollout")
def bench_rollout(
    rows: SpeedRows = 128, repeats: SpeedRepeats = 2, out: SpeedOut = None, as_json: AsJson = False
) -> None:
    """Rollouts of the hf engine against stock TRL's, same weights, prompts and heavy-tailed lengths."""
    _speed("rollout", rows, repeats, out, as_json)


@bench_app.command("update")
def bench_update(
    rows: SpeedRows = 128, repeats: SpeedRepeats = 2, out: SpeedOut = None, as_json: AsJson = False
) -> None:
    """Loss, gradients and optimizer steps against stock TRL's, same batch."""
    _speed("update", rows, repeats, out, as_json)


@bench_app.command("step")
def bench_step(
    rows: SpeedRows = 128,
    repeats: SpeedRepeats = 2,
    out: SpeedOut = None,
    old_logps: Annotated[OldLogps, typer.Option(help="Ours: from the sampler, or computed again.")] = "sampled",
    as_json: AsJson = False,
) -> None:
    """A whole training step on one generation batch against stock TRL's."""
    _speed("step", rows, repeats, out, as_json, old_logps)


@bench_app.command("engines")
def bench_engines(
    out: Annotated[Path, typer.Option(help="Results, one JSON line a pair; pairs found there are not measured again.")],
    rows: SpeedRows = 64,
    repeats: SpeedRepeats = 3,
    as_json: AsJson = False,
) -> None:
    """Tokens a second of the engines hf and vllm at three sizes of model."""
    from reason_rl.bench.engines import compare_engines

    table = compare_engines(out, rows, repeats, say)
    emit(table, as_json, json.dumps(table, indent=2))


@bench_app.command("lag")
def bench_lag(
    out: Annotated[Path, typer.Option(help="Results, one JSON line a run; runs found there are not repeated.")],
    seed: Annotated[list[int] | None, typer.Option(help="Training seeds; 0, 1 and 2 when left out.")] = None,
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """DLER with rollouts one step ahead of the update against DLER in step: accuracy and tokens after training."""
    from reason_rl.bench.lag import compare_lag

    table = compare_lag(out, seed or [0, 1, 2], workers, say)
    emit(table, as_json, json.dumps(table, indent=2))


@bench_app.command("goal")
def bench_goal(
    out: Annotated[Path, typer.Option(help="Results of bench stock, one JSON line a run; missing runs are made.")],
    seeds: Annotated[int, typer.Option(help="Training seeds.")] = 3,
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """Training seconds until half the tokens, our DLER against stock TRL with its best length reward."""
    from reason_rl.bench.stock import stock_comparison, time_to_goal

    result = time_to_goal(stock_comparison(out, seeds, workers, say))
    emit(result, as_json, json.dumps(result, indent=2))


@bench_app.command("grader")
def bench_grader(
    cases: Annotated[Path, typer.Argument(help="JSONL with gold, prediction and expected_equivalent.")],
    out: Annotated[Path, typer.Option(help="Where the agreement goes, as JSON.")],
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds a pair.")] = 5.0,
    arguments: Annotated[Path | None, typer.Option(help="JSON of case id and why the verdict stands.")] = None,
    workers: Workers = 2,
    as_json: AsJson = False,
) -> None:
    """Agreement of the grader, and of bare math-verify, with labelled cases."""
    from reason_rl.bench.grader import agreement
    from reason_rl.run_folder import write_text

    said = json.loads(arguments.read_text(encoding="utf-8")) if arguments else None
    result = agreement(cases, timeout, workers, said)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    bare = result["bare_math_verify"]
    emit(
        result,
        as_json,
        f"{result['agreement']:.1%} of {result['cases']} cases; bare math-verify {bare['agreement']:.1%}",
    )


@bench_app.command("probe")
def bench_probe(
    recipe: RecipeName,
    probe: Annotated[Path, typer.Argument(help="The folder that probe fit wrote.")],
    out: Annotated[Path | None, typer.Option(help="Where the figures go, as JSON.")] = None,
    engine: Annotated[str, typer.Option(help="hf or vllm.")] = "hf",
    rows: Annotated[int, typer.Option(min=1, help="Completions decoded together.")] = 64,
    repeats: SpeedRepeats = 5,
    as_json: AsJson = False,
) -> None:
    """What an exit probe adds to a decoded token, as a ratio of one run."""
    from reason_rl.bench.probe import probe_overhead
    from reason_rl.recipe.load import load_recipe
    from reason_rl.run_folder import write_text
    from reason_rl.stopping.setting import ENGINES, open_setting

    changes = [f"rollout.engine={engine}", f"rollout.max_batch_rows={rows}"]
    with open_setting(load_recipe(recipe, changes).recipe, None, ENGINES) as setting:
        result = probe_overhead(setting, probe, rows, repeats, say)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, json.dumps(result, indent=1) + "\n")
    emit(result, as_json, f"{result['overhead']:+.1%} a token ({result['completion_tokens']} tokens, {rows} rows)")


@bench_app.command("stock")
def bench_stock(
    out: Annotated[Path, typer.Option(help="Results, one JSON line a run; runs found there are not repeated.")],
    seeds: Annotated[int, typer.Option(help="Training seeds.")] = 3,
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """Stock trl.GRPOTrainer against our DLER: same model, data and number of rollouts."""
    from reason_rl.bench.stock import stock_comparison

    table = stock_comparison(out, seeds, workers, say)
    emit(table, as_json, json.dumps(table, indent=2))


@bench_app.command("ssa")
def bench_ssa(
    out: Annotated[Path, typer.Option(help="Results, one JSON line a run; runs found there are not repeated.")],
    seeds: Annotated[int, typer.Option(min=2, help="Training seeds.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Selective temperatures against none, from scratch at equal steps."""
    from reason_rl.bench.ssa import compare_ssa

    table = compare_ssa(out, seeds, say)
    emit(table, as_json, json.dumps(table, indent=2))


@bench_app.command("rpa")
def bench_rpa(
    out: Annotated[Path, typer.Option(help="Results, one JSON line a run; runs found there are not repeated.")],
    seeds: Annotated[int, typer.Option(min=2, help="Training seeds.")] = 3,
    pictures: Annotated[Path | None, typer.Option(help="Folder that pictures of the results go to, as PNG.")] = None,
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """The RPA prior as an attention bias against none: language modelling from scratch at equal updates."""
    from reason_rl.bench.jobs import read_results
    from reason_rl.bench.rpa import compare_priors
    from reason_rl.bench.rpa_pictures import draw_pictures

    table = compare_priors(out, seeds, workers, say)
    if pictures is not None:
        draw_pictures(read_results(out), pictures)
    emit(table, as_json, json.dumps(table, indent=2))


@bench_app.command("rpa-time")
def bench_rpa_time(
    out: Annotated[Path, typer.Option(help="Results, one JSON line a run; a time found there is not taken again.")],
    runs: Annotated[int, typer.Option(min=1, help="Runs, one after another.")] = 2,
    as_json: AsJson = False,
) -> None:
    """What the prior adds to an update, to prefill and to a decoded token of the tiny reasoner, as ratios of one run."""
    from reason_rl.bench.jobs import run_jobs
    from reason_rl.bench.rpa_time import PriorTimeJob

    rows = run_jobs([PriorTimeJob(run) for run in range(runs)], out, 1, say)
    emit(rows, as_json, json.dumps(rows, indent=2))


@bench_app.command("rpa-rl")
def bench_rpa_rl(
    cells: Annotated[Path, typer.Argument(help="Cells of the arena, with dler, dler_rpa and dler_rpa_guardian.")],
    seeds: Annotated[int, typer.Option(min=2, help="Training seeds.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Where the figures go, as JSON.")] = None,
    as_json: AsJson = False,
) -> None:
    """DLER with the RPA prior in its loss, and with Guardian, against DLER: accuracy, tokens, spread over seeds."""
    from reason_rl.bench.rpa_rl import compare_in_rl
    from reason_rl.run_folder import write_text

    table = compare_in_rl(cells, seeds)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, json.dumps(table, indent=1) + "\n")
    emit(table, as_json, json.dumps(table, indent=2))


@bench_app.command("heads")
def bench_heads(
    out: Annotated[Path, typer.Option(help="Results, one JSON line a run; runs found there are not repeated.")],
    seeds: Annotated[int, typer.Option(min=2, help="Training seeds.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Budgeted heads of the tiny reasoner against static pruning and specialists, and the speed of half the heads."""
    from reason_rl.bench.heads import compare_heads

    table = compare_heads(out, seeds, say)
    emit(table, as_json, json.dumps(table, indent=2))


def arena(
    out: Annotated[Path, typer.Option(help="Folder of the cells, the table and the page; cells there are kept.")],
    methods: Annotated[str | None, typer.Option(help="Names of recipes/tiny, comma separated; default: all.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds.")] = 3,
    budget_updates: Annotated[
        int, typer.Option(min=1, help="Rollout tokens of a run, in updates of 32 rows at 80 completion tokens.")
    ] = 192,
    workers: Workers = 1,
    only_report: Annotated[
        bool, typer.Option("--only-report", help="Make no cells; write up those there are.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train methods side by side in the tiny world with the same rollout tokens, and rank them."""
    from reason_rl.bench.arena import command_of, made_cells, make_cells, methods_of
    from reason_rl.evaluate.arena import arena_table
    from reason_rl.report.arena import arena_text, write_arena

    if not only_report:
        make_cells(methods_of(methods), seeds, budget_updates, out, workers, say)
    rows = made_cells(out)
    table = arena_table(rows)
    write_arena(table, out, command_of(rows, out))
    emit(table, as_json, None if as_json else arena_text(table))
