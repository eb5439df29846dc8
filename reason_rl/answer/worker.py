"""The program that runs math-verify in a process of its own: it may hang on a hostile answer, and is then killed.

Run by path, not imported through the package: it starts without torch, and without running the caller's main module.
One JSON line ``[extracted, gold]`` in, one line out: READY once, then RIGHT, WRONG, UNREAD, or RAISED and what.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

READY, RIGHT, WRONG, UNREAD, RAISED = b"!", b"1", b"0", b"?", b"e"
MEMORY_BYTES = 4 * 2**30  # our choice: a power tower runs out of this long before the machine runs out of memory
GRACE_SECONDS = 1.0


DIGITS = 30
EXACT, GOLD_ROUNDED, ANSWER_ROUNDED = 1e-20, 1e-4, 1e-6  # relative tolerance, as for written numbers
POINTS = (0.7310585786, 1.6180339887, 2.2360679775)  # where formulas are compared: positive, of no special value
MAX_SYMBOLS = 5


def judge(extracted: str, gold: str) -> bytes:
    """Compare two answers with math-verify, without its own alarm (whole seconds, and no power over a long C call).

    Only LaTeX is looked for: the fall-back to any number in the text would accept ``1, 2, ..., n`` for ``n``. Numbers are
    compared by us, for math-verify rounds to six decimals, which makes all tiny numbers equal; formulas that it does not
    find equal are compared at three points with positive values for all symbols.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    latex = [LatexExtractionConfig(boxed_match_priority=0)]
    wanted = parse(f"\\boxed{{{gold}}}", latex, parsing_timeout=None)
    if not wanted:
        return UNREAD
    target = parse(f"\\boxed{{{extracted}}}", latex, parsing_timeout=None)
    if not target:
        return WRONG
    numbers = same_numbers(wanted[0], target[0])
    if numbers is not None:
        return RIGHT if numbers else WRONG
    if verify(wanted, target, allow_set_relation_comp=True, timeout_seconds=None):
        return RIGHT
    return RIGHT if same_formulas(wanted[0], target[0]) else WRONG


def judge_bare(response: str, gold: str) -> bytes:
    """Compare a response with a gold answer as math-verify does by default, to measure what the rest adds."""
    from math_verify import parse, verify

    wanted = parse(f"\\boxed{{{gold}}}", parsing_timeout=None)
    target = parse(response, parsing_timeout=None)
    return RIGHT if verify(wanted, target, timeout_seconds=None) else WRONG


def same_numbers(gold: Any, answer: Any) -> bool | None:
    """Return whether two constants are equal, to rounding where one is a decimal; None when one is no constant."""
    import sympy

    sides = [_with_imaginary_unit(side) for side in (gold, answer)]
    if not all(isinstance(side, sympy.Expr) and side.is_number for side in sides):
        return None
    exact = [side.doit() for side in sides]
    if all(side.is_Rational for side in exact):
        return bool(exact[0] == exact[1])
    values = [sympy.N(side, DIGITS) for side in sides]
    if not all(value.is_finite and value.is_number for value in values):
        return None
    tolerance = GOLD_ROUNDED if gold.has(sympy.Float) else ANSWER_ROUNDED if answer.has(sympy.Float) else EXACT
    difference = sympy.Abs(values[0] - values[1])
    return bool(difference <= tolerance * sympy.Abs(values[0]) or difference == 0)


def same_formulas(gold: Any, answer: Any) -> bool:
    """Return whether two formulas in the same symbols have the same values at some points."""
    import sympy

    if not all(isinstance(side, sympy.Expr) for side in (gold, answer)) or gold.free_symbols != answer.free_symbols:
        return False
    symbols = sorted(gold.free_symbols, key=str)
    if not 0 < len(symbols) <= MAX_SYMBOLS:
        return False
    for shift in range(len(POINTS)):
        point = {symbol: POINTS[(index + shift) % len(POINTS)] + index for index, symbol in enumerate(symbols)}
        values = [sympy.N(side.subs(point), DIGITS) for side in (gold, answer)]
        if not all(value.is_number and value.is_finite for value in values):
            return False
        if not sympy.Abs(values[0] - values[1]) <= 1e-9 * max(1, sympy.Abs(values[0])):
            return False
    return True


def _with_imaginary_unit(side: Any) -> Any:
    """Return an expression with the letter i as the imaginary unit when it is its only symbol."""
    import sympy

    if isinstance(side, sympy.Expr) and {str(symbol) for symbol in side.free_symbols} == {"i"}:
        return side.subs(dict.fromkeys(side.free_symbols, sympy.I))
    return side


def limit_memory() -> None:
    """Make an answer that would fill the machine fail here instead, where the platform can."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def serve(timeout_seconds: float, compare: Callable[[str, str], bytes] = judge) -> None:
    """Answer pairs until the input closes."""
    import logging

    logging.disable(logging.CRITICAL)  # math-verify warns at each call that its alarm is off, and logs what it catches
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it closes the input
    replies = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not look like a verdict
    limit_memory()
    judge("1", "1")
    os.write(replies, READY + b"\n")
    for line in sys.stdin.buffer:
        extracted, gold = json.loads(line)
        _die_in(timeout_seconds + GRACE_SECONDS)
        try:
            verdict = compare(extracted, gold)
        except Exception as error:  # memory and recursion too: the answer's fault, and said in its verdict
            verdict = RAISED + type(error).__name__.encode()
        _die_in(0)
        os.write(replies, verdict + b"\n")


def _die_in(seconds: float) -> None:
    """End this process after a time even if its parent is gone; the default action needs no Python. 0 = never."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    serve(float(sys.argv[1]), judge_bare if "--bare" in sys.argv else judge)
