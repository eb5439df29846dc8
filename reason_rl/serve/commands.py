"""``reason-rl serve``; torch, starlette and uvicorn are imported inside the command."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from reason_rl.errors import RecipeError
from reason_rl.models import Dtype
from reason_rl.terminal import say


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(serve)


def serve(
    model: Annotated[str, typer.Argument(help="Folder, hub id or name of the model.", show_default=False)],
    adapter: Annotated[Path | None, typer.Option(help="LoRA adapter to put on the model.")] = None,
    probe: Annotated[
        Path | None, typer.Option(help="Folder of an exit probe (reason-rl probe fit, calibrate).")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    name: Annotated[str | None, typer.Option(help="What requests call the model; default: MODEL.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Type of the weights.")] = "float32",
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda ...")] = "cpu",
    max_rows: Annotated[int, typer.Option(min=1, help="Completions decoded together.")] = 32,
    max_waiting: Annotated[int, typer.Option(min=0, help="Completions that may wait; more are refused (429).")] = 256,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds for one request, waiting included.")] = 600.0,
    drain: Annotated[float, typer.Option(min=0, help="Seconds that running requests have left after a signal.")] = 30.0,
) -> None:
    """Serve a model behind OpenAI's API; each request says how its thinking is ended (stop: probe, strength or budget)."""
    missing = [package for package in ("starlette", "uvicorn") if importlib.util.find_spec(package) is None]
    if missing:
        raise RecipeError(f"serve: {' and '.join(missing)} not installed; pip install 'reason_rl[serve]'")
    from reason_rl.serve.run import ServeOptions
    from reason_rl.serve.run import serve as serve_model

    options = ServeOptions(
        model, adapter, probe, host, port, name, dtype, device, max_rows, max_waiting, timeout, drain
    )
    serve_model(options, say)
