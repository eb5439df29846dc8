"""Fitting a probe: a split by problem, balanced classes, early stopping."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from reason_rl.errors import RecipeError
from reason_rl.stopping.probe import HIDDEN, Kind, Probe, fold


@dataclass(frozen=True)
class FitOptions:
    """How a probe is fitted; the defaults are LYNX's, but for the split.

    Args:
        kind: logistic, or mlp with 256 and 64 hidden units.
        held_out: share of the problems kept for early stopping and for the figures reported.
        epochs: at most.
        patience: epochs without a lower loss on held-out problems.
        learning_rate, weight_decay, batch: of Adam.
        seed: of split, initial weights and order.
    """

    kind: Kind = "logistic"
    held_out: float = 0.2
    epochs: int = 500
    patience: int = 10
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    batch: int = 200
    seed: int = 42


@dataclass(frozen=True)
class Fit:
    """A fitted probe and how it does on problems it has not seen."""

    probe: Probe
    auc: float
    accuracy: float
    base_rate: float
    epochs: int
    cues: int
    problems: tuple[str, ...]
    held_out: tuple[str, ...]


def auc(scores: Sequence[float], right: Sequence[bool]) -> float:
    """Return the chance that a right cue scores above a wrong one, ties counting half; nan without both kinds.

    >>> auc([0.9, 0.4, 0.4, 0.1], [True, True, False, False])
    0.875
    """
    from scipy.stats import rankdata

    flags = np.asarray(right, dtype=bool)
    ones, noughts = int(flags.sum()), int((~flags).sum())
    if not ones or not noughts:
        return float("nan")
    return float((rankdata(scores)[flags].sum() - ones * (ones + 1) / 2) / (ones * noughts))


def balanced_weights(right: Bool[Tensor, " cues"]) -> Float[Tensor, " cues"]:
    """Return a weight a cue that makes both classes count alike: ``n / (2 n_class)``.

    >>> right = torch.tensor([True] * 300 + [False] * 100)
    >>> [round(w, 3) for w in balanced_weights(right)[[0, -1]].tolist()]
    [0.667, 2.0]
    """
    ones = int(right.sum())
    count = torch.where(right, ones, len(right) - ones)
    return len(right) / (2.0 * count)


def split_problems(problems: Sequence[str], held_out: float, seed: int) -> tuple[list[str], list[str]]:
    """Return the problems to fit on and those held out; all cues of a problem go to one side.

    Raises:
        RecipeError: when a side would be empty.
    """
    names = sorted(set(problems))
    order = np.random.default_rng(seed).permutation(len(names))
    count = max(1, round(held_out * len(names)))
    if count >= len(names):
        raise RecipeError(f"probe fit: {len(names)} problems with cues are too few to hold {held_out:.0%} out")
    away = sorted(names[i] for i in order[:count])
    return sorted(set(names) - set(away)), away


def fit_probe(
    features: Float[Tensor, "cues width"],
    right: Bool[Tensor, " cues"],
    problems: Sequence[str],
    options: FitOptions,
    on_progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Fit a probe on cues and say how it does on held-out problems.

    Args:
        features: states at the cues.
        right: whether the answer elicited there was right.
        problems: the problem of each cue.
        options: what and how.
        on_progress: called with (epoch, epochs at most).

    Raises:
        RecipeError: when fit or held-out cues are all right or all wrong, or the features are not finite.

    Source: LYNX (arXiv 2512.05325), released code; there the split is by cue, so cues of one trace are on both sides.
    """
    if not bool(features.isfinite().all()):
        raise RecipeError("probe fit: hidden states that are not finite")
    _, away = split_problems(problems, options.held_out, options.seed)
    out = torch.tensor([problem in set(away) for problem in problems])
    for name, part in (("fit", right[~out]), ("held-out", right[out])):
        if part.all() or not part.any():
            raise RecipeError(
                f"probe fit: the {len(part)} {name} cues are all {'right' if part.all() else 'wrong'}; use more problems"
            )
    mean, std = features[~out].mean(dim=0), features[~out].std(dim=0).clamp(min=1e-6)
    scaled = (features - mean) / std
    probe, epochs = _descend(scaled[~out], right[~out], scaled[out], right[out], options, on_progress)
    folded = fold(probe, mean, std)
    scores = folded.score(features[out])
    return Fit(
        probe=folded,
        auc=auc(scores.tolist(), right[out].tolist()),
        accuracy=float(((scores > 0.5) == right[out]).float().mean()),
        base_rate=float(right[out].float().mean()),
        epochs=epochs,
        cues=len(right),
        problems=tuple(sorted(set(problems))),
        held_out=tuple(away),
    )


def _descend(
    features: Tensor,
    right: Tensor,
    features_out: Tensor,
    right_out: Tensor,
    options: FitOptions,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[Probe, int]:
    """Train until the loss on held-out problems stops falling and return the best weights seen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        net = _network(features.shape[1], options.kind)
        order = torch.Generator().manual_seed(options.seed)
        optimizer = torch.optim.Adam(net.parameters(), options.learning_rate, weight_decay=options.weight_decay)
        weights, weights_out = balanced_weights(right), balanced_weights(right_out)
        best, best_state, since, epoch = float("inf"), copy.deepcopy(net.state_dict()), 0, 0
        while epoch < options.epochs and since < options.patience:
            epoch += 1
            for chosen in torch.randperm(len(right), generator=order).split(options.batch):
                optimizer.zero_grad()
                _loss(net, features[chosen], right[chosen], weights[chosen]).backward()
                optimizer.step()
            with torch.no_grad():
                loss = float(_loss(net, features_out, right_out, weights_out))
            since = 0 if loss < best - 1e-4 else since + 1
            if loss < best:
                best, best_state = loss, copy.deepcopy(net.state_dict())
            if on_progress:
                on_progress(epoch, options.epochs)
    net.load_state_dict(best_state)
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    return Probe(tuple(x.weight.detach() for x in linear), tuple(x.bias.detach() for x in linear)), epoch


def _network(width: int, kind: Kind) -> nn.Sequential:
    sizes = [width, *HIDDEN[kind], 1]
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _loss(net: nn.Module, features: Tensor, right: Tensor, weights: Tensor) -> Tensor:
    logits = net(features).squeeze(-1)
    return nn.functional.binary_cross_entropy_with_logits(logits, right.float(), weight=weights)
