"""Temperature-scaled stopping: one transform of the stop token's logit, softer than a cut at a fixed length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reason_rl.stopping.rule import Step
from reason_rl.stopping.thinking import Phase, ThinkTokens

Mode = Literal["logprob", "logit", "bias"]
Rows = Float[Tensor, " rows"]
Logits = Float[Tensor, "rows vocab"]


@dataclass(frozen=True)
class StopOptions:
    """How the stop token is scaled; every default is our choice, the paper's exact form is not public.

    Args:
        mode: logprob, logit or bias, see :func:`stop_logit`.
        topk_gate: scale only where the stop token is among so many most likely ones; None = everywhere. Without the gate a
            large strength lifts tiny probabilities at every step and stops in mid-sentence.
        min_think_tokens: before that many, thinking cannot end; the end token itself is not counted.
        max_think_tokens: after that many, it must; None = no cap.
        mask_eos: no end of the completion while thinking.
        mask_restart: no second start token while thinking.

    Raises:
        ValueError: for an unknown mode or limits that contradict each other.
    """

    mode: Mode = "logprob"
    topk_gate: int | None = 5
    min_think_tokens: int = 0
    max_think_tokens: int | None = None
    mask_eos: bool = True
    mask_restart: bool = True

    def __post_init__(self) -> None:
        if self.mode not in ("logprob", "logit", "bias"):
            raise ValueError(f"mode {self.mode!r} is not logprob, logit or bias")
        if self.topk_gate is not None and self.topk_gate < 1:
            raise ValueError(f"topk_gate {self.topk_gate} is not positive")
        if self.min_think_tokens < 0 or (self.max_think_tokens is not None and self.max_think_tokens < 0):
            raise ValueError("think tokens are not negative")
        if self.max_think_tokens is not None and self.max_think_tokens < self.min_think_tokens:
            raise ValueError(
                f"max_think_tokens {self.max_think_tokens} is below min_think_tokens {self.min_think_tokens}"
            )


def stop_logit(logits: Logits, stop: int, strength: Rows, mode: Mode) -> Rows:
    """Return the new logit of the stop token; strength above 1 stops earlier, below 1 later, 1 changes nothing.

    With ``L = logsumexp(z)`` and strength s: ``logprob: L + (z_e - L) / s``, so that ``p' = p^(1/s) / (p^(1/s) + 1 - p)``;
    ``bias: z_e + ln s``, so that the odds of stopping are multiplied by s; ``logit: s z_e`` where ``z_e > 0``, which depends
    on the offset of the logits and is there only as the literal reading of the paper.

    Args:
        logits: raw ones, before sampling temperature, top-k and top-p; computed with in float32.
        stop: id of the end-of-think token.
        strength: of each row, above 0.

    >>> z = torch.tensor([[2.0, 3.0, 1.0, 0.0]])
    >>> round(stop_logit(z, 0, torch.tensor([2.0]), "logprob").item(), 4)
    2.7201

    Source: the idea is TS (arXiv 2505.07961, abstract); the formulas are ours.
    """
    z = logits[:, stop].float()
    strength = strength.to(z)
    if mode == "logprob":
        total = logits.float().logsumexp(dim=-1)
        return total + (z - total) / strength
    if mode == "bias":
        return z + strength.log()
    return torch.where(z > 0, z * strength, z)


def scale_stop(logits: Logits, strength: Rows, where: Phase, tokens: ThinkTokens, options: StopOptions) -> Logits:
    """Return the logits with the stop token scaled in rows that are thinking; all other rows are the input bit by bit.

    Tokens that thinking may not contain are masked first, so the stop probability that is scaled is the one among
    tokens that can be drawn. Below ``min_think_tokens`` the stop token is masked, from ``max_think_tokens`` on it is the
    only one left.

    Args:
        logits: raw next-token logits.
        strength: of each row.
        where: the rows' phase.
        tokens: the ids that open and close thinking.
        options: mode, gate and limits.

    >>> z = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> where = Phase(torch.tensor([True, False]), torch.tensor([4, 9]))
    >>> scale_stop(z, torch.tensor([2.0, 2.0]), where, ThinkTokens(2, None, (1,)), StopOptions("bias")).tolist()
    [[0.0, -inf, 0.6931471824645996], [0.0, 0.0, 0.0]]
    """
    edited = logits.clone()
    # Where a completion does not think, its end is the stop token itself.
    banned = list(tokens.eos) if options.mask_eos and tokens.end not in tokens.eos else []
    if options.mask_restart and tokens.start is not None:
        banned.append(tokens.start)
    edited[:, banned] = -torch.inf
    scaled = stop_logit(edited, tokens.end, strength, options.mode).to(logits.dtype)
    if options.topk_gate is not None:
        above = (edited > edited[:, tokens.end, None]).sum(dim=-1)
        scaled = torch.where(above < options.topk_gate, scaled, edited[:, tokens.end])
    scaled = torch.where(where.think_tokens < options.min_think_tokens, -torch.inf, scaled)
    edited[:, tokens.end] = scaled
    if options.max_think_tokens is not None:
        only = torch.full_like(edited, -torch.inf)
        only[:, tokens.end] = 0.0
        edited = torch.where((where.think_tokens >= options.max_think_tokens)[:, None], only, edited)
    return torch.where(where.thinking[:, None], edited, logits)


def edited_logps(
    logps: Float[Tensor, " tokens"],
    is_stop: Bool[Tensor, " tokens"],
    stop_logps: Float[Tensor, " tokens"],
    shift: Float[Tensor, " tokens"],
) -> Float[Tensor, " tokens"]:
    """Return the log-probabilities of tokens after the stop logit was raised by ``shift``, exactly.

    With ``p_e`` the stop probability before, ``log p'(x) = log p(x) + shift [x = e] - log(1 + p_e (exp(shift) - 1))``. The
    inverse is the same with ``-shift`` and the stop log-probability after. Holds at sampling temperature 1 without top-k
    and top-p, for an edit of that one logit.

    Args:
        logps: log-probability of the token written, under the model.
        is_stop: whether it is the stop token.
        stop_logps: log-probability of the stop token at that position, under the model.
        shift: new stop logit minus the old one; ``logprob`` mode: ``stop_logp (1 / s - 1)``, ``bias`` mode: ``ln s``.

    >>> third = torch.tensor([1 / 3]).log()
    >>> edited_logps(third, torch.tensor([True]), third, torch.tensor([2.0]).log()).exp()
    tensor([0.5000])
    """
    # p (e^shift - 1) in double: it is near -1 when a likely stop is pushed down.
    grown = torch.log1p(stop_logps.double().exp() * torch.expm1(shift.double()))
    return (logps.double() + torch.where(is_stop, shift, 0.0).double() - grown).to(logps.dtype)


@dataclass(frozen=True)
class TemperatureStop:
    """Scaled stopping as an edit of the decoding loop, with a strength for each request.

    Args:
        strength: one for all requests, or one each.
        tokens: the ids that open and close thinking.
        options: mode, gate and limits.

    Raises:
        ValueError: for a strength that is not above 0.
    """

    strength: float | tuple[float, ...]
    tokens: ThinkTokens
    options: StopOptions = StopOptions()

    def __post_init__(self) -> None:
        values = (self.strength,) if isinstance(self.strength, float | int) else self.strength
        if not values or any(not 0 < value < float("inf") for value in values):
            raise ValueError(f"strength {self.strength} is not above 0")

    def __call__(self, step: Step) -> Logits:
        """Return the edited logits of one decoding step."""
        strength = row_strengths(self.strength, step.request, step.logits)
        return scale_stop(step.logits, strength, Phase(step.thinking, step.think_tokens), self.tokens, self.options)


def row_strengths(strength: float | tuple[float, ...], request: Int[Tensor, " rows"], like: Tensor) -> Rows:
    """Return the strength of each row, from one for all or one a request."""
    if isinstance(strength, float | int):
        return torch.full(request.shape, float(strength), device=like.device)
    return torch.tensor(strength, device=like.device)[request]
