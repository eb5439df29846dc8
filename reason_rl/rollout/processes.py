"""Several processes of one run: what only the first does, its outcome known to all; and one of them that is gone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed as dist

from reason_rl.errors import RunError

T = TypeVar("T")

# What gloo, NCCL and torch's store say when the other end is gone.
GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "ncclRemoteError", "Timed out waiting")


def is_first() -> bool:
    """Say whether this is the first process of the run, or the only one; before they have met, the launcher knows."""
    return (dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))) == 0


def only_first(action: Callable[[], T]) -> T:
    """Let the first process act and return its plain result (text, a number) on all of them.

    Raises:
        RunError: on every process, when the action raised it on the first: nobody is left waiting.

    >>> only_first(lambda: "policy-3")
    'policy-3'
    """
    if not dist.is_initialized():
        return action()
    outcome: list[Any] = [None, None]
    if is_first():
        try:
            outcome[0] = action()
        except RunError as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome, src=0)
    result, problem = outcome
    if problem is not None:
        raise RunError(problem)
    return result


@contextmanager
def one_message_when_another_is_gone() -> Iterator[None]:
    """Turn what a collective says when another process has died into one clear line.

    Raises:
        RunError: instead of the error of the collective.
    """
    try:
        yield
    except RuntimeError as error:
        if not dist.is_initialized() or not any(mark in str(error) for mark in GONE):
            raise
        raise RunError(
            "another process of the run is gone, so this one stops too; its output says why, --resume goes on with the "
            "last checkpoint"
        ) from error
