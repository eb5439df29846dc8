"""Guardian: a slow controller that moves the temperature of the prior, and only while the run is getting better.

Source: RPA (arXiv 2603.09253), Guardian. Ours: the gain gate, the reward baseline, what it sees in RL, and that the
temperature divides the weight of a loss term.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from reason_rl.algorithm.store import Observed, Policy, State, Store

HIDDEN = 64
ACTIONS = 3
SHAPES = ((HIDDEN, 4), (HIDDEN,), (HIDDEN, HIDDEN), (HIDDEN,), (ACTIONS, HIDDEN), (ACTIONS,), (ACTIONS,))


@dataclass(frozen=True)
class Knobs:
    """What Guardian turns: the temperature of the prior, and two weights of the paper's that nothing here reads."""

    tau: float = 1.0
    lambda_delta: float = 0.0
    lambda_sat: float = 0.0


def turned(knobs: Knobs, action: Sequence[float], beta: float = 1.0, tau_max: float = 1.6) -> Knobs:
    """Return the knobs after an action: steps of 0.03 and 0.01, a pull back above ``tau_max``, and the paper's ranges.

    >>> [round(turned(Knobs(tau), (steps, 0, 0)).tau, 4) for tau, steps in ((0.68, 1), (1.59, 2))]
    [0.71, 1.6]
    """
    tau = knobs.tau + 0.03 * beta * action[0]
    tau -= 0.10 * max(0.0, tau - tau_max)
    return Knobs(
        min(max(tau, 0.3), tau_max),
        min(max(knobs.lambda_delta + 0.01 * beta * action[1], 0.0), 1.0),
        min(max(knobs.lambda_sat + 0.01 * beta * action[2], 0.0), 0.6),
    )


def relaxed(knobs: Knobs, rest: float = 1.0) -> Knobs:
    """Return the knobs a tenth of the way back to rest.

    >>> relaxed(Knobs(0.5)).tau
    0.55
    """
    return replace(knobs, tau=knobs.tau + 0.1 * (rest - knobs.tau))


def reward(metric: float, gain: float, zone: float) -> float:
    """Return ``metric + max(0, gain) + 0.1 sigmoid((metric - zone) / 0.02)``.

    >>> round(reward(0.8, 0.1, 0.8), 4)
    0.95
    """
    return metric + max(0.0, gain) + 0.1 / (1 + math.exp(-max(-50.0, min(50.0, (metric - zone) / 0.02))))


def initial_weights(seed: int) -> list[Tensor]:
    """Return a policy of 4 inputs, two layers of 64 tanh units and 3 means, with free log deviations of 0."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=draw) / math.sqrt(s[1]) if len(s) == 2 else torch.zeros(s) for s in SHAPES]


def log_probability(weights: Sequence[Tensor], seen: Tensor, action: Tensor) -> Tensor:
    """Return the log-density of an action, up to a constant."""
    deviation = weights[6].exp()
    return -(0.5 * ((action - means(weights, seen)) / deviation) ** 2 + weights[6]).sum()


def means(weights: Sequence[Tensor], seen: Tensor) -> Tensor:
    """Return the mean action for what is seen, [3]."""
    first, first_bias, second, second_bias, last, last_bias, _ = weights
    hidden = torch.tanh(second @ torch.tanh(first @ seen + first_bias) + second_bias)
    return last @ hidden + last_bias


def learned(state: State, seen: Tensor, action: Tensor, advantage: float, rate: float) -> State:
    """Return the state after one REINFORCE step of Adam on ``-advantage log p(action)``."""
    weights = [torch.tensor(w).requires_grad_() for w in state["weights"]]
    gradients = torch.autograd.grad(-advantage * log_probability(weights, seen, action), weights)
    count = state["updates"] + 1
    first = [0.9 * torch.tensor(m) + 0.1 * g for m, g in zip(state["first"], gradients, strict=True)]
    second = [0.999 * torch.tensor(v) + 0.001 * g**2 for v, g in zip(state["second"], gradients, strict=True)]
    moved = [
        w.detach() - rate * (m / (1 - 0.9**count)) / ((v / (1 - 0.999**count)).sqrt() + 1e-8)
        for w, m, v in zip(weights, first, second, strict=True)
    ]
    lists = {"weights": moved, "first": first, "second": second}
    return {**state, **{name: [t.tolist() for t in tensors] for name, tensors in lists.items()}, "updates": count}


@dataclass(frozen=True)
class Guardian(Policy):
    """Turns the knobs after every ``every`` generations by a learned policy, if the metric has improved; relaxes them if not.

    The metric is ``accuracy - token_weight tokens / max_tokens`` of the generation's rollouts, smoothed; the policy sees
    (gain, tokens / max_tokens, entropy of the memberships, metric) and learns from ``reward - its running mean``.

    Args:
        max_tokens: completion tokens that lengths are divided by.
        entropy: of the memberships, in nats; a constant of the prior.
        every: generations between two decisions.
        window: decisions that a gain is measured over.
        least_gain: of the smoothed metric, for the gate to open.
        token_weight, rate, beta, tau_max, seed: of the metric, of Adam, of the steps, the temperature's limit, of the noise.

    Source: RPA (arXiv 2603.09253), Guardian; gate and metric: ours.
    """

    max_tokens: int
    entropy: float
    every: int = 1
    window: int = 5
    least_gain: float = 0.002
    token_weight: float = 0.2
    rate: float = 1e-3
    beta: float = 1.0
    tau_max: float = 1.6
    seed: int = 0

    name = "guardian"

    def initial_state(self) -> State:
        """Return knobs at rest and an untrained policy."""
        weights = [w.tolist() for w in initial_weights(self.seed)]
        zeros = [torch.zeros(s).tolist() for s in SHAPES]
        return {
            "knobs": asdict(Knobs()),
            "generations": 0,
            "smoothed": [],
            "baseline": None,
            "zone": None,
            "acted": None,
            "weights": weights,
            "first": zeros,
            "second": zeros,
            "updates": 0,
        }

    def after_generation(self, state: State, groups: Sequence[Observed]) -> State:
        """Return the state after a generation: measured, and at its turn learned and decided."""
        state = {**state, "generations": state["generations"] + 1}
        scored = [group for group in groups if group.scored]
        if not scored or state["generations"] % self.every:
            return state
        lengths = [n for group in scored for n in group.tokens]
        length = sum(lengths) / len(lengths) / self.max_tokens
        accuracy = sum(group.right for group in scored) / sum(group.scored for group in scored)
        return self.decide(state, accuracy - self.token_weight * length, length)

    def decide(self, state: State, metric: float, length: float) -> State:
        """Return the state after one decision: learn from the last action, then act if there was a gain, else relax."""
        before = state["smoothed"]
        smoothed = [*before, metric if not before else 0.9 * before[-1] + 0.1 * metric][-self.window - 1 :]
        gain = smoothed[-1] - smoothed[0]
        zone = metric if state["zone"] is None else state["zone"]
        value = reward(metric, gain, zone)
        if state["acted"] is not None:
            seen, action = (torch.tensor(part) for part in state["acted"])
            state = learned(state, seen, action, value - state["baseline"], self.rate)
        baseline = value if state["baseline"] is None else 0.9 * state["baseline"] + 0.1 * value
        state = {**state, "smoothed": smoothed, "zone": zone, "baseline": baseline, "acted": None}
        knobs = Knobs(**state["knobs"])
        if len(smoothed) <= self.window or gain < self.least_gain:
            return {**state, "knobs": asdict(relaxed(knobs))}
        seen = torch.tensor([gain, length, self.entropy, metric])
        weights = [torch.tensor(w) for w in state["weights"]]
        noise = torch.randn(
            ACTIONS, generator=torch.Generator().manual_seed(self.seed * 100_003 + state["generations"])
        )
        action = means(weights, seen) + weights[6].exp() * noise
        knobs = turned(knobs, action.tolist(), self.beta, self.tau_max)
        return {**state, "knobs": asdict(knobs), "acted": [seen.tolist(), action.tolist()]}


def temperature(store: Store) -> float:
    """Return the temperature that Guardian has set; 1 without it.

    >>> temperature(Store())
    1.0
    """
    state = store.states.get(Guardian.name)
    return 1.0 if state is None else float(state["knobs"]["tau"])


def last_decision(store: Store) -> dict[str, float]:
    """Return temperature, smoothed gain, and whether the last decision acted (1) or relaxed (0); nothing without Guardian.

    >>> last_decision(Store())
    {}
    """
    state = store.states.get(Guardian.name)
    return {} if state is None else decision(state)


def decision(state: State) -> dict[str, float]:
    """Return the same of a state of its own."""
    smoothed = state["smoothed"]
    return {
        "guardian_tau": float(state["knobs"]["tau"]),
        "guardian_gain": smoothed[-1] - smoothed[0] if smoothed else 0.0,
        "guardian_acted": float(state["acted"] is not None),
    }
