"""Length rewards that look at a whole group: a rollout is judged beside the other rollouts of its problem.

Everywhere: lengths in completion tokens, groups of consecutive rows, a cut rollout counts as wrong, nan = unscored.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reason_rl.algorithm.reward import Reward, Rows
from reason_rl.errors import RecipeError
from reason_rl.rollout.batch import RolloutBatch

Groups = Float[Tensor, "groups group_size"]
EFFICIENT_EPSILON = 1e-7
LEAD_EPSILON = 1e-6
LEAD_SHORTEST = 3


def in_groups(batch: RolloutBatch) -> tuple[Groups, Bool[Tensor, "groups group_size"]]:
    """Return lengths and which rollouts are right and finished, one row a group.

    Raises:
        RecipeError: when groups differ in size.

    >>> from reason_rl.rollout.batch import example_batch
    >>> lengths, right = in_groups(example_batch([1, 1, 0], [5, 9, 7], cut=[False, True, False]))
    >>> lengths.tolist(), right.tolist()
    ([[5.0, 9.0, 7.0]], [[True, False, False]])
    """
    if batch.group_sizes is not None:
        raise RecipeError("algorithm.curriculum.problems: this reward compares rollouts of groups that are of one size")
    right = (batch.correct == 1) & ~batch.truncated
    return batch.length.float().view(-1, batch.group_size), right.view(-1, batch.group_size)


def unscored_stay(values: Groups, batch: RolloutBatch) -> Rows:
    """Return the rows of the groups, nan where a row has no verdict."""
    return torch.where(batch.correct.isnan(), torch.nan, values.flatten())


def right_mean(lengths: Groups, right: Bool[Tensor, "groups group_size"]) -> Float[Tensor, "groups 1"]:
    """Return the mean length of the right rollouts of each group, 0 where none is right.

    >>> right_mean(torch.tensor([[2.0, 4.0, 9.0]]), torch.tensor([[True, True, False]])).tolist()
    [[3.0]]
    """
    count = right.sum(dim=1, keepdim=True).clamp(min=1)
    return (lengths * right).sum(dim=1, keepdim=True) / count


def right_std(
    lengths: Groups, right: Bool[Tensor, "groups group_size"], correction: int = 0
) -> Float[Tensor, "groups 1"]:
    """Return the standard deviation of the right rollouts' lengths, 0 where fewer than two are right.

    >>> right_std(torch.tensor([[2.0, 4.0, 9.0]]), torch.tensor([[True, True, False]])).tolist()
    [[1.0]]
    """
    deviation = (lengths - right_mean(lengths, right)) * right
    count = right.sum(dim=1, keepdim=True)
    return torch.sqrt(deviation.square().sum(dim=1, keepdim=True) / (count - correction).clamp(min=1))


def relative_length() -> Reward:
    """Return ``lam = 0.5 - (L - Lmin) / (Lmax - Lmin)`` for a right answer, ``min(0, lam)`` for a wrong one.

    Extremes are over all rollouts of the group; 0 for all where they have one length. Where nobody is right, only the
    longer half is pushed down, so length shrinks all the same.

    >>> from reason_rl.rollout.batch import example_batch
    >>> [round(r, 4) for r in relative_length()(example_batch([1, 1, 1, 0], [1000, 2000, 3000, 4000])).tolist()]
    [0.5, 0.1667, -0.1667, -0.5]

    Source: Kimi k1.5 (arXiv 2501.12599).
    """

    def reward(batch: RolloutBatch) -> Rows:
        lengths, right = in_groups(batch)
        low, high = lengths.amin(dim=1, keepdim=True), lengths.amax(dim=1, keepdim=True)
        values = 0.5 - (lengths - low) / (high - low).clamp(min=1.0)
        values = torch.where(right, values, values.clamp(max=0.0))
        return unscored_stay(torch.where(high > low, values, 0.0), batch)

    return reward


def efficient(alpha: float) -> Reward:
    """Return ``c (1 - alpha sigmoid((L - mean) / (std + 1e-7)))``, mean and population std of the right rollouts' lengths.

    Args:
        alpha: the largest share of the reward that length can take, in [0, 1).

    Raises:
        RecipeError: when ``alpha`` is not in [0, 1).

    >>> from reason_rl.rollout.batch import example_batch
    >>> [round(r, 5) for r in efficient(0.1)(example_batch([1, 1, 1, 0], [1000, 2000, 3000, 4000])).tolist()]
    [0.97729, 0.95, 0.92271, 0.0]

    Source: Training Language Models to Reason Efficiently (arXiv 2502.04463); std as in the released code.
    """
    if not 0 <= alpha < 1:
        raise RecipeError(f"efficient reasoning: alpha {alpha} is not in [0, 1)")

    def reward(batch: RolloutBatch) -> Rows:
        lengths, right = in_groups(batch)
        z = (lengths - right_mean(lengths, right)) / (right_std(lengths, right) + EFFICIENT_EPSILON)
        return unscored_stay(right * (1 - alpha * torch.sigmoid(z)), batch)

    return reward


def easy_length_penalty(beta: float, max_tokens: int) -> Reward:
    """Return ``c - beta max(p, 1 / K) L / max_tokens``, p the share right of the problem's K rollouts.

    Args:
        beta: what a rollout of ``max_tokens`` costs where all are right, at least 0.
        max_tokens: completion tokens that lengths are divided by.

    Raises:
        RecipeError: when ``beta`` is negative or ``max_tokens`` below 1.

    >>> from reason_rl.rollout.batch import example_batch
    >>> [round(r, 4) for r in easy_length_penalty(0.2, 4000)(example_batch([1, 1, 1, 0], [1000, 2000, 3000, 4000])).tolist()]
    [0.9625, 0.925, 0.8875, -0.15]

    Source: Just Enough Thinking (arXiv 2506.05256).
    """
    if beta < 0 or max_tokens < 1:
        raise RecipeError(f"adaptive length penalty: beta {beta} is negative, or max_tokens {max_tokens} below 1")

    def reward(batch: RolloutBatch) -> Rows:
        lengths, right = in_groups(batch)
        rate = right.float().mean(dim=1, keepdim=True).clamp(min=1 / batch.group_size)
        return unscored_stay(right.float() - beta * rate * lengths / max_tokens, batch)

    return reward


def distance_to_shortest(right_reward: float, token_penalty: float) -> Reward:
    """Return ``right_reward c - token_penalty |L - L*|``: L* the shortest right length, the mean length if none is right.

    Wrong answers are pulled to L* too, also from below.

    >>> from reason_rl.rollout.batch import example_batch
    >>> reward = distance_to_shortest(2.0, 0.001)
    >>> [round(r, 4) for r in reward(example_batch([1, 1, 1, 0], [1000, 2000, 3000, 4000])).tolist()]
    [2.0, 1.0, 0.0, -3.0]

    Source: ShorterBetter (arXiv 2504.21370).
    """

    def reward(batch: RolloutBatch) -> Rows:
        lengths, right = in_groups(batch)
        shortest = torch.where(right, lengths, torch.inf).amin(dim=1, keepdim=True)
        target = torch.where(shortest.isinf(), lengths.mean(dim=1, keepdim=True), shortest)
        return unscored_stay(right_reward * right - token_penalty * (lengths - target).abs(), batch)

    return reward


def difficulty_budget(max_tokens: int) -> Reward:
    """Return DAST's reward against a budget that grows with difficulty: ``B = p Lr + (1 - p) max``, ``lam = (L - B) / B``.

    Right: ``max(0.5 - 0.5 lam, 0.1)``; wrong: ``min(0.9 lam - 0.1, -0.1)``. p is the group's share right, Lr the mean length
    of its right rollouts (the paper takes both from samples made beforehand). Any right answer beats any wrong one.

    Args:
        max_tokens: completion tokens; the budget of a problem that nobody solves.

    Raises:
        RecipeError: when ``max_tokens`` is not positive.

    >>> from reason_rl.rollout.batch import example_batch
    >>> values = difficulty_budget(4096)(example_batch([1, 1, 1, 0], [1000, 2000, 3000, 4000]))
    >>> [round(r, 4) for r in values.tolist()]
    [0.8019, 0.6038, 0.4057, -0.1]

    Source: DAST (arXiv 2503.04472).
    """
    if max_tokens <= 0:
        raise RecipeError(f"dast: max_tokens {max_tokens} is not positive")

    def reward(batch: RolloutBatch) -> Rows:
        lengths, right = in_groups(batch)
        share = right.float().mean(dim=1, keepdim=True)
        budget = share * right_mean(lengths, right) + (1 - share) * max_tokens
        over = (lengths - budget) / budget.clamp(min=1.0)
        values = torch.where(right, (0.5 - 0.5 * over).clamp(min=0.1), (0.9 * over - 0.1).clamp(max=-0.1))
        return unscored_stay(values, batch)

    return reward


def lead(alpha: float, gate_tokens: int) -> Reward:
    """Return ``exp(-alpha z)`` for a right answer and -1 for a wrong one, ``z = (L - mean) / (std + 1e-6)`` over right ones.

    The std is Bessel-corrected, 1 for a single right answer. Lengths count only where the group's three shortest rollouts
    have more than ``gate_tokens`` on average; elsewhere 1 and -1.

    >>> from reason_rl.rollout.batch import example_batch
    >>> values = lead(0.05, 4000)(example_batch([1, 1, 1, 0], [5000, 6000, 7000, 8000]))
    >>> [round(r, 4) for r in values.tolist()]
    [1.0513, 1.0, 0.9512, -1.0]

    Source: GRPO-LEAD (arXiv 2504.09696); the gate is in the released code only.
    """

    def reward(batch: RolloutBatch) -> Rows:
        lengths, right = in_groups(batch)
        std = torch.where(right.sum(dim=1, keepdim=True) > 1, right_std(lengths, right, correction=1), 1.0)
        z = (lengths - right_mean(lengths, right)) / (std + LEAD_EPSILON)
        shortest = lengths.sort(dim=1).values[:, :LEAD_SHORTEST].mean(dim=1, keepdim=True)
        scaled = torch.where(shortest > gate_tokens, torch.exp(-alpha * z), 1.0)
        return unscored_stay(torch.where(right, scaled, -1.0), batch)

    return reward


def shortest_right_share(weight: float, dynamic: bool) -> Reward:
    """Return ``c weight Lmin / L``: Lmin the shortest right length; ``dynamic`` multiplies by the group's share right.

    >>> from reason_rl.rollout.batch import example_batch
    >>> values = shortest_right_share(0.5, dynamic=False)(example_batch([1, 1, 1, 0], [1000, 2000, 3000, 4000]))
    >>> [round(r, 4) for r in values.tolist()]
    [0.5, 0.25, 0.1667, 0.0]

    Source: the idea of Self-Rewarded Efficiency RL (arXiv 2506.15647); the formula is ours, the paper's was not at hand.
    """

    def reward(batch: RolloutBatch) -> Rows:
        lengths, right = in_groups(batch)
        shortest = torch.where(right, lengths, torch.inf).amin(dim=1, keepdim=True)
        share = right.float().mean(dim=1, keepdim=True) if dynamic else 1.0
        bonus = torch.where(right, shortest / lengths.clamp(min=1.0), 0.0)
        return unscored_stay(weight * share * bonus, batch)

    return reward


def adaptive_bonus(bonus: float, easy: float, hard: float) -> Reward:
    """Return ``bonus`` for short right answers to easy problems and for long wrong ones to hard problems, else 0.

    With ``acc = right / (G + 0.001)``: easy where ``acc >= easy``, hard where ``acc < hard``; short and long are at most
    and at least the median length of the right rollouts (of all where none is right; the lower one of two medians).

    >>> from reason_rl.rollout.batch import example_batch
    >>> adaptive_bonus(0.05, 0.95, 0.3)(example_batch([1, 0, 0, 0], [1000, 2000, 3000, 900])).tolist()
    [0.0, 0.05000000074505806, 0.05000000074505806, 0.0]

    Source: DR. SAF (arXiv 2508.11582); constants of the released code.
    """

    def reward(batch: RolloutBatch) -> Rows:
        lengths, right = in_groups(batch)
        accuracy = right.sum(dim=1, keepdim=True) / (batch.group_size + 0.001)
        counted = torch.where(right | ~right.any(dim=1, keepdim=True), lengths, torch.nan)
        middle = counted.nanmedian(dim=1, keepdim=True).values
        paid = (accuracy >= easy) & right & (lengths <= middle)
        paid |= (accuracy < hard) & ~right & (lengths >= middle)
        return unscored_stay(bonus * paid, batch)

    return reward
