"""DiffAdapt: the state at the end of the prompt tells how hard a problem is, and that chooses how long to think."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reason_rl.errors import RecipeError
from reason_rl.stopping.rule import GO, Action, Elicitor, Insert, Look

Difficulty = Literal["easy", "normal", "hard"]
KINDS: tuple[Difficulty, ...] = ("easy", "normal", "hard")
Flat = Float[np.ndarray, " problems"]


@dataclass(frozen=True)
class Strategy:
    """What is done for problems of one kind: a hint written before thinking, and think tokens at most (None = no cap)."""

    max_think_tokens: int | None = None
    hint: tuple[int, ...] = ()


def shares_of(max_tokens: int, easy: float = 0.4, normal: float = 1.0, hard: float = 0.5) -> dict[Difficulty, Strategy]:
    """Return the strategies with the paper's shares of the token cap; a share of 1 is no cap of its own.

    >>> shares_of(1000)["easy"], shares_of(1000)["normal"]
    (Strategy(max_think_tokens=400, hint=()), Strategy(max_think_tokens=None, hint=()))

    Source: DiffAdapt (arXiv 2510.19669): 0.4, 1 and 0.5; its temperatures and longer prompts are left out.
    """
    shares: dict[Difficulty, float] = {"easy": easy, "normal": normal, "hard": hard}
    return {kind: Strategy(None if share >= 1 else round(share * max_tokens)) for kind, share in shares.items()}


def difficulties(accuracy: Flat | Sequence[float], entropy: Flat | Sequence[float]) -> list[Difficulty]:
    """Return the kind of each problem from the model's own samples: no labels by people.

    Hard: accuracy in the lowest third and entropy above the median. Easy: never wrong, or accuracy in the highest third,
    and entropy above the median. Normal: all others. The thresholds are not published; these are our choice.

    Args:
        accuracy: share of right samples of each problem.
        entropy: mean over its samples of the mean ``-log p`` of their tokens, in nats; unbiased for the mean entropy.

    >>> difficulties([0.0, 0.0, 0.5, 1.0, 1.0, 1.0], [0.9, 0.1, 0.2, 0.1, 0.8, 0.7])
    ['hard', 'normal', 'normal', 'normal', 'easy', 'easy']
    """
    right, spread = np.asarray(accuracy, dtype=float), np.asarray(entropy, dtype=float)
    low, high = np.quantile(right, [1 / 3, 2 / 3])
    restless = spread > np.median(spread)
    kinds: list[Difficulty] = []
    for share, moved in zip(right, restless, strict=True):
        if moved and share <= low and share < 1:
            kinds.append("hard")
        elif moved and share >= high:
            kinds.append("easy")
        else:
            kinds.append("normal")
    return kinds


@dataclass(frozen=True)
class DifficultyProbe:
    """A softmax over easy, normal and hard from one state: ``softmax(W h + b)``."""

    weight: Float[Tensor, "kinds width"]
    bias: Float[Tensor, " kinds"]

    def kind(self, state: Float[Tensor, " width"], least: float = 0.5) -> Difficulty:
        """Return the likeliest kind; normal when it is less likely than ``least`` (our choice) or the state not finite."""
        if not bool(state.isfinite().all()):
            return "normal"
        chances = (self.weight @ state.float() + self.bias).softmax(dim=-1)
        place = int(chances.argmax())
        return KINDS[place] if float(chances[place]) >= least else "normal"


def fit_difficulty(
    states: Float[Tensor, "problems width"], kinds: Sequence[Difficulty], steps: int = 300, decay: float = 1e-2
) -> DifficultyProbe:
    """Fit the softmax by full-batch L-BFGS on standardised states; the paper's probe is a small MLP.

    Raises:
        RecipeError: when all problems are of one kind.
    """
    if len(set(kinds)) < 2:
        raise RecipeError(
            f"difficulty probe: all {len(kinds)} problems are {kinds[0]}; use more, or more samples of each"
        )
    mean, std = states.mean(dim=0), states.std(dim=0).clamp(min=1e-6)
    scaled = (states - mean) / std
    targets = torch.tensor([KINDS.index(kind) for kind in kinds])
    weight = torch.zeros(len(KINDS), states.shape[1], requires_grad=True)
    bias = torch.zeros(len(KINDS), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(scaled @ weight.T + bias, targets) + decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    first = weight.detach() / std
    return DifficultyProbe(first, bias.detach() - first @ mean)


@dataclass(frozen=True)
class DiffAdapt:
    """Classifies a problem before its first think token and then follows the strategy of its kind.

    The state of a row is its kind; only the state at the first think position is read, so it costs nothing while decoding.

    Args:
        probe: fitted on states of the same layer of the same model.
        layers: one layer, the last in the paper.
        strategies: one for each kind.
        elicitor: what is written at a cap.

    Raises:
        ValueError: when a kind has no strategy.

    Source: DiffAdapt (arXiv 2510.19669), abstract and first sections; no code is public. Temperatures are not changed here.
    """

    probe: DifficultyProbe
    layers: tuple[int, ...]
    strategies: Mapping[Difficulty, Strategy]
    elicitor: Elicitor

    def __post_init__(self) -> None:
        missing = [kind for kind in KINDS if kind not in self.strategies]
        if missing:
            raise ValueError(f"no strategy for {', '.join(missing)} problems")

    def start(self) -> Difficulty | None:
        """Return no kind: nothing was seen yet."""
        return None

    def decide(self, state: Difficulty | None, look: Look) -> tuple[Difficulty | None, Action]:
        """Classify at the first look, then cut at the cap of the kind."""
        first = state is None
        if state is None:
            assert look.features is not None
            state = self.probe.kind(look.features)
        strategy = self.strategies[state]
        if strategy.max_think_tokens is not None and look.think_tokens >= strategy.max_think_tokens:
            return state, self.elicitor.exit()
        return state, Insert(strategy.hint) if first and strategy.hint else GO
