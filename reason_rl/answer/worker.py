"""The program that runs math-verify in a process of its own: it may hang on a hostile answer, and is then killed.

Run by path, not imported through the package: it starts without torch, and without running the caller's main module.
One JSON line ``[extracted, gold]`` in, one byte out: READY once, then RIGHT or WRONG a line.
"""

from __future__ import annotations

import json
import os
import signal
import sys

READY, RIGHT, WRONG = b"!", b"1", b"0"
MEMORY_BYTES = 4 * 2**30  # our choice: a power tower runs out of this long before the machine runs out of memory
GRACE_SECONDS = 1.0


def judge(extracted: str, gold: str) -> bool:
    """Compare two answers with math-verify, without its own alarm (whole seconds, and no power over a long C call).

    Only LaTeX is looked for: the fall-back to any number in the text would accept ``1, 2, ..., n`` for ``n``.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    latex = [LatexExtractionConfig(boxed_match_priority=0)]
    wanted = parse(f"\\boxed{{{gold}}}", latex, parsing_timeout=None)
    target = parse(f"\\boxed{{{extracted}}}", latex, parsing_timeout=None)
    return bool(verify(wanted, target, timeout_seconds=None))


def limit_memory() -> None:
    """Make an answer that would fill the machine fail here instead, where the platform can."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def serve(timeout_seconds: float) -> None:
    """Answer pairs until the input closes."""
    import logging

    logging.disable(logging.WARNING)  # math-verify warns at each call that its alarm is off
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it closes the input
    replies = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not look like a verdict
    limit_memory()
    judge("1", "1")
    os.write(replies, READY)
    for line in sys.stdin.buffer:
        extracted, gold = json.loads(line)
        _die_in(timeout_seconds + GRACE_SECONDS)
        verdict = judge(extracted, gold)
        _die_in(0)
        os.write(replies, RIGHT if verdict else WRONG)


def _die_in(seconds: float) -> None:
    """End this process after a time even if its parent is gone; the default action needs no Python. 0 = never."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    serve(float(sys.argv[1]))
