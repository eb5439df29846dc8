"""Load a model, serve it, and shut down cleanly."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from reason_rl.errors import RecipeError
from reason_rl.models import context_tokens, load_model, load_tokenizer
from reason_rl.recipe.schema import ModelSection
from reason_rl.serve.app import Desk, make_app
from reason_rl.serve.engine import Engine
from reason_rl.serve.policy import Policies, open_exits
from reason_rl.serve.service import Service
from reason_rl.stopping.artefact import fingerprint
from reason_rl.stopping.thinking import think_tokens, whole_completion

END_THINK = "</think>"


@dataclass(frozen=True)
class ServeOptions:
    """What is served, where, and how much of it at a time.

    Args:
        model: folder, hub id or name.
        adapter: LoRA adapter to put on it.
        probe: folder of a probe, and of its certificate where there is one.
        host, port: where to listen; port 0 takes a free one.
        name: that requests call the model by; default: ``model``.
        dtype, device: of the weights.
        max_rows: completions decoded together.
        max_waiting: completions that may wait.
        timeout_seconds: for one request, waiting included.
        drain_seconds: that running requests have left after a signal.
    """

    model: str
    adapter: Path | None = None
    probe: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    max_rows: int = 32
    max_waiting: int = 256
    timeout_seconds: float = 600.0
    drain_seconds: float = 30.0


class Server(uvicorn.Server):
    """Drains before it exits: after a first signal health says so and running requests end, after a second they fail."""

    def __init__(self, config: uvicorn.Config, desk: Desk, drain_seconds: float) -> None:
        super().__init__(config)
        self.desk, self.engine, self.drain_seconds = desk, desk.engine, drain_seconds
        self.deadline: float | None = None

    def stop(self) -> None:
        """Begin to drain, or stop at once when that has begun."""
        now = time.monotonic()
        self.deadline = now + self.drain_seconds if self.deadline is None else now
        self.engine.draining = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal; uvicorn's own would close the port at once and end the process by that signal."""
        self.stop()

    async def on_tick(self, counter: int) -> bool:
        """Exit when nothing is left to do, or the time for it is over."""
        if self.deadline is not None and not self.should_exit:
            idle = not (self.engine.running or self.engine.waiting)
            if idle or time.monotonic() >= self.deadline:
                await asyncio.to_thread(self.engine.close)
                self.should_exit = True
        return await super().on_tick(counter)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket of this address that does not listen yet.

    Raises:
        RecipeError: when the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except (OSError, OverflowError) as error:
        raise RecipeError(
            f"serve: --host {host} --port {port}: {error}; give another, port 0 takes a free one"
        ) from None
    return sock


def make_server(options: ServeOptions) -> tuple[Server, Service]:
    """Load the model and return a server that is not started.

    Raises:
        RecipeError: for a model, adapter or probe that cannot be used.
    """
    if options.adapter is not None and not (options.adapter / "adapter_config.json").is_file():
        raise RecipeError(
            f"serve: --adapter {options.adapter}: no adapter_config.json there; name a folder of a LoRA adapter"
        )
    spec: Any = ModelSection(path=options.model, dtype=options.dtype)  # type: ignore[arg-type]
    tokenizer = load_tokenizer(spec)
    model = load_model(spec, folder=options.adapter)
    # The fingerprint is of the weights, wherever they are.
    exits = None if options.probe is None else open_exits(options.probe, fingerprint(model, tokenizer))
    # Exits are certified for thinking as the probe was fitted to it.
    end = exits.card.end_think if exits else END_THINK if END_THINK in tokenizer.get_vocab() else None
    thinks = end is not None
    tokens = think_tokens(model, tokenizer, end) if thinks else whole_completion(model, tokenizer)
    try:
        model = model.to(options.device).eval()  # type: ignore[arg-type]
    except (RuntimeError, AssertionError) as error:  # torch's, for names and devices that are not there
        raise RecipeError(f"serve: --device {options.device}: {str(error).splitlines()[0]}") from None
    if exits is not None:
        exits = replace(exits, probe=exits.probe.to(options.device))
    vocabulary = int(model.config.get_text_config().vocab_size)
    policies = Policies(tokens, thinks, exits)
    name = options.name or options.model
    service = Service(name, tokenizer, tokens, thinks, context_tokens(model), vocabulary, policies)
    layers = exits.card.layers if exits else ()
    engine = Engine(model, tokens, int(tokenizer.pad_token_id), layers, options.max_rows, options.max_waiting)
    desk = Desk(engine, options.timeout_seconds)
    # Connections that do not close get five more seconds after draining.
    config = uvicorn.Config(make_app(service, desk), log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    return Server(config, desk, options.drain_seconds), service


def serve(options: ServeOptions, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        RecipeError: before anything is loaded for an address that is taken, then for what cannot be used.
    """
    with bind(options.host, options.port) as sock:
        server, service = make_server(options)
        host, port = sock.getsockname()[:2]
        exits = service.policies.exits
        if exits is not None and exits.certificate is None:
            say("the probe has no certificate: exits are given to requests that name a threshold and say uncertified")
        say(f"serving {service.name} at http://{f'[{host}]' if ':' in host else host}:{port}/v1")
        server.run(sockets=[sock])
    say("stopped")
