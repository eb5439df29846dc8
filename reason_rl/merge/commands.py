"""``reason-rl merge``; torch is imported inside the command."""

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
    """Add the command to the command line."""
    app.command()(merge)


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
