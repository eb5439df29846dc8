"""Over- and underthinking: tokens after the answer was there, tokens spent on the way to a wrong one, words of doubt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

Lengths = Float[np.ndarray, " responses"]
Flags = Bool[np.ndarray, " responses"]

REFLECTION_WORDS = (
    "wait",
    "re-examine",
    "recap",
    "double-check",
    "let me check",
    "let me just check",
    "let me verify",
    "let me just verify",
)
LOOP_TOKENS = 256  # our choice: the end of a response that is looked at for repetition
LOOP_REPEATS = 4  # our choice: repetitions that make a loop


def outcome_efficiency(first_right_tokens: Lengths, tokens: Lengths, ever_right: Flags) -> float:
    """Return the mean share of tokens that were needed: ``mean_i sigma_i * That_i / T_i``.

    A response that never holds the right answer counts 0, so a model that stops at its first answer scores its accuracy;
    report it beside the accuracy.

    Args:
        first_right_tokens: tokens up to and including the first right intermediate answer, [responses]; any number where
            there is none.
        tokens: all tokens of the response, in the same unit, [responses].
        ever_right: whether some intermediate or final answer is right, [responses].

    >>> ever = np.array([True, True, False])
    >>> round(outcome_efficiency(np.array([39.0, 400, 0]), np.array([901.0, 400, 1000]), ever), 4)
    0.3478

    Source: Do NOT Think That Much for 2+3=? (arXiv 2412.21187) eq. 1.
    """
    return float(np.where(ever_right, first_right_tokens / tokens, 0.0).mean())


def process_efficiency(answers: Sequence[Sequence[str]], tokens: Sequence[Sequence[float]]) -> float:
    """Return the mean share of tokens spent on solutions whose answer is new: ``mean_i D_i / T_i``.

    Args:
        answers: of each response, the answers of its solutions in their order.
        tokens: of each response, the tokens of these solutions.

    >>> process_efficiency([["7", "7", "8"], ["7"]], [[100, 50, 50], [30]])
    0.875

    Source: Do NOT Think That Much for 2+3=? (arXiv 2412.21187) eq. 2, where a model judges which solutions are alike; equal
    answers stand for that here (our choice).
    """
    shares = []
    for row, lengths in zip(answers, tokens, strict=True):
        new = [answer not in row[:i] for i, answer in enumerate(row)]
        shares.append(sum(length for length, is_new in zip(lengths, new, strict=True) if is_new) / sum(lengths))
    return float(np.mean(shares))


def underthinking(first_right_tokens: Lengths, tokens: Lengths) -> float:
    """Return the mean share of tokens of wrong responses that came after a right thought: ``mean_i (1 - That_i / T_i)``.

    Args:
        first_right_tokens: tokens up to and including the first right thought, ``tokens`` itself where there is none,
            [responses].
        tokens: all tokens of each wrong response, [responses].

    >>> underthinking(np.array([200.0, 1000.0]), np.array([1000.0, 1000.0]))
    0.4

    Source: Thoughts Are All Over the Place (arXiv 2501.18585).
    """
    return float((1 - first_right_tokens / tokens).mean())


class Scan(NamedTuple):
    """What answers forced at several points of a response say; shares in [0, 1], nan without responses to speak of."""

    outcome_efficiency: float
    flipped_to_wrong: float
    wasted: float
    underthinking: float


def intermediate_scan(
    right_at: Bool[np.ndarray, "responses points"], tokens_at: Float[np.ndarray, "responses points"]
) -> Scan:
    """Return over- and underthinking from answers forced at points of a response, the last one its own end.

    ``flipped_to_wrong``: share of responses, among those right at some point, that are wrong at the end. ``wasted``: mean
    of ``1 - That / T`` over responses right at the end, with the first right point That; ``underthinking``: the same over
    responses wrong at the end, ``That = T`` where no point is right.

    Args:
        right_at: whether the answer forced there is right, [responses, points].
        tokens_at: think tokens at each point, increasing, [responses, points].

    >>> right = np.array([[False, True, True], [True, False, False], [False, False, False]])
    >>> scan = intermediate_scan(right, np.array([[10.0, 20, 40]] * 3))
    >>> [round(share, 3) for share in scan]
    [0.25, 0.5, 0.5, 0.375]

    Source: our choice, with the measures of arXiv 2412.21187 and 2501.18585.
    """
    ever, end = np.asarray(right_at.any(axis=1)), right_at[:, -1]
    total = tokens_at[:, -1]
    first = np.where(ever, tokens_at[np.arange(len(right_at)), right_at.argmax(axis=1)], total)
    spare = 1 - first / total
    return Scan(
        outcome_efficiency(first, total, ever),
        _mean(~end[ever]),
        _mean(spare[end]),
        _mean(spare[~end]),
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


class Reflection(NamedTuple):
    """Words of doubt: share of responses that hold any, hits a response, hits a thousand tokens."""

    share: float
    per_response: float
    per_kilotoken: float


def reflection(texts: Sequence[str], tokens: Sequence[float], words: Sequence[str] = REFLECTION_WORDS) -> Reflection:
    """Count reflection words, whatever their case, at word boundaries; of overlapping ones the longest counts.

    Args:
        texts: responses.
        tokens: completion tokens of each.
        words: what is counted.

    Raises:
        ValueError: when there are no texts, or not as many tokens.

    >>> reflection(["Wait, let me check. WAIT!", "Fine; the waiter came."], [80, 20])
    Reflection(share=0.5, per_response=1.5, per_kilotoken=30.0)

    Source: Unlocking Efficient Long-to-Short LLM Reasoning with Model Merging (arXiv 2503.20641) section 6; the rates are
    our choice.
    """
    if not texts or len(texts) != len(tokens):
        raise ValueError(f"{len(texts)} texts and {len(tokens)} lengths")
    longest_first = sorted(words, key=len, reverse=True)
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, longest_first)) + r")\b", re.IGNORECASE)
    hits = [len(pattern.findall(text)) for text in texts]
    total = sum(hits)
    spent = sum(tokens)
    return Reflection(
        sum(hit > 0 for hit in hits) / len(texts), total / len(texts), 1000 * total / spent if spent else 0.0
    )


def is_loop(ids: Sequence[int], window_tokens: int = LOOP_TOKENS, repeats: int = LOOP_REPEATS) -> bool:
    """Tell whether the end of a response repeats itself: the last ``window_tokens`` tokens have a short period.

    Args:
        ids: token ids of the completion.
        window_tokens: tokens at the end that are looked at; shorter responses are no loops.
        repeats: how often the period must fit into the window.

    >>> is_loop([9] + [1, 2, 3] * 100, window_tokens=12), is_loop(list(range(300)))
    (True, False)

    Source: our choice.
    """
    if len(ids) < window_tokens:
        return False
    end = np.asarray(ids[-window_tokens:])
    periods = range(1, window_tokens // repeats + 1)
    return any(bool((end[period:] == end[:-period]).all()) for period in periods)
