"""Rollouts from ``vllm serve`` on other GPUs or hosts, kept at the trainer's weights through a shared folder."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason_rl.errors import RecipeError, RunError
from reason_rl.rollout.backend import OnEnded, OnProgress, Sample, SamplingOptions, SamplingRequest, check_context
from reason_rl.rollout.endpoint import run_all
from reason_rl.rollout.processes import is_first, only_first
from reason_rl.rollout.server_client import AFTER, Held, ServerClient, check_server_version
from reason_rl.rollout.weights import adapter_weights, full_weights

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from reason_rl.rollout.vllm_local import RequestStop

ENDED = ("stop", "length")


class VLLMServerBackend:
    """Samples from a vLLM server, with a budget and a seed a row; every process of the trainer asks it by itself.

    Weights go by way of a folder that the server sees under the same path: an adapter as a new adapter with the version in
    its name, full weights as one safetensors file that the server reloads. The first process writes them.

    Args:
        client: from :class:`ServerClient`.
        model: the trainer's model, plain or with a peft adapter; the source of the weights.
        eos_token_ids: ids that end a completion.
        stop: what requests ask of the server's logits processors; None = nothing.

    Raises:
        RecipeError: for a server of another version, without the served name, or with settings that would make
            log-probabilities or weights wrong.
    """

    def __init__(
        self,
        client: ServerClient,
        model: PreTrainedModel,
        eos_token_ids: Sequence[int],
        stop: RequestStop | None = None,
    ) -> None:
        self.client, self.model, self.stop = client, model, stop
        self.eos_token_ids = sorted(eos_token_ids)
        self.version = -1
        self.settings = read_server(client)
        if stop is not None and not set(stop.processors) & set(self.settings.processors):
            raise RecipeError(
                f"rollout.server: does not scale the stop token; start it with --logits-processors {stop.processors[0]} "
                f"(on GPUs {stop.processors[1]})"
            )
        # Tells this run's weights from those of any other run that the server has seen.
        self.run = only_first(lambda: secrets.token_hex(4))
        self.name: str | None = None

    @property
    def adapted(self) -> bool:
        """Whether only an adapter is trained."""
        return hasattr(self.model, "peft_config")

    def follow(self, model: PreTrainedModel, *, still: bool = False) -> None:
        """Take the weights from this model of the trainer; the server's own are always a copy."""
        self.model = model

    def sync_weights(self, version: int) -> None:
        """Bring the server to the model's weights; all processes take part.

        Raises:
            RunError: on every process when the server does not take them; the model is never changed (nothing is merged).
        """
        if self.name is None:
            check_weights_can_go(self.settings, self.model)
        name = f"{self.run}-{version}"
        tensors = adapter_weights(self.model) if self.adapted else self._gathered()
        only_first(lambda: self._push(name, tensors))
        self.name, self.version = name, version

    def _gathered(self) -> dict[str, Tensor]:
        """Return every parameter on the first process, and nothing on the others, which help to gather shards."""
        return {name: tensor.cpu() for name, tensor in full_weights(self.model) if is_first()}

    def _push(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        folder = self._folder(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (self._push_adapter if self.adapted else self._push_full)(name, folder, tensors)
            before, self.client.held = self.client.held, Held(name, self.adapted)
            if before is not None:
                shutil.rmtree(self._folder(before.name))
        except OSError as error:
            raise RunError(f"rollout.server.folder: cannot write weights to {folder} ({error}); {AFTER}") from error

    def _folder(self, name: str) -> Path:
        return Path(self.client.options.folder).absolute() / f"reason_rl-{name}"

    def _push_adapter(self, name: str, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        self.model.save_pretrained(folder, state_dict=dict(tensors))
        try:
            self.client.request("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        except RunError:
            # The name is this version's own: where it is taken, only the reply to an earlier attempt was lost.
            if name not in self.client.models():
                raise
        before = self.client.held
        if before is not None and before.adapter:
            self.client.request("POST", "/v1/unload_lora_adapter", {"lora_name": before.name})

    def _push_full(self, name: str, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        from safetensors.torch import save_file

        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "model.safetensors")
        reload = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        self.client.request("POST", "/collective_rpc", reload)
        self.client.request("POST", "/reset_prefix_cache")
        self.client.request("POST", "/update_weight_version", {"new_version": name})

    def generate(
        self,
        requests: Sequence[SamplingRequest],
        options: SamplingOptions,
        on_progress: OnProgress | None = None,
        on_ended: OnEnded | None = None,
    ) -> list[Sample]:
        """Sample one completion a request; the first that fails for good ends all.

        Raises:
            RunError: when the server never had the trainer's weights or has lost them, or does not answer any more.
        """
        if self.name is None:
            raise RunError("the rollout server was asked for rollouts before it was given the trainer's weights")
        check_context(requests, self.settings.context_tokens)
        self._check_weights(self.name)
        jobs = [partial(self._ask, row, request, options) for row, request in enumerate(requests)]
        return run_all(jobs, self.client.options.concurrency, on_progress, on_ended)

    def _check_weights(self, name: str) -> None:
        """Stop when the server does not hold what this run pushed last: it was restarted, or serves another run."""
        if self.adapted:
            lost = name not in self.client.models()
        else:
            lost = self.client.get("/weight_info").get("weight_version") != name
        if lost:
            raise RunError(
                f"rollout server {self.client.options.url}: does not hold policy {name} any more (restarted, or shared with "
                f"another run); {AFTER}"
            )

    def _ask(self, row: int, request: SamplingRequest, options: SamplingOptions) -> Sample:
        body: dict[str, Any] = {
            "model": self.name if self.adapted else self.client.options.model,
            "prompt": list(request.prompt_ids),
            "max_tokens": request.max_tokens,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "top_k": options.top_k,
            "seed": request.seed,
            "stop_token_ids": [*self.eos_token_ids, *options.stop_ids],
            "logprobs": 0,
            "return_token_ids": True,
        }
        if self.stop is None:
            return read_completion(self.client.post("/v1/completions", body))
        body["vllm_xargs"] = self.stop.arguments(row)
        return self.stop.marked(request, read_completion(self.client.post("/v1/completions", body)))


def read_completion(body: Mapping[str, Any]) -> Sample:
    """Return the one completion of a reply.

    >>> choice = {"token_ids": [5, 1], "logprobs": {"token_logprobs": [-0.5, -0.1]}, "finish_reason": "stop"}
    >>> read_completion({"choices": [choice]})
    Sample(token_ids=(5, 1), logps=(-0.5, -0.1), finish_reason='stop', forced=0, sampled=None)

    Raises:
        RunError: when there is not exactly one, it ended for another reason than an end token or its budget, or a token
            has no log-probability.
    """
    try:
        (choice,) = body["choices"]
        ids, logps = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        reason = choice["finish_reason"]
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"the rollout server sent no completion with token ids and log-probabilities ({error!r})"
        ) from error
    if reason not in ENDED:
        raise RunError(f"the rollout server ended a rollout with {reason!r}")
    if len(ids) != len(logps) or any(logp is None for logp in logps):
        raise RunError(f"the rollout server sent {len(ids)} tokens with {len(logps)} log-probabilities")
    return Sample(tuple(ids), tuple(logps), reason)


@dataclass(frozen=True)
class ServerSettings:
    """What the server runs with: context, device type, largest adapter rank (None = no adapters), logits processors."""

    context_tokens: int
    device: str
    lora_rank: int | None
    processors: tuple[str, ...]


def read_server(client: ServerClient) -> ServerSettings:
    """Return the server's settings.

    Raises:
        RecipeError: for a version that was not read, a name that is not served, or log-probabilities of another
            distribution than the one sampled from.
    """
    check_server_version(str(client.get("/version")["version"]))
    models, name = client.models(), client.options.model
    if name not in models:
        raise RecipeError(f"rollout.server.model: the server has no {name}; it has {', '.join(sorted(models))}")
    config = client.get("/server_info?config_format=json")["vllm_config"]
    mode = config["model_config"]["logprobs_mode"]
    if mode != "processed_logprobs":
        raise RecipeError(f"rollout.server: it gives {mode}; start it with --logprobs-mode processed_logprobs")
    lora = config["lora_config"]
    return ServerSettings(
        context_tokens=int(models[name]["max_model_len"]),
        device=str(config["device_config"]["device"]),
        lora_rank=None if lora is None else int(lora["max_lora_rank"]),
        processors=tuple(config["model_config"].get("logits_processors") or ()),
    )


def check_weights_can_go(settings: ServerSettings, model: Any) -> None:
    """Raise RecipeError where the server could not take the model's weights, or would go on with old ones."""
    if hasattr(model, "peft_config"):
        rank = max(config.r for config in model.peft_config.values())
        if settings.lora_rank is None or settings.lora_rank < rank:
            raise RecipeError(
                f"rollout.server: takes {'no adapters' if settings.lora_rank is None else f'rank {settings.lora_rank}'}; "
                f"start it with --enable-lora --max-lora-rank {rank} or more"
            )
    elif settings.device == "cpu" and model.config.get_text_config().tie_word_embeddings:
        raise RecipeError(
            "rollout.server: on CPU a server keeps the old output head when tied weights are reloaded; train an adapter "
            "(lora), or use engine vllm"
        )
