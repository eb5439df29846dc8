"""Cosine reward: r = low + (high - low) (1 + cos(pi length / max)) / 2, by correctness, lengths in completion tokens.

Source: Demystifying Long CoT (arXiv 2502.03373) section 4.2 and its table of hyper-parameters; with no r_exceed term.
"""

from reason_rl.algorithm.reward import Reward, cosine

TRUNCATION_PENALTY = True


def reward(
    *,
    max_tokens: int,
    right_short: float = 2.0,
    right_long: float = 1.0,
    wrong_short: float = -10.0,
    wrong_long: float = 0.0,
) -> Reward:
    """Return a reward that is best for short right answers and worst for short wrong ones."""
    return cosine(max_tokens, (right_short, right_long), (wrong_short, wrong_long))
