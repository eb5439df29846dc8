"""Rewards: functions of a rollout batch, composed of a few primitives and loaded from ``rewards/*.py``."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reason_rl.errors import ReasonRLError, RecipeError, RunError
from reason_rl.rollout.batch import RolloutBatch

Rows = Float[Tensor, " rows"]
Reward = Callable[[RolloutBatch], Rows]

ACCEPTED: dict[str, tuple[type, ...]] = {"float": (int, float), "int": (int,), "str": (str,), "bool": (bool,)}


def correctness(right: float = 1.0, wrong: float = 0.0) -> Reward:
    """Return ``right`` for a right answer, ``wrong`` for a wrong one, nan when there is nothing to compare with.

    >>> from reason_rl.rollout.batch import example_batch
    >>> correctness(wrong=-1.0)(example_batch([1, 0], [20, 30])).tolist()
    [1.0, -1.0]
    """
    return lambda batch: wrong + (right - wrong) * batch.correct


def truncation(reward_share: float = 0.0) -> Reward:
    """Return the factor ``1`` for finished rollouts and ``reward_share`` for those cut by their budget.

    What counts is the sampler's finish reason: an end token that is the last one allowed is a finished rollout. In training
    a cut rollout is wrong already, and a share of nothing is nothing: see :func:`cut_answer`.

    >>> from reason_rl.rollout.batch import example_batch
    >>> truncation(0.5)(example_batch([1, 1], [64, 64], cut=[False, True], budget=64)).tolist()
    [1.0, 0.5]
    """
    return lambda batch: torch.where(batch.truncated, reward_share, 1.0)


def cut_answer(reward_share: float) -> Reward:
    """Return ``reward_share`` for a cut rollout that had written the right answer, else 0; in training it counts as wrong.

    >>> from reason_rl.rollout.batch import example_batch
    >>> cut_answer(0.25)(example_batch([1, 1, 0], [9, 64, 64], cut=[False, True, True], budget=64)).tolist()
    [0.0, 0.25, 0.0]
    """

    def reward(batch: RolloutBatch) -> Rows:
        written = batch.correct if batch.written is None else batch.written
        return torch.where(batch.truncated, reward_share * written, 0.0)

    return reward


def soft_overlong(max_tokens: int, cache_tokens: int) -> Reward:
    """Return ``0`` up to ``max - cache`` tokens, falling linearly to ``-1`` at ``max`` and beyond.

    ``r = clip((max - cache - length) / cache, -1, 0)``, lengths in completion tokens; without a cache, ``-1`` beyond
    ``max``.

    Raises:
        RecipeError: unless ``0 <= cache_tokens <= max_tokens``.

    >>> from reason_rl.rollout.batch import example_batch
    >>> soft_overlong(20480, 4096)(example_batch([1, 1, 0, 0], [16384, 17408, 20480, 20481])).tolist()
    [0.0, -0.25, -1.0, -1.0]

    Source: DAPO (arXiv 2503.14476) eq. 13; equals ``trl.rewards.get_soft_overlong_punishment``.
    """
    if not 0 <= cache_tokens <= max_tokens:
        raise RecipeError(f"soft overlong: cache_tokens {cache_tokens} is not between 0 and max_tokens {max_tokens}")

    def reward(batch: RolloutBatch) -> Rows:
        # Lengths are whole numbers, so a divisor of 1 makes the step that a cache of 0 stands for.
        return ((max_tokens - cache_tokens - batch.length.float()) / max(cache_tokens, 1)).clamp(-1.0, 0.0)

    return reward


def cosine(
    max_tokens: int, right: tuple[float, float], wrong: tuple[float, float], exceeded: float | None = None
) -> Reward:
    """Return a reward that moves along half a cosine from length 0 to ``max_tokens`` completion tokens.

    ``r = end + (start - end) (1 + cos(pi length / max)) / 2`` with ``(start, end) = right`` for a right answer and
    ``wrong`` for a wrong one; nan when unscored.

    Args:
        max_tokens: completion tokens at which the end values are reached.
        right, wrong: reward at length 0 and at the maximum.
        exceeded: reward of a rollout that was cut or has ``max_tokens`` or more, whatever its answer; None = no such
            rule, longer lengths count as the maximum.

    Raises:
        RecipeError: when ``max_tokens`` is not positive.

    >>> from reason_rl.rollout.batch import example_batch
    >>> reward = cosine(4096, right=(2.0, 1.0), wrong=(-10.0, 0.0), exceeded=-10.0)
    >>> [round(r, 4) for r in reward(example_batch([1, 0, 1, 1], [1024, 3072, 2048, 4096])).tolist()]
    [1.8536, -1.4645, 1.5, -10.0]

    Source: Demystifying Long CoT (arXiv 2502.03373) section 4.2. The released code judges by length alone and
    gives ``exceeded`` from a small margin before the maximum on; here there is no margin, the sampler says who was cut.
    """
    if max_tokens <= 0:
        raise RecipeError(f"cosine: max_tokens {max_tokens} is not positive")

    def reward(batch: RolloutBatch) -> Rows:
        share = batch.length.float().clamp(max=max_tokens) / max_tokens
        weight = (1 + torch.cos(torch.pi * share)) / 2
        value_right = right[1] + (right[0] - right[1]) * weight
        value_wrong = wrong[1] + (wrong[0] - wrong[1]) * weight
        values = torch.where(batch.correct == 1, value_right, value_wrong)
        if exceeded is not None:
            values = torch.where(batch.truncated | (batch.length >= max_tokens), exceeded, values)
        return torch.where(batch.correct.isnan(), torch.nan, values)

    return reward


def product(*rewards: Reward) -> Reward:
    """Return the product of the rewards, row by row.

    >>> from reason_rl.rollout.batch import example_batch
    >>> product(correctness(), truncation())(example_batch([1, 1], [9, 9], cut=[False, True])).tolist()
    [1.0, 0.0]
    """
    return lambda batch: torch.stack([reward(batch) for reward in rewards]).prod(dim=0)


def total(*rewards: Reward) -> Reward:
    """Return the sum of the rewards, row by row.

    >>> from reason_rl.rollout.batch import example_batch
    >>> total(correctness(), soft_overlong(20, 10))(example_batch([1, 0], [15, 5])).tolist()
    [0.5, 0.0]
    """
    return lambda batch: torch.stack([reward(batch) for reward in rewards]).sum(dim=0)


def scaled(factor: float, reward: Reward) -> Reward:
    """Return a reward times a factor.

    >>> from reason_rl.rollout.batch import example_batch
    >>> scaled(0.5, correctness())(example_batch([1, 0], [9, 9])).tolist()
    [0.5, 0.0]
    """
    return lambda batch: factor * reward(batch)


@dataclass(frozen=True)
class FileReward:
    """The reward of a file. What it returns is one number a row, nan where a row cannot be scored, or an error.

    Raises:
        RunError: naming the file, when the reward raises, or returns anything but finite numbers and nan, [B]; or nan for
            every row though some of them have a verdict.
    """

    path: Path
    reward: Reward

    def __call__(self, batch: RolloutBatch) -> Rows:
        """Return the rewards of a batch, float32 [B]."""
        try:
            values: Any = self.reward(batch)
        except ReasonRLError:
            raise
        except Exception as error:
            raise RunError(f"{where(self.path, error)}: {described(error)}") from error
        rows = len(batch.problem_id)
        if not isinstance(values, torch.Tensor):
            raise RunError(f"{self.path}: the reward returned {type(values).__name__}, not a float tensor [{rows}]")
        if values.shape != (rows,) or values.is_complex():
            raise RunError(
                f"{self.path}: the reward returned {values.dtype} of shape {list(values.shape)} for {rows} rows, not a "
                f"float tensor [{rows}]"
            )
        values = values.detach().to(torch.float32)
        if values.isinf().any():
            row = int(values.isinf().nonzero()[0])
            raise RunError(
                f"{self.path}: the reward of row {row} is {float(values[row])} (completion tokens {int(batch.length[row])}"
                f", correct {float(batch.correct[row])}); a reward is finite, or nan where a row cannot be scored"
            )
        if values.isnan().all() and not batch.correct.isnan().all():
            raise RunError(f"{self.path}: the reward of all {rows} rows is nan, so nothing could be learned from them")
        return values


def load_reward(path: Path, **params: Any) -> FileReward:
    """Load ``reward`` from a file of ``rewards/`` and call it with the recipe's parameters.

    Raises:
        RecipeError: when the file cannot be loaded, has no ``reward``, does not take these parameters or fails on them.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: no such reward file")
    factory = getattr(_load_module(path), "reward", None)
    if not callable(factory):
        raise RecipeError(f"{path}: defines no function reward(**parameters)")
    try:
        _check_parameters(path, inspect.signature(factory).parameters, params)
        reward = factory(**params)
    except ReasonRLError:
        raise
    except Exception as error:
        raise RecipeError(f"{where(path, error)}: reward(**parameters) failed: {described(error)}") from error
    if not callable(reward):
        raise RecipeError(f"{path}: reward() returns {type(reward).__name__}, not a function of a rollout batch")
    return FileReward(path, reward)


def where(path: Path, error: BaseException) -> str:
    """Return the file and its line that an exception came by; the file alone where it came by none of them."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def described(error: BaseException) -> str:
    """Return an exception as one line."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


def _load_module(path: Path) -> ModuleType:
    """Run a reward file as a module of its own; it is registered because dataclasses look their module up."""
    name = f"reason_rl_reward_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise RecipeError(f"{where(path, error)}: cannot be loaded ({described(error)})") from error
    return module


def _check_parameters(path: Path, taken: Mapping[str, inspect.Parameter], params: Mapping[str, Any]) -> None:
    """Raise RecipeError for an unknown, a missing or a wrongly typed parameter."""
    known = [name for name, p in taken.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind == p.VAR_KEYWORD for p in taken.values())
    for name, value in params.items():
        if name not in known:
            if takes_any:
                continue
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; it takes {', '.join(known) or 'none'}"
            raise RecipeError(f"{path}: reward has no parameter {name}{hint}")
        annotation = taken[name].annotation
        wanted = getattr(annotation, "__name__", str(annotation))
        accepted = ACCEPTED.get(wanted)
        if accepted and (not isinstance(value, accepted) or (isinstance(value, bool) and wanted != "bool")):
            raise RecipeError(f"{path}: parameter {name} is {value!r}; expected {wanted}")
    for name in known:
        if taken[name].default is inspect.Parameter.empty and name not in params:
            raise RecipeError(f"{path}: reward needs the parameter {name}")
