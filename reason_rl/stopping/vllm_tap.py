"""Where a watch sits in vLLM's model runners: between the forward pass and sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reason_rl.errors import RunError
from reason_rl.stopping.watch import Watch

ROW = "reason_rl_row"  # in a request's extra_args: its number in the round
V1_PARTS = (
    "sample_tokens",
    "execute_model_state",
    "input_batch",
    "requests",
    "input_ids",
    "positions",
    "query_start_loc",
)
V2_PARTS = ("sample", "sampler", "max_num_reqs")


class States:
    """The states of a step: those after the final norm, which the runner holds, and hooked ones of the layers below."""

    def __init__(self, runner: Any, layers: tuple[int, ...]) -> None:
        self.layers = layers
        self.below: dict[int, Tensor] = {}
        blocks = _blocks(runner)
        self._handles = [
            blocks[layer - 1].register_forward_hook(self._keeping(layer)) for layer in layers if layer != len(blocks)
        ]

    def at(self, places: Tensor, last: Tensor) -> Tensor:
        """Return the states of all layers side by side, float32 [lanes, width].

        Args:
            places: of each lane among the tokens of the step.
            last: the lanes' states after the final norm.
        """
        parts = [self.below[layer][places] if layer in self.below else last for layer in self.layers]
        return torch.cat([part.float() for part in parts], dim=-1)

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _keeping(self, layer: int) -> Callable[[Any, Any, Any], None]:
        def after(module: Any, arguments: Any, output: Any) -> None:
            # A block gives its branch and the residual stream apart; the next one writes into both.
            self.below[layer] = output[0] + output[1] if isinstance(output, tuple) else output.clone()

        return after


class TapV1:
    """Watches model runner V1: before it samples, logits and states lie ready in ``execute_model_state``.

    Args:
        runner: vLLM's; changed until :meth:`detach`.
        watch: is shown every step.

    Raises:
        RunError: for a runner that does not have what is read here.
    """

    def __init__(self, runner: Any, watch: Watch) -> None:
        _check(runner, V1_PARTS)
        self.runner, self.watch = runner, watch
        self.states = States(runner, watch.rule.layers)
        self._sample = runner.sample_tokens
        runner.sample_tokens = self.sample_tokens

    def sample_tokens(self, *arguments: Any, **named: Any) -> Any:
        """Edit the step's logits, then sample as the runner does."""
        step = self.runner.execute_model_state
        if step is not None:
            self.runner.execute_model_state = step._replace(logits=self._edited(step))
        return self._sample(*arguments, **named)

    def detach(self) -> None:
        """Leave the runner as it was."""
        self.states.close()
        del self.runner.sample_tokens

    def _edited(self, step: Any) -> Tensor:
        runner = self.runner
        names = runner.input_batch.req_ids[: runner.input_batch.num_reqs]
        places = runner.query_start_loc.gpu[1 : len(names) + 1].long() - 1
        rows = torch.tensor([_row(runner.requests[name].sampling_params) for name in names], device=places.device)
        features = self.states.at(places, step.sample_hidden_states)
        return self.watch.step(rows, runner.input_ids.gpu[places], runner.positions[places], features, step.logits)


class TapV2:
    """Watches model runner V2: the states come to ``sample``, the logits to the sampler's logits processors.

    Its logic is tested on steps made by hand; it has not been run on a GPU.

    Args, Raises: as for :class:`TapV1`.
    """

    def __init__(self, runner: Any, watch: Watch) -> None:
        _check(runner, V2_PARTS)
        self.runner, self.watch = runner, watch
        self.states = States(runner, watch.rule.layers)
        self.features: Tensor | None = None
        self.by_slot = torch.full((runner.max_num_reqs,), -1)
        self.rows = self.by_slot.to(runner.device)
        self._sample = runner.sample
        runner.sample = self.sample
        runner.sampler.logits_processors.append(self)

    def sample(self, hidden_states: Tensor, input_batch: Any, *arguments: Any, **named: Any) -> Any:
        """Hold the step's states while the runner samples."""
        places = input_batch.logits_indices
        self.features = self.states.at(places, hidden_states[places])
        try:
            return self._sample(hidden_states, input_batch, *arguments, **named)
        finally:
            self.features = None

    def add_request(self, slot: int, sampling_params: Any) -> bool:
        """Remember which row a slot holds from now on, and say whether it is watched."""
        self.by_slot[slot] = _row(sampling_params)
        return bool(self.by_slot[slot] >= 0)

    def apply_staged_writes(self) -> None:
        """Bring the rows to the device."""
        self.rows = self.by_slot.to(self.runner.device)

    def apply(self, logits: Tensor, ctx: Any) -> Tensor:
        """Return the logits to sample from; warm-up passes, which have no states, keep theirs."""
        if self.features is None or len(self.features) != len(logits):
            return logits
        rows = self.rows[ctx.expanded_idx_mapping.long()]
        return self.watch.step(rows, ctx.input_ids, ctx.pos, self.features, logits)

    def detach(self) -> None:
        """Leave the runner as it was."""
        self.states.close()
        self.runner.sampler.logits_processors.remove(self)
        del self.runner.sample


def _row(sampling_params: Any) -> int:
    """Return the number that a request carries; -1 for one that is not watched."""
    return int((getattr(sampling_params, "extra_args", None) or {}).get(ROW, -1))


def _blocks(runner: Any) -> Any:
    model = runner.get_model()
    blocks = getattr(getattr(model, "model", None), "layers", None)
    if blocks is None:
        raise RunError(f"vLLM: {type(model).__name__} does not show its layers; use rollout.engine=hf")
    return blocks


def _check(runner: Any, parts: tuple[str, ...]) -> None:
    """Raise RunError naming what this version of vLLM does not have."""
    missing = [part for part in parts if not hasattr(runner, part)]
    if missing:
        import vllm

        raise RunError(
            f"vLLM {vllm.__version__}: {type(runner).__name__} has no {', '.join(missing)}, where exits by a probe sit; "
            "use rollout.engine=hf"
        )
