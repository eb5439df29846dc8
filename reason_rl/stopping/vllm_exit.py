"""Exits by a probe inside a vLLM engine of this process: states are read where the engine keeps them, logits edited there.

Both model runners of vLLM hold the states after the final norm between their forward pass and sampling, outside any captured
graph; the taps sit there, so a look costs no forward pass. Runner V1 holds the logits beside them. Runner V2 computes them
later and hands them to its logits processors, of which the tap is one. States below the last layer are read by hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from reason_rl.errors import RecipeError, RunError
from reason_rl.rollout.backend import OnEnded, OnProgress, Sample, SamplingOptions, SamplingRequest, check_context
from reason_rl.rollout.vllm_local import VLLMBackend, run_engine, to_sample
from reason_rl.stopping.generate import Stopped
from reason_rl.stopping.rules.probe_exit import ProbeExit
from reason_rl.stopping.thinking import ThinkTokens
from reason_rl.stopping.vllm_tap import ROW, TapV1, TapV2
from reason_rl.stopping.watch import Watch


class VLLMExits:
    """Samples from a vLLM engine with exits by a probe; between rounds the engine is as it was.

    Args:
        backend: holds the engine and its weights, which must be those that the probe was fitted on.
        rule: the probe, its cues, elicitor and threshold.
        tokens: ids that open and close thinking and end a completion.
        keep_scores: keep (completion tokens, score) of every cue as the state of each completion.

    Raises:
        RecipeError: for an engine whose states cannot be read, see :func:`check_engine`, or that sleeps between rounds.
    """

    def __init__(
        self, backend: VLLMBackend, rule: ProbeExit, tokens: ThinkTokens, *, keep_scores: bool = False
    ) -> None:
        self.backend, self.rule, self.tokens, self.keep_scores = backend, rule, tokens, keep_scores
        self.version = backend.version
        if backend.sleeps:
            raise RecipeError("rollout.vllm.enable_sleep_mode: is for training; leave it out where exits are decoded")
        check_engine(backend.engine.llm_engine.vllm_config, rule.layers)

    def sync_weights(self, version: int) -> None:
        """Bring the engine to the model's weights; a probe means nothing for others than its own."""
        self.backend.sync_weights(version)
        self.version = version

    def decode(
        self,
        requests: Sequence[SamplingRequest],
        options: SamplingOptions,
        on_progress: OnProgress | None = None,
    ) -> list[Stopped]:
        """Decode one completion a request, and say where each exited.

        What an exit forces, and the answer after it, has log-probability 0: nothing of it was drawn.

        Raises:
            RunError: when the engine was never given weights, or a row does not fit into its context.
        """
        if self.version < 0:
            raise RunError("vLLM was asked for completions before it was given the model's weights")
        engine = self.backend.engine
        check_context(requests, engine.llm_engine.model_config.max_model_len)
        prompts = [request.prompt_ids for request in requests]
        make = partial(Watch, self.rule, self.tokens, prompts, keep_scores=self.keep_scores)
        (attached,) = engine.collective_rpc(attach, args=(make,))
        try:
            parameters = [self._parameters(row, request, options) for row, request in enumerate(requests)]
            samples = run_engine(
                engine,
                prompts,
                parameters,
                self.backend.adapter,
                lambda _, completion: to_sample(completion),
                on_progress,
            )
        finally:
            attached.detach()
        states = attached.watch.scores() if self.keep_scores else [None] * len(samples)
        return [
            finished(sample, exit_at, state, self.rule)
            for sample, exit_at, state in zip(samples, attached.watch.exits(), states, strict=True)
        ]

    def generate(
        self,
        requests: Sequence[SamplingRequest],
        options: SamplingOptions,
        on_progress: OnProgress | None = None,
        on_ended: OnEnded | None = None,
    ) -> list[Sample]:
        """Sample one completion a request; the protocol of ``reason_rl.rollout.backend``, with all rows told at the end."""
        samples = [done.marked() for done in self.decode(requests, options, on_progress)]
        if on_ended:
            on_ended(list(enumerate(samples)))
        return samples

    def _parameters(self, row: int, request: SamplingRequest, options: SamplingOptions) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            max_tokens=request.max_tokens,
            seed=request.seed,
            logprobs=0,
            stop_token_ids=[*self.tokens.eos, *options.stop_ids],
            detokenize=False,
            extra_args={ROW: row},
        )


class Attached(NamedTuple):
    """What watches an engine, and how to take it off again."""

    watch: Watch
    detach: Callable[[], None]


def check_engine(config: Any, layers: Sequence[int]) -> None:
    """Raise RecipeError for a vLLM engine whose states cannot be read.

    Args:
        config: vLLM's configuration.
        layers: that the probe reads.

    Raises:
        RecipeError: for speculative decoding, whose rows hold tokens that may be taken back; for several workers; and for
            layers below the last unless the engine is eager, as a graph calls no hooks.
    """
    if config.speculative_config is not None:
        raise RecipeError("rollout.vllm.speculative_config: exits by a probe do not go with speculative decoding")
    workers = config.parallel_config.world_size
    if workers != 1:
        raise RecipeError(f"rollout.vllm: exits by a probe need one worker, not {workers}; use rollout.engine=hf")
    last = config.model_config.hf_text_config.num_hidden_layers
    inner = [layer for layer in layers if layer != last]
    if inner and not config.model_config.enforce_eager:
        raise RecipeError(
            f"probe: reads layers {inner}, which a captured graph of vLLM does not show; set "
            f"rollout.vllm.enforce_eager=true, or fit a probe of layer {last} alone"
        )


def attach(worker: Any, make: Callable[..., Watch]) -> Attached:
    """Put a watch on a worker's model runner; run with the engine's ``collective_rpc``."""
    runner = worker.model_runner
    watch = make(device=runner.device)
    tap = (TapV2 if getattr(worker, "use_v2_model_runner", False) else TapV1)(runner, watch)
    return Attached(watch, tap.detach)


def finished(sample: Sample, exit_at: int | None, state: Any, rule: ProbeExit) -> Stopped:
    """Return a completion as the loop of :mod:`reason_rl.stopping.generate` would have told of it.

    Args:
        sample: as vLLM wrote it; after an exit a last end token may be ours, where the answer had grown too long.
        exit_at: completion tokens before the exit; None = none.
        state: what the rule saw.
        rule: its elicitor tells what was forced.
    """
    if exit_at is None:
        return Stopped(sample, (False,) * len(sample.token_ids), None, 0, state)
    size = len(rule.elicitor.ids)
    limit = exit_at + size + rule.elicitor.answer_tokens
    ended = sample.finish_reason == "stop" and len(sample.token_ids) <= limit
    kept = replace(
        sample,
        token_ids=sample.token_ids[:limit],
        logps=sample.logps[:limit],
        finish_reason="exit" if ended else "length",
    )
    forced = tuple(exit_at <= place < exit_at + size for place in range(len(kept.token_ids)))
    return Stopped(kept, forced, exit_at, 0, state)
