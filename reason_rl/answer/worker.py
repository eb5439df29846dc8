"""The process that runs math-verify: it may hang on a hostile answer, and is then killed from outside."""

from __future__ import annotations

from multiprocessing.connection import Connection


def judge(extracted: str, gold: str) -> bool:
    """Compare two answers with math-verify, without its own alarms (they only work in a main thread)."""
    from math_verify import LatexExtractionConfig, parse, verify

    boxed_first = [LatexExtractionConfig(boxed_match_priority=0)]
    target = parse(f"\\boxed{{{extracted}}}", boxed_first, parsing_timeout=None)
    wanted = parse(f"\\boxed{{{gold}}}", boxed_first, parsing_timeout=None)
    return bool(verify(wanted, target, timeout_seconds=None))


def serve(connection: Connection) -> None:
    """Answer (extracted, gold) pairs until the other side closes."""
    while True:
        try:
            extracted, gold = connection.recv()
        except EOFError:
            return
        connection.send(judge(extracted, gold))
