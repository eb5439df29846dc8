"""``reason-rl merge`` and ``merge-front``; torch is imported inside a command."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from reason_rl.terminal import AsJson, emit, say


class MergeMethod(enum.StrEnum):
    """How weights are combined."""

    linear = "linear"
    task_arithmetic = "task_arithmetic"
    ties = "ties"
    dare_linear = "dare_linear"
    dare_ties = "dare_ties"
    selective = "selective"


class MergeDtype(enum.StrEnum):
    """Types of weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(merge)
    app.command("merge-front")(merge_front)


def merge(
    model: Annotated[
        list[str], typer.Option(help="Folder, hub id or adapter; once a model. The first one's configuration is kept.")
    ],
    out: Annotated[Path, typer.Option(help="Where the merged model goes.")],
    method: Annotated[MergeMethod, typer.Option(help="As mergekit calls them; selective is DLER's.")],
    base: Annotated[str | None, typer.Option(help="What differences are taken to; every method but linear.")] = None,
    weight: Annotated[list[float] | None, typer.Option(help="Once a model, in their order; default: all 1.")] = None,
    density: Annotated[float | None, typer.Option(help="Share of each difference's entries that is kept.")] = None,
    scale: Annotated[float | None, typer.Option("--scale", "--lambda", help="Factor on the merged difference.")] = None,
    seed: Annotated[int, typer.Option(help="Of the entries that DARE keeps.")] = 0,
    tokenizer: Annotated[
        str | None, typer.Option(help="The model whose tokenizer is kept; lets vocabularies differ.")
    ] = None,
    exclude: Annotated[str | None, typer.Option(help="Tensors to copy, not merge: a regular expression.")] = None,
    dtype: Annotated[MergeDtype | None, typer.Option(help="Of the result; default: as stored.")] = None,
    as_json: AsJson = False,
) -> None:
    """Merge models without training: weights in their files' order, tensor by tensor, in safetensors."""
    from reason_rl.merge.spec import MergeSpec

    spec = MergeSpec(
        method=method.value,
        models=tuple(model),
        weights=tuple(weight or ()),
        base=base,
        density=density,
        scale=scale,
        seed=seed,
        tokenizer=tokenizer,
        exclude=exclude,
        dtype=dtype.value if dtype else None,
    ).checked()
    from reason_rl.merge.run import merge_models

    card = merge_models(spec, out, say)
    emit(card, as_json, f"{out}: {method.value} of {', '.join(model)}")


def merge_front(
    merges: Annotated[Path, typer.Argument(help="JSONL; each row has weights, accuracy, completion_tokens.")],
    steps: Annotated[int, typer.Option(min=2, max=101, help="Grid points along each weight.")] = 21,
    as_json: AsJson = False,
) -> None:
    """From a few evaluated merges, say which weights are worth trying next: the Pareto front of fitted quadratics."""
    from reason_rl.merge.front import front, read_merges

    result = front(read_merges(merges), steps)
    lines = [f"{name}: R2 {value:.3f} on the merges it was fitted to" for name, value in result["r_squared"].items()]
    lines += [
        f"{', '.join(f'{weight:.3f}' for weight in row['weights'])}: accuracy {row['accuracy']:.3f}, "
        f"{row['completion_tokens']:.0f} tokens (predicted)"
        for row in result["front"]
    ]
    emit(result, as_json, "\n".join(lines))
