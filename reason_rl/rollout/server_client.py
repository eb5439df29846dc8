"""HTTP to a vLLM server: one connection pool, retries with a bound, and errors that say what to do."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from packaging.specifiers import SpecifierSet

from reason_rl.errors import RecipeError, RunError
from reason_rl.rollout.endpoint import RETRIED, backoff_seconds

if TYPE_CHECKING:
    import httpx

KEY_VARIABLE = "VLLM_API_KEY"
SUPPORTED = SpecifierSet("==0.31.*")
NEEDS = {
    "/v1/load_lora_adapter": "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1",
    "/collective_rpc": "VLLM_SERVER_DEV_MODE=1",
    "/server_info?config_format=json": "VLLM_SERVER_DEV_MODE=1",
}
AFTER = "the last checkpoint is good; bring the server up and use --resume"


@dataclass(frozen=True)
class ServerOptions:
    """Where the server is and how hard it is asked.

    Args:
        url: its root, without ``/v1``.
        model: the name it serves the model by.
        folder: where weights are written for it; the server must see it under the same path.
        concurrency: completions under way at a time, a process.
        retries: further attempts after a dropped connection, a timeout, or a status such as 503.
        timeout_seconds: for one completion, or for one change of weights.
        first_wait_seconds: before the first retry; doubles each time, a minute at most.
    """

    url: str
    model: str
    folder: str
    concurrency: int = 256
    retries: int = 5
    timeout_seconds: float = 1800.0
    first_wait_seconds: float = 1.0


@dataclass(frozen=True)
class Held:
    """Weights that were pushed last: their name, and whether they are an adapter."""

    name: str
    adapter: bool


class ServerClient:
    """Asks one vLLM server, from any thread.

    Raises:
        RecipeError: for an address that is none, or without httpx.
    """

    def __init__(self, options: ServerOptions) -> None:
        parts = urlsplit(options.url)
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path.strip("/"):
            raise RecipeError(
                f"rollout.server.url: {options.url} is no root of a server; for instance http://node2:8000"
            )
        try:
            import httpx
        except ImportError as error:
            raise RecipeError(
                "rollout.engine vllm_server: httpx is not installed; pip install 'reason_rl[openai]'"
            ) from error
        self.options = options
        self.held: Held | None = None
        key = os.environ.get(KEY_VARIABLE)
        self.http = httpx.Client(
            base_url=options.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(options.timeout_seconds, connect=10.0),
            limits=httpx.Limits(max_connections=options.concurrency + 1),
        )

    def get(self, path: str) -> Mapping[str, Any]:
        """Return the JSON object at a path."""
        return self._json(self.request("GET", path), path)

    def models(self) -> dict[str, Any]:
        """Return what the server says of each model and adapter that it serves, by name."""
        return {entry["id"]: entry for entry in self.get("/v1/models")["data"]}

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """Send a JSON object and return the one that comes back."""
        return self._json(self.request("POST", path, body), path)

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        """Return a successful response; a refusal, or silence after all retries, is an error.

        Raises:
            RunError: with what the server said last.
        """
        import httpx

        for attempt in range(self.options.retries + 1):
            retry_after = None
            try:
                response = self.http.request(method, path, json=body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}".rstrip(": ")
            else:
                if response.is_success:
                    return response
                problem = f"{path}: status {response.status_code}: {said(response)}"
                if response.status_code == 404 and path in NEEDS:
                    raise RunError(f"rollout server {self.options.url}: has no {path}; start it with {NEEDS[path]}")
                if response.status_code not in RETRIED:
                    raise RunError(f"rollout server {self.options.url}: {problem}")
                retry_after = response.headers.get("Retry-After")
            if attempt < self.options.retries:
                time.sleep(backoff_seconds(attempt, self.options.first_wait_seconds, retry_after))
        raise RunError(
            f"rollout server {self.options.url}: gave up after {self.options.retries + 1} attempts ({problem}); {AFTER}"
        )

    def _json(self, response: httpx.Response, path: str) -> Mapping[str, Any]:
        try:
            return dict(response.json())
        except (ValueError, TypeError) as error:
            raise RunError(
                f"rollout server {self.options.url}: {path} answered with no JSON object: {response.text[:200]!r}"
            ) from error


def said(response: httpx.Response) -> str:
    """Return the server's own words on one line."""
    try:
        value = response.json()
        error = value.get("error", value.get("detail")) if isinstance(value, dict) else value
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        text = response.text
    return " ".join(str(text).split())[:300] or "no message"


def check_server_version(version: str) -> None:
    """Raise RecipeError for a server outside the versions whose interface was read.

    >>> check_server_version("0.31.0")
    """
    if not SUPPORTED.contains(version, prereleases=True):
        raise RecipeError(f"rollout.server: vLLM {version} is serving, versions {SUPPORTED} work")
