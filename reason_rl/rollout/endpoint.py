"""Completions from any OpenAI-compatible endpoint, many at a time: pacing, retries, and what the server says of each."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from reason_rl.errors import RecipeError, RunError
from reason_rl.rollout.backend import OnProgress, SamplingOptions

if TYPE_CHECKING:
    import httpx

Result = TypeVar("Result")

KEY_VARIABLE = "OPENAI_API_KEY"
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
LONGEST_WAIT_SECONDS = 60.0
SEED_BITS = 31  # what every server takes; some refuse more


@dataclass(frozen=True)
class Endpoint:
    """Where to ask and how hard.

    Args:
        url: base address up to ``/v1``; ``/chat/completions`` is added.
        model: the name the server knows it by.
        concurrency: requests under way at a time.
        requests_per_minute: pace of new requests, retries included; None = no limit but the concurrency.
        retries: further attempts after a dropped connection, a timeout, or a status such as 429 or 503.
        timeout_seconds: for one completion.
        first_wait_seconds: before the first retry; doubles each time, and ``Retry-After`` of the server comes first.
    """

    url: str
    model: str
    concurrency: int = 16
    requests_per_minute: float | None = None
    retries: int = 5
    timeout_seconds: float = 1800.0
    first_wait_seconds: float = 1.0


@dataclass(frozen=True)
class ChatRequest:
    """One completion to ask for; the server sees the seed's last 31 bits.

    ``stop`` says how thinking is ended, as a server of ``reason-rl serve`` understands it.
    """

    messages: tuple[Mapping[str, str], ...]
    max_tokens: int
    seed: int
    stop: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Reply:
    """One completion as the server gave it.

    ``thinking`` is None where the server does not hand it over apart; tokens are None where it does not count them.
    """

    text: str
    thinking: str | None
    finish_reason: str
    completion_tokens: int | None
    reasoning_tokens: int | None


def backoff_seconds(attempt: int, first: float, retry_after: str | None = None) -> float:
    """Return how long to wait before retry number ``attempt``, from 0 on: ``first * 2**attempt``, a minute at most.

    Args:
        attempt: retries made so far.
        first: seconds before the first one.
        retry_after: the server's header; seconds are obeyed, a date is not read.

    >>> [backoff_seconds(attempt, 1.0) for attempt in (0, 1, 2, 9)]
    [1.0, 2.0, 4.0, 60.0]
    >>> backoff_seconds(0, 1.0, "7")
    7.0
    """
    if retry_after is not None and retry_after.isdigit():
        return min(float(retry_after), LONGEST_WAIT_SECONDS)
    return min(first * 2.0**attempt, LONGEST_WAIT_SECONDS)


def read_reply(body: Mapping[str, Any]) -> Reply:
    """Return what a chat completion says.

    >>> message = {"content": "4", "reasoning_content": "2 + 2"}
    >>> usage = {"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 7}}
    >>> read_reply({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})
    Reply(text='4', thinking='2 + 2', finish_reason='stop', completion_tokens=9, reasoning_tokens=7)

    Raises:
        RunError: when it is no chat completion.
    """
    try:
        choice = body["choices"][0]
        message, finish = choice["message"], str(choice["finish_reason"])
        # vLLM and DeepSeek say reasoning_content, newer vLLM and OpenRouter reasoning.
        thinking = message.get("reasoning_content") or message.get("reasoning")
        usage = body.get("usage") or {}
        reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
        return Reply(message.get("content") or "", thinking, finish, usage.get("completion_tokens"), reasoning)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise RunError(f"--url: the reply is no chat completion ({error!r}): {str(body)[:200]}") from error


class _Pace:
    """Lets a new request go every so many seconds, whichever thread asks."""

    def __init__(self, per_minute: float | None) -> None:
        self.interval = 60.0 / per_minute if per_minute else 0.0
        self.lock = threading.Lock()
        self.next = time.monotonic()

    def wait(self) -> None:
        with self.lock:
            now = time.monotonic()
            turn = max(now, self.next)
            self.next = turn + self.interval
        time.sleep(turn - now)


def run_all(
    jobs: Sequence[Callable[[], Result]],
    threads: int,
    on_progress: OnProgress | None = None,
    on_ended: Callable[[Sequence[tuple[int, Result]]], None] | None = None,
) -> list[Result]:
    """Run jobs in threads and return their results in order; the first error is raised when those under way have ended.

    ``on_progress(jobs done, jobs)`` and ``on_ended([(index, result)])`` are called in this thread as jobs end, also for what
    ends well after an error.

    >>> run_all([lambda: 1, lambda: 2], threads=2)
    [1, 2]
    """
    results: dict[int, Result] = {}

    def tell(place: int, result: Result) -> None:
        results[place] = result
        if on_progress:
            on_progress(len(results), len(jobs))
        if on_ended:
            on_ended([(place, result)])

    with ThreadPoolExecutor(threads) as pool:
        places = {pool.submit(job): place for place, job in enumerate(jobs)}
        failed = None
        try:
            for future in as_completed(places):
                if future.exception() is not None:
                    failed = future
                    break
                tell(places[future], future.result())
        finally:
            pool.shutdown(wait=failed is not None, cancel_futures=True)
    if failed is not None:
        for future, place in places.items():
            if place not in results and not future.cancelled() and future.exception() is None:
                tell(place, future.result())
        failed.result()
    return [results[place] for place in range(len(jobs))]


class ChatClient:
    """An open connection to an endpoint; made by :func:`connect`."""

    def __init__(self, endpoint: Endpoint, http: httpx.Client) -> None:
        self.endpoint, self.http = endpoint, http
        self.pace = _Pace(endpoint.requests_per_minute)

    def complete(
        self,
        requests: Sequence[ChatRequest],
        options: SamplingOptions,
        on_progress: OnProgress | None = None,
        on_ended: Callable[[Sequence[tuple[int, Reply]]], None] | None = None,
    ) -> list[Reply]:
        """Return one completion a request, in the order of the requests; the first that fails for good ends all.

        Raises:
            RunError: with what the server said.
        """
        jobs = [partial(self._ask, request, options) for request in requests]
        return run_all(jobs, self.endpoint.concurrency, on_progress, on_ended)

    def _ask(self, request: ChatRequest, options: SamplingOptions) -> Reply:
        import httpx

        body = _body(self.endpoint.model, request, options)
        for attempt in range(self.endpoint.retries + 1):
            self.pace.wait()
            retry_after = None
            try:
                response = self.http.post("chat/completions", json=body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if response.is_success:
                    return read_reply(_json(response))
                problem = f"status {response.status_code}: {_said(response)}"
                if response.status_code not in RETRIED:
                    raise RunError(f"--url {self.endpoint.url}: {problem}")
                retry_after = response.headers.get("Retry-After")
            if attempt < self.endpoint.retries:
                time.sleep(backoff_seconds(attempt, self.endpoint.first_wait_seconds, retry_after))
        raise RunError(f"--url {self.endpoint.url}: gave up after {self.endpoint.retries + 1} attempts ({problem})")


@contextmanager
def connect(endpoint: Endpoint) -> Iterator[ChatClient]:
    """Yield a client of an endpoint that answers; the key, where one is needed, comes from OPENAI_API_KEY.

    Raises:
        RecipeError: for an address that is none, or without httpx.
        RunError: when nobody answers there.
    """
    parts = urlsplit(endpoint.url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise RecipeError(f"--url {endpoint.url}: no address; for instance http://localhost:8000/v1")
    if parts.username or parts.password:
        raise RecipeError(f"--url: a key in the address would be written into results; set {KEY_VARIABLE}")
    try:
        import httpx
    except ImportError as error:
        raise RecipeError("--engine openai: httpx is not installed; pip install 'reason_rl[openai]'") from error
    key = os.environ.get(KEY_VARIABLE)
    limits = httpx.Limits(max_connections=endpoint.concurrency)
    timeout = httpx.Timeout(endpoint.timeout_seconds, connect=10.0)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=endpoint.url, headers=headers, timeout=timeout, limits=limits) as http:
        try:
            # Any status will do: not every server lists its models.
            http.get("models", timeout=10.0)
        except httpx.TransportError as error:
            raise RunError(f"--url {endpoint.url}: no answer ({error or type(error).__name__}); is it up?") from error
        yield ChatClient(endpoint, http)


def _body(model: str, request: ChatRequest, options: SamplingOptions) -> dict[str, Any]:
    body = {
        "model": model,
        "messages": list(request.messages),
        "max_tokens": request.max_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "seed": request.seed % 2**SEED_BITS,
    }
    # No field of OpenAI's own; vLLM, SGLang and llama.cpp know it.
    body |= {"top_k": options.top_k} if options.top_k else {}
    return body | ({"stop": dict(request.stop)} if request.stop else {})


def _json(response: httpx.Response) -> Mapping[str, Any]:
    try:
        return dict(response.json())
    except (ValueError, TypeError) as error:
        raise RunError(f"--url: the reply is not JSON: {response.text[:200]!r}") from error


def _said(response: httpx.Response) -> str:
    """Return the server's own words on one line."""
    try:
        error = response.json()["error"]
        text = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        text = response.text
    return " ".join(str(text).split())[:300] or "no message"
