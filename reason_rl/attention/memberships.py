"""Memberships that are calibrated on what a model sees, and then frozen: the mean at each place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reason_rl.attention.decoder import attentions_of, decoder_of
from reason_rl.attention.positions import places
from reason_rl.errors import RunError

ROUNDS = 20
POINTS = 4096  # states that centres are fitted to, evenly taken


@dataclass(frozen=True, eq=False)
class Regimes:
    """Centres in the space of hidden states, and the squared distance at which a membership has fallen to ``exp(-1/2)``."""

    centres: Float[Tensor, "regimes width"]
    variance: float

    def memberships(self, states: Float[Tensor, "states width"]) -> Float[Tensor, "states regimes"]:
        """Return ``softmax_r(-|h - c_r|^2 / (2 variance))``, the exponent clipped to +-30 as in the paper.

        >>> Regimes(torch.tensor([[0.0], [2.0]]), 1.0).memberships(torch.tensor([[1.0]])).tolist()
        [[0.5, 0.5]]
        """
        distances = torch.cdist(states.double(), self.centres.double()) ** 2
        return torch.softmax((-distances / (2 * self.variance)).clamp(-30, 30), dim=1)


def fit_regimes(states: Float[Tensor, "states width"], regimes: int) -> Regimes:
    """Fit centres by k-means; the start is the means of equal slices along the direction of most variance.

    The variance is the mean squared distance of a state to its nearest centre.

    >>> found = fit_regimes(torch.tensor([[0.0], [0.2], [5.0], [5.2]]), 2)
    >>> found.centres.round(decimals=4).tolist(), round(found.variance, 4)
    ([[0.1], [5.1]], 0.01)

    Source: our choice; the paper learns centres and a projection end to end (RPA, arXiv 2603.09253), which would make the
    prior change, and depend on the row, for as long as it is trained.
    """
    points = states[:: max(1, len(states) // POINTS)].double()
    centred = points - points.mean(dim=0)
    direction = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
    # The sign of an eigenvector is arbitrary: the first state is put on the lower side.
    along = centred @ direction * (-1.0 if float(centred[0] @ direction) > 0 else 1.0)
    centres = torch.stack([part.mean(dim=0) for part in points[along.argsort()].tensor_split(regimes)])
    for _ in range(ROUNDS):
        nearest = torch.cdist(points, centres).argmin(dim=1)
        moved = torch.stack(
            [points[nearest == r].mean(dim=0) if (nearest == r).any() else centres[r] for r in range(regimes)]
        )
        if torch.allclose(moved, centres):
            break
        centres = moved
    variance = float((torch.cdist(points, centres).min(dim=1).values ** 2).mean())
    return Regimes(centres, max(variance, 1e-12))


def mean_by_place(
    memberships: Float[Tensor, "states regimes"], place: Int[Tensor, " states"], tokens: int
) -> Float[Tensor, "tokens regimes"]:
    """Return the mean membership at each place; a place that was never seen takes that of the last one before it.

    >>> mean_by_place(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]), torch.tensor([0, 0, 2]), 4).tolist()
    [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]
    """
    memberships = memberships.double()
    sums = torch.zeros(tokens, memberships.shape[1], dtype=torch.float64).index_add(0, place, memberships)
    counts = torch.zeros(tokens, dtype=torch.float64).index_add(0, place, torch.ones(len(place), dtype=torch.float64))
    known = torch.where(counts > 0, torch.arange(tokens), 0).cummax(dim=0).values
    return (sums / counts.clamp(min=1)[:, None])[known]


@torch.no_grad()
def calibrate(
    model: Any, batches: Iterable[Mapping[str, Tensor]], layers: Sequence[int], tokens: int, regimes: int
) -> dict[int, Float[Tensor, "tokens regimes"]]:
    """Return frozen memberships of each layer, from the states that its attention reads over a few batches.

    Args:
        model: Llama- or Qwen-type, plain or with an adapter; it is in eval mode meanwhile.
        batches: with ``input_ids`` and, where rows are padded, ``attention_mask``, each [rows, tokens].
        layers: counted from 0.
        tokens: places to calibrate; tokens beyond are left out.
        regimes: of each layer.

    Raises:
        RunError: when there is no batch.
    """
    modules = attentions_of(model)
    seen: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    found: list[Tensor] = []

    def looking(layer: int) -> Any:
        def before(_module: Any, args: Any, inputs: dict[str, Any]) -> None:
            hidden = args[0] if args else inputs["hidden_states"]
            seen[layer].append(hidden[found[-1] >= 0].cpu())

        return before

    hooks = [modules[layer].register_forward_pre_hook(looking(layer), with_kwargs=True) for layer in layers]
    training = model.training
    model.eval()
    try:
        for batch in batches:
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}
            place = places(inputs)[0].expand(inputs["input_ids"].shape)
            real = inputs.get("attention_mask", torch.ones_like(place)).bool() & (place < tokens)
            found.append(place.masked_fill(~real, -1))
            decoder_of(model)(**inputs, use_cache=False)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    if not found:
        raise RunError("attention.prior: nothing to calibrate memberships on")
    place = torch.cat([some[some >= 0].cpu() for some in found])

    def frozen(states: Tensor) -> Tensor:
        return mean_by_place(fit_regimes(states, regimes).memberships(states), place, tokens)

    return {layer: frozen(torch.cat(seen.pop(layer))) for layer in tuple(seen)}


def padded(rows: Sequence[Sequence[int]], pad: int, device: Any = None) -> dict[str, Tensor]:
    """Return rows padded on the right, with their mask.

    >>> batch = padded([(5, 6), (7,)], 0)
    >>> batch["input_ids"].tolist(), batch["attention_mask"].tolist()
    ([[5, 6], [7, 0]], [[1, 1], [1, 0]])
    """
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask}
