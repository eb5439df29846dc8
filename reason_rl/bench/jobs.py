"""Runs of a comparison: one JSON line each, never made twice, several at a time where asked."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol

Row = dict[str, Any]
Say = Callable[[str], None]


class Job(Protocol):
    """One run; picklable, so that it can be made in another process."""

    @property
    def key(self) -> str:
        """Name of the run among the results."""
        ...

    def __call__(self) -> Row:
        """Make the run and return its result."""
        ...


def read_results(path: Path) -> list[Row]:
    """Return the rows of a result file, none when there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def run_jobs(jobs: Sequence[Job], out: Path, workers: int, say: Say) -> list[Row]:
    """Return the row of each job in order; rows already in ``out`` are not made again, others are appended to it.

    The first error is raised; with several workers the other jobs come to their end before, and their rows are kept.
    With several workers the cores are shared out evenly, so that seconds compare between runs made that way.
    """
    done = {row["key"]: row for row in read_results(out)}
    missing = [job for job in jobs if job.key not in done]
    out.parent.mkdir(parents=True, exist_ok=True)
    for row in _made(missing, workers, say):
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        done[row["key"]] = row
    return [done[job.key] for job in jobs]


def _made(jobs: Sequence[Job], workers: int, say: Say) -> Iterator[Row]:
    if workers == 1:
        for job in jobs:
            say(job.key)
            yield {"key": job.key, "workers": 1, **job()}
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    failed: BaseException | None = None
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_share_cores, initargs=(threads,)) as pool:
        running = {pool.submit(job): job.key for job in jobs}
        for future in as_completed(running):
            key, error = running[future], future.exception()
            say(key if error is None else f"{key}: {type(error).__name__}: {error}")
            failed = failed or error
            if error is None:
                yield {"key": key, "workers": workers, **future.result()}
    if failed is not None:
        raise failed


def _share_cores(threads: int) -> None:
    """Limit a worker's threads; read by torch and the numeric libraries when they are first imported."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
