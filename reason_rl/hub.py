"""The Hugging Face hub's client: what it raises, and its warnings kept out of the way."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


def hub_errors() -> tuple[type[Exception], ...]:
    """Return what the client raises: refused, not reached (httpx has errors of its own), or asked for no such thing."""
    import httpx

    return httpx.HTTPError, OSError, ValueError


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep the client's warning of each retry off the error stream: what came of them is said in one line."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, its kind where it says nothing.

    >>> first_line(OSError("no network\\ntry later")), first_line(TimeoutError())
    ('no network', 'TimeoutError')
    """
    return next(iter(str(error).splitlines()), "") or type(error).__name__
