"""What is merged and how; no torch here, so that a command line or a recipe is checked before anything is loaded."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from reason_rl.errors import RecipeError

Method = Literal["linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "selective"]
Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Defaults:
    """A method's share of kept entries and factor on the merged difference; None = it has none."""

    density: float | None = None
    scale: float | None = None


# Long-to-short merging (arXiv 2503.20641) for 1.5B and 7B, scales with DARE ours; selective: DLER (arXiv 2510.15110).
DEFAULTS: dict[Method, Defaults] = {
    "linear": Defaults(),
    "task_arithmetic": Defaults(scale=0.7),
    "ties": Defaults(density=0.2, scale=1.0),
    "dare_linear": Defaults(density=0.7, scale=0.7),
    "dare_ties": Defaults(density=0.7, scale=1.0),
    "selective": Defaults(density=0.25, scale=0.7),
}


@dataclass(frozen=True)
class MergeSpec:
    """One merge.

    Args:
        method: how weights are combined, see :func:`reason_rl.merge.tensors.merge_tensor`.
        models: folders, hub ids or adapters; the configuration is that of the first unless ``tokenizer`` names another.
        weights: one a model; empty = all 1.
        base: the model that differences are taken to (every method but linear).
        density: share of the entries of each difference that is kept, in (0, 1]; None = the method's default.
        scale: factor on the merged difference; None = the method's default.
        seed: of the entries that DARE keeps.
        tokenizer: the model whose tokenizer, configuration and own vocabulary rows are kept where vocabularies differ.
        exclude: regular expression; tensors whose name it matches are copied, not merged.
        dtype: of the result; None = as stored.
    """

    method: Method
    models: tuple[str, ...]
    weights: tuple[float, ...] = ()
    base: str | None = None
    density: float | None = None
    scale: float | None = None
    seed: int = 0
    tokenizer: str | None = None
    exclude: str | None = None
    dtype: Dtype | None = None

    def checked(self) -> MergeSpec:
        """Return the spec with weights and defaults filled in.

        Raises:
            RecipeError: for what the method does not take, or needs and has not got.

        >>> spec = MergeSpec("ties", ("long", "short"), base="base").checked()
        >>> spec.weights, spec.density, spec.scale
        ((1.0, 1.0), 0.2, 1.0)
        """
        complaint = complaint_about(self)
        if complaint is not None:
            raise RecipeError(f"merge: {complaint}")
        defaults = DEFAULTS[self.method]
        return MergeSpec(
            **{
                **vars(self),
                "models": tuple(self.models),
                "weights": tuple(map(float, self.weights)) or (1.0,) * len(self.models),
                "density": defaults.density if self.density is None else self.density,
                "scale": defaults.scale if self.scale is None else self.scale,
            }
        )

    @property
    def kept(self) -> str:
        """The model whose tokenizer and configuration are kept."""
        return self.tokenizer or self.models[0]

    @property
    def sources(self) -> tuple[str, ...]:
        """All models, the base first where there is one, each once."""
        return tuple(dict.fromkeys((*([self.base] if self.base else []), *self.models)))


def complaint_about(spec: MergeSpec) -> str | None:
    """Return what is wrong with a spec, None when nothing is.

    >>> complaint_about(MergeSpec("linear", ("a", "b"), base="c"))
    'method linear takes no base; leave it out, or use task_arithmetic'
    >>> complaint_about(MergeSpec("ties", ("a",)))
    'method ties needs a base, which differences are taken to'
    """
    return _models(spec) or _weights(spec) or _numbers(spec)


def _models(spec: MergeSpec) -> str | None:
    linear = spec.method == "linear"
    if linear and spec.base is not None:
        return "method linear takes no base; leave it out, or use task_arithmetic"
    if not linear and spec.base is None:
        return f"method {spec.method} needs a base, which differences are taken to"
    if len(spec.models) < 1 + linear:
        return f"method {spec.method} needs {'two models' if linear else 'a model'} at least"
    if spec.base in spec.models:
        return f"base {spec.base} is also a model, so their difference is zero"
    if spec.tokenizer is not None and spec.tokenizer not in spec.sources:
        return f"tokenizer {spec.tokenizer} is none of the models: {', '.join(spec.sources)}"
    return None


def _weights(spec: MergeSpec) -> str | None:
    if spec.weights and len(spec.weights) != len(spec.models):
        return f"{len(spec.weights)} weights for {len(spec.models)} models; give one a model, in their order, or none"
    if not all(math.isfinite(weight) for weight in spec.weights):
        return f"weights {list(spec.weights)} are not all finite"
    averages = spec.method in ("linear", "ties", "dare_ties")
    if averages and any(weight < 0 for weight in spec.weights):
        return f"method {spec.method} averages, so no weight may be below 0; task_arithmetic takes such weights"
    if averages and spec.weights and sum(spec.weights) == 0:
        return f"method {spec.method} averages, and all weights are 0"
    return None


def _numbers(spec: MergeSpec) -> str | None:
    defaults = DEFAULTS[spec.method]
    if spec.density is not None and defaults.density is None:
        return f"method {spec.method} keeps all entries and takes no density"
    if spec.density is not None and not 0 < spec.density <= 1:
        return f"density {spec.density:g} is not above 0 and at most 1; it is the share that is kept"
    if spec.scale is not None and (defaults.scale is None or not math.isfinite(spec.scale)):
        return f"scale {spec.scale:g} is not for method linear" if defaults.scale is None else "scale is not finite"
    if spec.exclude is not None:
        try:
            re.compile(spec.exclude)
        except re.error as error:
            return f"exclude {spec.exclude} is no regular expression ({error})"
    return None
