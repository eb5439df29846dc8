"""Curricula: which problems are drawn, by what is known of how often they are solved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from reason_rl.algorithm.store import Observed, Policy, Probe, State, Store
from reason_rl.errors import RecipeError

Array = np.ndarray
Problems = Float[Array, " problems"]


def draw(weights: Problems, count: int, seed: int) -> list[int]:
    """Return ``count`` different problems, drawn one after another with probabilities in proportion to the weights.

    A weight of 0 is drawn only when nothing else is left.

    Raises:
        RecipeError: when there are fewer problems than are to be drawn.

    >>> draw(np.array([0.0, 1.0, 0.0, 1.0]), 2, seed=0)
    [1, 3]

    Source: Efraimidis and Spirakis (2006): the smallest of exponential variables with the weights as rates.
    """
    if count > len(weights):
        raise RecipeError(f"data: {len(weights)} problems, {count} are to be drawn at a time")
    noise = np.random.Generator(np.random.Philox(key=seed)).exponential(size=len(weights))
    with np.errstate(divide="ignore"):
        times = noise / weights
    # Sorted by time, and problems of weight 0 (whose times are infinite) among themselves by their noise.
    return [int(i) for i in np.lexsort((noise, times))[:count]]


def posterior_mean(right: Problems, rollouts: Problems) -> Problems:
    """Return the mean of Beta(right + 1, wrong + 1), ``(a + 1) / (n + 2)``: the success rate, never 0 or 1.

    >>> posterior_mean(np.array([0.0, 4.0]), np.array([4.0, 4.0])).round(4).tolist()
    [0.1667, 0.8333]

    Source: CurES (arXiv 2510.01037) section 4.3; the released code adds the 1, the paper's Beta(a, b) does not.
    """
    return np.asarray((right + 1) / (rollouts + 2))


def prompt_weights(success: Problems, temperature: float) -> Problems:
    """Return ``rho_i = exp(sqrt(p_i (1 - p_i)) / tau) / sum``: problems of medium difficulty most.

    >>> prompt_weights(np.array([1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6]), 0.1).round(4).tolist()
    [0.0914, 0.2453, 0.3265, 0.2453, 0.0914]

    Source: CurES (arXiv 2510.01037) eq. 14. The released sampler has another temperature, which makes it uniform.
    """
    scores = np.sqrt(success * (1 - success)) / temperature
    weights = np.exp(scores - scores.max())
    return np.asarray(weights / weights.sum())


def shares(noise: Problems, rollouts: int, smallest: int) -> Problems:
    """Return ``n_i = N sigma_i / sum_j sigma_j``: rollouts a problem before rounding, at least ``smallest``.

    Raises:
        RecipeError: when ``rollouts`` are too few.

    >>> shares(np.sqrt(np.array([5, 8, 9, 8, 5]) / 36), 40, 2).round(2).tolist()
    [6.81, 8.62, 9.14, 8.62, 6.81]

    Source: CurES (arXiv 2510.01037) eq. 20.
    """
    if rollouts < smallest * len(noise):
        raise RecipeError(f"{rollouts} rollouts for {len(noise)} problems: fewer than {smallest} each")
    exact = np.full(len(noise), float(smallest))
    free = np.ones(len(noise), dtype=bool)
    # Those whose share is below the smallest get it, and the others share what is left.
    while free.any():
        rest = rollouts - smallest * int((~free).sum())
        exact[free] = rest * noise[free] / noise[free].sum()
        below = free & (exact < smallest)
        exact[below] = smallest
        free &= ~below
        if not below.any():
            break
    return exact


def allocate(noise: Problems, rollouts: int, smallest: int) -> Int[Array, " problems"]:
    """Return the `shares`, whole, ``rollouts`` in all: rounded by largest remainders.

    The rounding is our choice; the released code rounds to the nearest and loses the sum.

    >>> allocate(np.sqrt(np.array([5, 8, 9, 8, 5]) / 36), 40, 2).tolist()
    [7, 9, 9, 8, 7]
    """
    exact = shares(noise, rollouts, smallest)
    counts = np.floor(exact + 1e-9).astype(int)
    order = np.argsort(-(exact - counts).round(9), kind="stable")
    counts[order[: rollouts - counts.sum()]] += 1
    return np.asarray(counts)


def gradient_noise(success: float, right_norm: float, wrong_norm: float, difference_norm: float) -> float:
    """Return the trace of the variance of one rollout's gradient, ``(r - p) g``, clamped at 0.

    ``sigma^2 = p (1-p)^2 E1|g|^2 + p^2 (1-p) E0|g|^2 - p^2 (1-p)^2 |E1 g - E0 g|^2``; with equal norms of 1 and without
    the last term this is ``p (1 - p)``.

    Args:
        success: p.
        right_norm, wrong_norm: mean squared gradient norm of right and of wrong rollouts.
        difference_norm: squared norm of the difference of the mean gradients.

    >>> gradient_noise(0.5, 1.0, 1.0, 0.0)
    0.25

    Source: CurES (arXiv 2510.01037) eq. 21. The released code takes the difference of mean norms instead.
    """
    p, q = success, 1 - success
    return max(0.0, p * q**2 * right_norm + p**2 * q * wrong_norm - (p * q) ** 2 * difference_norm)


class Curriculum(Policy, ABC):
    """Base of policies that choose the problems of a rollout batch."""

    name = "curriculum"

    @abstractmethod
    def weights(self, store: Store, problem_ids: Sequence[str]) -> Problems:
        """Return the weight of each training problem in the coming draw."""

    @property
    def sizes_differ(self) -> bool:
        """Whether a problem may be drawn several times at once: its rollouts are then one larger group."""
        return False

    def check(self, count: int, parts: int) -> None:
        """Raise RecipeError when ``count`` groups on ``parts`` ranks cannot be drawn; known before anything is sampled."""

    def draw(self, store: Store, problem_ids: Sequence[str], count: int, seed: int, parts: int = 1) -> list[int]:
        """Return the numbers of the problems to roll out, the same on all ranks.

        Args:
            count: groups to fill.
            parts: ranks, each of which gets as many groups; a problem that is drawn several times stays on one.
        """
        return draw(self.weights(store, problem_ids), count, seed)


@dataclass(frozen=True)
class PassRateBand(Curriculum):
    """Draws problems whose pass rate, as far as known, is in a band; the others with a small weight, to measure them again.

    Unknown problems count as in the band. The weight of the others is our choice.

    >>> from reason_rl.algorithm.store import after_generation
    >>> store = after_generation(Store(), [], [Observed("a", (1.0, 1.0), (30, 40))])
    >>> PassRateBand(0.1, 0.9, 0.05).weights(store, ["a", "b"]).tolist()
    [0.05, 1.0]
    """

    low: float
    high: float
    outside_weight: float

    def weights(self, store: Store, problem_ids: Sequence[str]) -> Problems:
        """Return 1 in the band and for unknown problems, else the small weight."""
        rates = [store.pass_rate(name) for name in problem_ids]
        inside = [rate is None or self.low <= rate <= self.high for rate in rates]
        return np.where(inside, 1.0, self.outside_weight)


@dataclass(frozen=True)
class Cures(Curriculum):
    """Draws by the posterior of the success rate, most from problems solved half of the time.

    Its state counts right rollouts and rollouts of each problem. They start from a probe of every problem, are renewed by
    each generation, and forget: each generation multiplies them by ``decay`` (our choice; the paper cuts its data into
    parts and counts anew in each).

    >>> policy = Cures(temperature=0.1, decay=0.5, probe_rollouts=4)
    >>> state = policy.after_probe({}, [Observed("a", (1.0, 0.0, 0.0, 0.0), (9, 9, 9, 9))])
    >>> policy.after_generation(state, [Observed("a", (1.0, 1.0), (9, 9))])
    {'a': [2.5, 4.0]}

    Source: CurES (arXiv 2510.01037) section 4.3.
    """

    temperature: float
    decay: float
    probe_rollouts: int
    problems: int | None = None

    @property
    def sizes_differ(self) -> bool:
        """Whether rollouts are shared out by noise."""
        return self.problems is not None

    def check(self, count: int, parts: int) -> None:
        """Raise RecipeError when problems or groups cannot be shared out evenly to the parts, or are too few.

        >>> Cures(temperature=0.1, decay=1.0, probe_rollouts=4, problems=2).check(count=6, parts=2)
        """
        if self.problems is not None and (self.problems > count or self.problems % parts or count % parts):
            raise RecipeError(
                f"algorithm.curriculum.problems: {self.problems} problems cannot share {count} groups of num_generations "
                f"rollouts on {parts} processes; name at most {count}, a multiple of {parts}"
            )

    def draw(self, store: Store, problem_ids: Sequence[str], count: int, seed: int, parts: int = 1) -> list[int]:
        """Return the numbers of the problems to roll out, one for each of ``count`` groups.

        With ``problems`` so many are drawn, and each gets groups in proportion to ``sigma = sqrt(p (1 - p))``, at least one:
        its rollouts are one group of all of them. That is eq. 20 with gradients of equal norm (our choice: the norms of
        eq. 21 would need a backward pass a rollout).

        Raises:
            RecipeError: as `check`.

        >>> policy = Cures(temperature=0.1, decay=1.0, probe_rollouts=4, problems=2)
        >>> store = Store(states={"curriculum": {"a": [0.0, 98.0], "b": [49.0, 98.0]}})
        >>> policy.draw(store, ["a", "b"], count=6, seed=0)
        [0, 1, 1, 1, 1, 1]
        """
        if self.problems is None:
            return super().draw(store, problem_ids, count, seed, parts)
        self.check(count, parts)
        success = self.success(store, problem_ids)
        drawn = draw(prompt_weights(success, self.temperature), self.problems, seed)
        noise = np.sqrt(success * (1 - success))
        result = []
        for part in np.array(drawn).reshape(parts, -1):
            result += np.repeat(part, allocate(noise[part], count // parts, 1)).tolist()
        return result

    def probe(self, store: Store, problem_ids: Sequence[str]) -> Probe | None:
        """Ask for every problem before the first generation, unless a difficulty table has them already."""
        if store.generation or not self.probe_rollouts:
            return None
        unknown = tuple(name for name in problem_ids if name not in store.references)
        return Probe(unknown, self.probe_rollouts) if unknown else None

    def after_probe(self, state: State, groups: Sequence[Observed]) -> State:
        """Return the counts of the probe."""
        return {**state, **{group.problem_id: [float(group.right), float(group.scored)] for group in groups}}

    def after_generation(self, state: State, groups: Sequence[Observed]) -> State:
        """Return the counts, aged by one generation, with the groups that were sampled."""
        aged = {name: [self.decay * right, self.decay * rollouts] for name, (right, rollouts) in state.items()}
        for group in groups:
            right, rollouts = aged.get(group.problem_id, [0.0, 0.0])
            aged[group.problem_id] = [right + group.right, rollouts + group.scored]
        return aged

    def success(self, store: Store, problem_ids: Sequence[str]) -> Problems:
        """Return the posterior mean of each problem; counts of a reference come on top."""
        counts = [self._counts(store, name) for name in problem_ids]
        right, rollouts = np.array(counts, dtype=float).T
        return posterior_mean(right, rollouts)

    def weights(self, store: Store, problem_ids: Sequence[str]) -> Problems:
        """Return the probability of each problem."""
        return prompt_weights(self.success(store, problem_ids), self.temperature)

    def _counts(self, store: Store, name: str) -> tuple[float, float]:
        right, rollouts = store.states[self.name].get(name, (0.0, 0.0))
        reference = store.references.get(name)
        if reference is None:
            return right, rollouts
        # A reference was counted before the first generation and is forgotten like the rest.
        left = self.decay**store.generation
        return right + left * reference.right, rollouts + left * reference.rollouts


def make_curriculum(spec: Any) -> Curriculum | None:
    """Build the policy that the recipe's ``algorithm.curriculum`` names; None without one.

    Raises:
        RecipeError: for a band without a pass rate in it.
        ValueError: for an unknown name.
    """
    if spec is None:
        return None
    if spec.use == "band":
        if spec.low > spec.high:
            raise RecipeError(f"algorithm.curriculum: low {spec.low} is above high {spec.high}")
        return PassRateBand(spec.low, spec.high, spec.outside_weight)
    if spec.use == "cures":
        return Cures(spec.temperature, spec.decay, spec.probe_rollouts, spec.problems)
    raise ValueError(f"unknown curriculum {spec.use!r}")
