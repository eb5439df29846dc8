"""A few killable processes that compare answers, each pair under a deadline that always holds."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reason_rl.answer import worker
from reason_rl.errors import RunError

START_SECONDS = 120.0
LATE, DIED = b"t", b"x"
REPLY_BYTES = 256
Pair = tuple[str, str]


@dataclass(eq=False)
class Budget:
    """Seconds of a process that are left for an answer and all that is looked at for its sake."""

    seconds: float


Job = tuple[Pair, Budget]


@dataclass
class Worker:
    """One process and until when it has time: to start (neither ready nor with a job), or to judge its pair."""

    process: subprocess.Popen[bytes]
    deadline: float
    ready: bool = False
    job: Job | None = None

    @property
    def idle(self) -> bool:
        """Whether it waits for a job."""
        return self.ready and self.job is None


class WorkerPool:
    """Judges pairs in at most ``size`` processes, started when first needed.

    A process that passes its deadline is killed, and one that dies is not missed: the pair gets the reply ``LATE`` or
    ``DIED``, ``timeouts`` or ``crashes`` counts it, and the next pair gets a new process. A pair whose budget is used up
    by others is late without being tried. One caller at a time: threads wait for each other.
    """

    def __init__(self, size: int, timeout_seconds: float, options: tuple[str, ...] = ()) -> None:
        self.size, self.timeout_seconds, self.options = size, timeout_seconds, options
        self.timeouts = self.crashes = 0
        self.workers: list[Worker] = []
        self._lock = threading.Lock()

    def judge(self, jobs: Sequence[Job]) -> dict[Job, bytes]:
        """Return the reply to each distinct job, a pair (extracted, gold) and its budget: the worker's, LATE or DIED.

        Raises:
            RunError: when a process does not start.
        """
        with self._lock:
            return self._judge(deque(dict.fromkeys(jobs)))

    def _judge(self, pending: deque[Job]) -> dict[Job, bytes]:
        verdicts: dict[Job, bytes] = {}
        while pending or self._busy():
            while pending and pending[0][1].seconds <= 0:
                verdicts[pending.popleft()] = LATE
            while len(self.workers) < min(self.size, len(pending) + self._busy()):
                self.workers.append(self._start())
            for member in [member for member in self.workers if member.idle]:
                if pending:
                    self._send(member, pending)
            self._collect(verdicts)
        return verdicts

    def close(self) -> None:
        """End all processes."""
        for member in list(self.workers):
            self._drop(member)

    def _busy(self) -> int:
        return sum(member.job is not None for member in self.workers)

    def _start(self) -> Worker:
        # -P: the worker's own folder must not shadow installed modules.
        command = [sys.executable, "-P", str(Path(worker.__file__)), str(self.timeout_seconds), *self.options]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return Worker(process, time.monotonic() + START_SECONDS)

    def _send(self, member: Worker, pending: deque[Job]) -> None:
        pair, budget = pending[0]
        assert member.process.stdin is not None
        try:
            member.process.stdin.write(json.dumps(pair).encode() + b"\n")
            member.process.stdin.flush()
        except BrokenPipeError:  # it died while idle: no fault of this pair
            self._drop(member)
            return
        member.job, member.deadline = pending.popleft(), time.monotonic() + min(budget.seconds, self.timeout_seconds)

    def _collect(self, verdicts: dict[Job, bytes]) -> None:
        """Wait for a reply, a death or a deadline, and take in all there are."""
        working = [member for member in self.workers if not member.idle]
        if not working:
            return
        with selectors.DefaultSelector() as selector:
            for member in working:
                selector.register(_output(member), selectors.EVENT_READ, member)
            patience = min(member.deadline for member in working) - time.monotonic()
            heard = [key.data for key, _ in selector.select(max(0.0, patience))]
        for member in working:
            if member in heard:
                self._take(member, os.read(_output(member), REPLY_BYTES), verdicts)
            elif member.deadline <= time.monotonic():
                self._lose(member, verdicts)

    def _take(self, member: Worker, reply: bytes, verdicts: dict[Job, bytes]) -> None:
        if not reply:
            self._lose(member, verdicts)
            return
        if member.job is not None:
            _, budget = member.job
            budget.seconds = min(budget.seconds, member.deadline - time.monotonic())
            verdicts[member.job] = reply.rstrip(b"\n")
        member.ready, member.job = True, None

    def _lose(self, member: Worker, verdicts: dict[Job, bytes]) -> None:
        """Part with a process that is dead or out of time."""
        late = time.monotonic() >= member.deadline
        self._drop(member)
        if member.job is None:
            how = f"within {START_SECONDS:.0f} s" if late else f"(exit code {member.process.returncode}, see above)"
            raise RunError(f"answer.verify: the process that runs math-verify did not start {how}")
        self.timeouts += late
        self.crashes += not late
        _, budget = member.job
        budget.seconds = 0.0 if late else min(budget.seconds, member.deadline - time.monotonic())
        verdicts[member.job] = LATE if late else DIED

    def _drop(self, member: Worker) -> None:
        self.workers.remove(member)
        member.process.kill()
        member.process.wait()
        for pipe in (member.process.stdin, member.process.stdout):
            with contextlib.suppress(BrokenPipeError):  # what it did not read
                assert pipe is not None
                pipe.close()


def _output(member: Worker) -> int:
    """Return the descriptor that replies come from; read unbuffered, so that the selector sees all there is."""
    assert member.process.stdout is not None
    return member.process.stdout.fileno()
