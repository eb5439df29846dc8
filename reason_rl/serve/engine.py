"""The thread that decodes: rows wait in a bounded queue, join the running batch, and leave it when done or given up."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from reason_rl.rollout.backend import SamplingOptions, SamplingRequest
from reason_rl.rollout.hf import sampling_mode
from reason_rl.serve.errors import ApiError
from reason_rl.stopping.batch import Batch, Order
from reason_rl.stopping.rule import StopPolicy
from reason_rl.stopping.states import Tap, tapped
from reason_rl.stopping.thinking import ThinkTokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("reason_rl.serve")


class Wanted(NamedTuple):
    """A row to be decoded."""

    request: SamplingRequest
    options: SamplingOptions
    policy: StopPolicy


class Token(NamedTuple):
    """A token of a row; ``finish`` with the last one, ``exit_at`` once the rule has exited."""

    id: int
    logp: float
    finish: str | None
    exit_at: int | None


class Failure(NamedTuple):
    """Why a row will not be finished."""

    status: int
    message: str


Event = Token | Failure
Deliver = Callable[[Sequence[tuple[int, Event]]], None]


@dataclass
class Engine:
    """Decodes rows of many requests together, each with its own sampling and policy.

    Every row has a number. What becomes of it is told through ``deliver``, from the decoding thread: a token a step, or a
    failure. A row that was cancelled is not told of any more.

    Args:
        model: in eval mode; nothing else may use it meanwhile.
        tokens: ids that open and close thinking and end a completion.
        pad_token_id: any id; it is masked.
        layers: whose states rules may read.
        max_rows: rows decoded together.
        max_waiting: rows that may wait for a place; more are refused.
    """

    model: PreTrainedModel
    tokens: ThinkTokens
    pad_token_id: int
    layers: tuple[int, ...] = ()
    max_rows: int = 32
    max_waiting: int = 256
    draining: bool = False
    _closing: bool = False
    _last: int = 0
    _waiting: deque[Order] = field(default_factory=deque)
    _running: set[int] = field(default_factory=set)
    _dropped: set[int] = field(default_factory=set)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None

    def start(self, deliver: Deliver) -> None:
        """Start the decoding thread."""
        self._thread = threading.Thread(target=self._run, args=(deliver,), name="reason-rl-decode", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread decodes."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def running(self) -> int:
        """Rows being decoded."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Rows waiting for a place."""
        return len(self._waiting)

    def submit(self, rows: Sequence[Wanted]) -> list[int]:
        """Take rows in, all or none, and return their numbers.

        Raises:
            ApiError: 503 while shutting down, 429 when the queue is full, 400 for more rows than would ever fit.
        """
        with self._changed:
            if self.draining or self._closing:
                raise ApiError(503, "the server is shutting down")
            if len(rows) > self.max_rows + self.max_waiting:
                most = self.max_rows + self.max_waiting
                raise ApiError(400, f"n: {len(rows)} completions in one request, at most {most} can wait", "n")
            free = self.max_rows - len(self._running)
            if len(self._waiting) + len(rows) > self.max_waiting + max(free, 0):
                raise ApiError(429, f"the queue is full: {len(self._waiting)} completions wait; try again later")
            orders = [Order(self._last + i, *row) for i, row in enumerate(rows, start=1)]
            self._last += len(rows)
            self._waiting.extend(orders)
            self._changed.notify()
            return [order.number for order in orders]

    def cancel(self, numbers: Iterable[int]) -> None:
        """Give rows up; those that are done already are not meant."""
        given_up = set(numbers)
        with self._changed:
            self._waiting = deque(order for order in self._waiting if order.number not in given_up)
            self._dropped |= given_up & self._running
            self._running -= given_up
            self._changed.notify()

    def close(self) -> None:
        """Stop the thread; rows that are not done fail."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self, deliver: Deliver) -> None:
        with sampling_mode(self.model), tapped(self.model, self.layers) as tap:
            batch: Batch | None = None
            while (work := self._next(idle=batch is None)) is not None:
                orders, dropped = work
                try:
                    batch = self._advance(batch, tap, orders, dropped, deliver)
                except Exception as error:  # one bad step must not end the service
                    log.exception("decoding failed")
                    batch = None
                    self._fail(Failure(500, f"decoding failed: {type(error).__name__}: {error}"), deliver)
        self._fail(Failure(503, "the server is shutting down"), deliver, everything=True)

    def _next(self, *, idle: bool) -> tuple[list[Order], set[int]] | None:
        """Return the rows that join and those given up, waiting while there is nothing to do; None at the end."""
        with self._changed:
            while idle and not (self._waiting or self._closing):
                self._dropped.clear()
                self._changed.wait()
            if self._closing:
                return None
            free = self.max_rows - len(self._running)
            orders = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
            self._running |= {order.number for order in orders}
            dropped, self._dropped = self._dropped, set()
            return orders, dropped

    def _advance(
        self, batch: Batch | None, tap: Tap, orders: Sequence[Order], dropped: set[int], deliver: Deliver
    ) -> Batch | None:
        """Drop, take in, and write a token in every row."""
        if batch is not None and dropped:
            batch.drop(dropped)
        if orders:
            more = Batch.open(self.model, self.tokens, self.pad_token_id, tap, orders)
            self._step(more, deliver)
            if batch is not None:
                batch.join(more)
            else:
                batch = more
        if batch is not None and batch.lanes:
            self._step(batch, deliver)
        return batch if batch is not None and batch.lanes else None

    def _step(self, batch: Batch, deliver: Deliver) -> None:
        running = [row for row in batch.lanes if row.finish is None]
        ended = {row.order.number for row in batch.step()}
        with self._changed:
            self._running -= ended
        deliver([(row.order.number, Token(row.ids[-1], row.logps[-1], row.finish, row.exit_at)) for row in running])

    def _fail(self, failure: Failure, deliver: Deliver, *, everything: bool = False) -> None:
        """Tell the running rows, and at the end the waiting ones too, that nothing more comes."""
        with self._changed:
            numbers = list(self._running)
            self._running.clear()
            self._dropped.clear()
            if everything:
                numbers += [order.number for order in self._waiting]
                self._waiting.clear()
        deliver([(number, failure) for number in numbers])
