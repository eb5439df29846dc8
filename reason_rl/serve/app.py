"""The HTTP side: routes, streams, and rows that are given up when their client is gone or their time is over."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from reason_rl.serve.engine import Engine, Event, Failure
from reason_rl.serve.errors import ApiError
from reason_rl.serve.replies import Reply, models
from reason_rl.serve.schema import ChatRequest, CompletionRequest, read_body
from reason_rl.serve.service import Plan, Service
from reason_rl.serve.text import Delta

log = logging.getLogger("reason_rl.serve")
MAX_BODY_BYTES = 8 * 2**20


@dataclass
class Desk:
    """Hands what the engine tells to the requests that wait for it; lives in the event loop."""

    engine: Engine
    timeout_seconds: float
    open: dict[int, asyncio.Queue[tuple[int, Event]]] = field(default_factory=dict)

    def start(self) -> None:
        """Start the engine."""
        loop = asyncio.get_running_loop()

        def deliver(events: Sequence[tuple[int, Event]]) -> None:
            loop.call_soon_threadsafe(self._hand_out, events)

        self.engine.start(deliver)

    def _hand_out(self, events: Sequence[tuple[int, Event]]) -> None:
        for number, event in events:
            if number in self.open:
                self.open[number].put_nowait((number, event))

    def take(self, plan: Plan) -> Ticket:
        """Take the rows of a request in.

        Raises:
            ApiError: when there is no room for them.
        """
        queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        numbers = self.engine.submit(plan.rows)
        self.open |= dict.fromkeys(numbers, queue)
        return Ticket(self, plan, numbers, queue, time.monotonic() + self.timeout_seconds)


@dataclass
class Ticket:
    """A request that was taken in; ``close`` gives up what is left of it and must be called in the end."""

    desk: Desk
    plan: Plan
    numbers: list[int]
    queue: asyncio.Queue[tuple[int, Event]]
    deadline: float

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """Yield what comes, with the place of its completion, until all are done.

        Raises:
            ApiError: 504 when the time is over, or what the engine failed with.
        """
        places = {number: place for place, number in enumerate(self.numbers)}
        while places:
            try:
                async with asyncio.timeout(max(0.0, self.deadline - time.monotonic())):
                    number, event = await self.queue.get()
            except TimeoutError:
                seconds = self.desk.timeout_seconds
                raise ApiError(504, f"not done after {seconds:g} s; ask for fewer tokens", code="timeout") from None
            if isinstance(event, Failure):
                raise ApiError(event.status, event.message)
            if number not in places:
                continue
            place = places[number]
            delta = self.plan.readers[place].read(event)
            if delta.finish:
                del places[number]
                self.give_up([number])
            yield place, delta

    def give_up(self, numbers: Sequence[int]) -> None:
        """Give rows up, unless they are done."""
        for number in numbers:
            self.desk.open.pop(number, None)
        self.desk.engine.cancel(numbers)

    def close(self) -> None:
        """Give all rows up that are not done."""
        self.give_up([number for number in self.numbers if number in self.desk.open])


class EventStream(StreamingResponse):
    """Server-sent events of a ticket, which is closed however the response ends, also when it never began."""

    def __init__(self, ticket: Ticket, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.ticket = ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.ticket.close()


@dataclass(frozen=True)
class Api:
    """The endpoints."""

    service: Service
    desk: Desk
    started: int = field(default_factory=lambda: int(time.time()))

    async def health(self, request: Request) -> Response:
        """Say whether requests are taken: 200, or 503 while shutting down or when the engine is gone."""
        engine = self.desk.engine
        status = "draining" if engine.draining else "ok" if engine.alive else "failed"
        value = {"status": status, "running": engine.running, "waiting": engine.waiting}
        return JSONResponse(value, 200 if status == "ok" else 503)

    async def models(self, request: Request) -> Response:
        """List the one model."""
        return JSONResponse(models(self.service, self.started))

    async def model(self, request: Request) -> Response:
        """Say what the model is."""
        name = request.path_params["name"]
        if name != self.service.name:
            raise ApiError(404, f"model: {name} is not served here, {self.service.name} is", "model", "model_not_found")
        return JSONResponse(models(self.service, self.started)["data"][0])

    async def completions(self, request: Request) -> Response:
        """Answer ``/v1/completions``."""
        body = read_body(CompletionRequest, await _raw(request))
        return await self._answer(request, body, body.logprobs is not None)

    async def chat(self, request: Request) -> Response:
        """Answer ``/v1/chat/completions``."""
        body = read_body(ChatRequest, await _raw(request))
        return await self._answer(request, body, body.logprobs)

    async def _answer(self, request: Request, body: CompletionRequest | ChatRequest, logprobs: bool) -> Response:
        plan = self.service.plan(body)
        reply = Reply(self.service, plan, isinstance(body, ChatRequest), logprobs)
        ticket = self.desk.take(plan)
        if body.stream:
            return EventStream(ticket, _events(ticket, reply, body.stream_options.include_usage))
        try:
            return JSONResponse(await while_connected(request, _whole(ticket, reply)))
        finally:
            ticket.close()


async def _raw(request: Request) -> bytes:
    """Return the body, up to a limit."""
    raw = b""
    async for piece in request.stream():
        raw += piece
        if len(raw) > MAX_BODY_BYTES:
            raise ApiError(413, f"the body is over {MAX_BODY_BYTES} bytes; send less")
    return raw


async def _whole(ticket: Ticket, reply: Reply) -> dict[str, Any]:
    deltas: list[list[Delta]] = [[] for _ in ticket.numbers]
    async for place, delta in ticket.deltas():
        deltas[place].append(delta)
    return reply.whole(deltas)


async def _events(ticket: Ticket, reply: Reply, usage: bool) -> AsyncIterator[str]:
    """Yield the events of a stream; an error ends it as an event, for the status is sent already."""
    try:
        for chunk in reply.first():
            yield _event(chunk)
        async for place, delta in ticket.deltas():
            said = reply.chunk(place, delta)
            if said is not None:
                yield _event(said)
        if usage:
            yield _event(reply.last())
    except ApiError as error:
        yield _event(error.body())
        return
    yield "data: [DONE]\n\n"


def _event(value: Any) -> str:
    return f"data: {json.dumps(value)}\n\n"


async def while_connected(request: Request, work: Awaitable[Any]) -> Any:
    """Return what the work returns; when the client goes away first, the work is cancelled.

    Raises:
        ClientDisconnect: when it did.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        there = "/health, /v1/models, /v1/completions, /v1/chat/completions"
        error = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}; there are {there}")
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, error.headers())


async def _left(request: Request, error: Exception) -> Response:
    log.info("client of %s left", request.url.path)
    return Response(status_code=499)


def make_app(service: Service, desk: Desk) -> Starlette:
    """Return the application; its engine runs between start and shutdown."""
    api = Api(service, desk)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        desk.start()
        yield
        await asyncio.to_thread(desk.engine.close)

    handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
        ApiError: _refused,
        HTTPException: _refused,
        ClientDisconnect: _left,
    }
    routes = [
        Route("/health", api.health),
        Route("/v1/models", api.models),
        Route("/v1/models/{name:path}", api.model),
        Route("/v1/completions", api.completions, methods=["POST"]),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
