"""The probe: from hidden states at a cue to the chance that the answer given here would be right."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Kind = Literal["logistic", "mlp"]
HIDDEN: dict[str, tuple[int, ...]] = {"logistic": (), "mlp": (256, 64)}


@dataclass(frozen=True)
class Probe:
    """Linear layers with ReLU between them and a logistic end, in float32; features come in as they are.

    The standardisation of the features is folded into the first layer.

    Args:
        weights: of each layer, [out, in].
        biases: of each layer, [out].

    >>> probe = Probe((torch.tensor([[1.0, -1.0]]),), (torch.tensor([0.0]),))
    >>> probe.score(torch.tensor([[2.0, 2.0], [float("nan"), 0.0]])).tolist()
    [0.5, 0.0]
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    @property
    def width(self) -> int:
        """Features that the probe takes."""
        return int(self.weights[0].shape[1])

    @property
    def kind(self) -> Kind:
        """Which probe this is."""
        return "logistic" if len(self.weights) == 1 else "mlp"

    def score(self, features: Float[Tensor, "cues width"]) -> Float[Tensor, " cues"]:
        """Return the probability of a right answer; 0 where a state is not finite."""
        values = features.float()
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = torch.nn.functional.linear(values.relu() if number else values, weight, bias)
        scores = values.squeeze(-1).sigmoid()
        return torch.where(features.isfinite().all(dim=-1), scores, 0.0)

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters by name."""
        pairs = enumerate(zip(self.weights, self.biases, strict=True))
        return {name: t for i, (w, b) in pairs for name, t in ((f"{i}.weight", w), (f"{i}.bias", b))}

    def to(self, device: torch.device | str) -> Probe:
        """Return the same probe on a device."""
        return Probe(tuple(w.to(device) for w in self.weights), tuple(b.to(device) for b in self.biases))

    def digest(self) -> str:
        """Return a hash of the parameters."""
        return tensor_digest(self.tensors())


def from_tensors(tensors: dict[str, Tensor]) -> Probe:
    """Return the probe with these parameters.

    Raises:
        ValueError: when they are not those of a probe.
    """
    layers = len(tensors) // 2
    names = [f"{i}.{part}" for i in range(layers) for part in ("weight", "bias")]
    if not layers or sorted(names) != sorted(tensors):
        raise ValueError(f"not the parameters of a probe: {sorted(tensors)}")
    return Probe(
        tuple(tensors[f"{i}.weight"] for i in range(layers)), tuple(tensors[f"{i}.bias"] for i in range(layers))
    )


def fold(probe: Probe, mean: Float[Tensor, " width"], std: Float[Tensor, " width"]) -> Probe:
    """Return the probe of raw features that equals ``probe`` of standardised ones: ``W / s`` and ``b - W (m / s)``."""
    weight, bias = probe.weights[0], probe.biases[0]
    first = (weight / std, bias - weight @ (mean / std))
    return Probe((first[0], *probe.weights[1:]), (first[1], *probe.biases[1:]))


def tensor_digest(tensors: dict[str, Tensor]) -> str:
    """Return a hash of tensors by name: type, shape and every byte.

    >>> a = {"x": torch.zeros(2)}
    >>> tensor_digest(a) == tensor_digest({"x": torch.zeros(2)}), tensor_digest(a) == tensor_digest({"x": torch.ones(2)})
    (True, False)
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous().cpu()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
