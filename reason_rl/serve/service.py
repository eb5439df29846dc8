"""From a request's body to the rows to decode: prompts, caps, sampling, seeds and policies, all checked before any runs."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from jinja2 import TemplateError

from reason_rl.rollout.backend import SamplingOptions, SamplingRequest, sampling_seed
from reason_rl.serve.engine import Wanted
from reason_rl.serve.errors import ApiError
from reason_rl.serve.policy import Asked, Policies
from reason_rl.serve.schema import ChatRequest, CompletionRequest, Request
from reason_rl.serve.text import Reader
from reason_rl.stopping.thinking import ThinkTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Plan:
    """What a request comes to: its rows, a reader for each, prompt tokens, and what the reply says of the policy."""

    rows: tuple[Wanted, ...]
    readers: tuple[Reader, ...]
    prompt_tokens: int
    stopping: dict[str, Any] | None


@dataclass(frozen=True)
class Service:
    """The served model as requests see it.

    Args:
        name: that requests call it by.
        tokenizer: used from one thread only.
        tokens: ids that open and close thinking and end a completion.
        thinks: whether the model closes its thinking with a token.
        context_tokens: prompt and completion together at most.
        vocabulary: ids below this one exist.
        policies: what ``stop`` may ask for.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    tokens: ThinkTokens
    thinks: bool
    context_tokens: int
    vocabulary: int
    policies: Policies

    def plan(self, body: CompletionRequest | ChatRequest) -> Plan:
        """Return what a request comes to.

        The first choice of the first prompt is drawn from the seed itself, the others from seeds derived from it.

        Raises:
            ApiError: 404 for another model, 400 for a prompt that does not fit or a policy that is not there.
        """
        if body.model != self.name:
            raise ApiError(404, f"model: {body.model} is not served here, {self.name} is", "model", "model_not_found")
        if isinstance(body, ChatRequest):
            messages = [message.plain() for message in body.messages]
            prompts, param = [self._chat(messages)], "messages"
            cap = body.max_completion_tokens or body.max_tokens
        else:
            messages, param, cap = None, "prompt", body.max_tokens
            prompts = [self._prompt(prompt) for prompt in body.prompt]
        defaults = self.policies.defaults(body.stop)
        options = _options(body, defaults)
        seed = secrets.randbits(63) if body.seed is None else body.seed % 2**64
        rows, readers, says = [], [], None
        for number, prompt in enumerate(prompts):
            room = self._room(prompt, cap, param)
            limit = cap or min(defaults.get("max_tokens", room), room)
            chosen = self.policies.choose(body.stop, Asked(limit, options, messages))
            says = chosen.says
            for choice in range(body.n):
                own = seed if number == choice == 0 else sampling_seed(seed, number, choice)
                rows.append(Wanted(SamplingRequest(prompt, limit, own), options, chosen.policy))
                readers.append(self._reader(body, prompt))
        return Plan(tuple(rows), tuple(readers), sum(map(len, prompts)), says)

    def _reader(self, body: Request, prompt: tuple[int, ...]) -> Reader:
        opened = self.tokens.opened_by(prompt)
        split = self.thinks and isinstance(body, ChatRequest)
        return Reader(self.tokenizer, self.tokens, self.thinks, split, opened, tuple(body.stop.strings))

    def _room(self, prompt: tuple[int, ...], cap: int | None, param: str) -> int:
        """Return the completion tokens that fit after a prompt."""
        room = self.context_tokens - len(prompt)
        if room < 1 or (cap or 0) > room:
            asked = "" if cap is None else f" and {cap} completion tokens"
            hint = "shorten it" if room < 1 else f"ask for at most {room} tokens"
            named = param if room < 1 else "max_tokens"
            raise ApiError(
                400,
                f"{named}: {len(prompt)} prompt tokens{asked} are over the context of {self.context_tokens}; {hint}",
                named,
                "context_length_exceeded",
            )
        return room

    def _prompt(self, prompt: str | list[int]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            ids = tuple(self.tokenizer(prompt).input_ids)
        else:
            ids = tuple(prompt)
            wrong = [token for token in ids if not 0 <= token < self.vocabulary]
            if wrong:
                raise ApiError(400, f"prompt: {wrong[0]} is no token; ids are 0 to {self.vocabulary - 1}", "prompt")
        if not ids:
            raise ApiError(400, "prompt: is empty; give at least one token", "prompt")
        return ids

    def _chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        if self.tokenizer.chat_template is None:
            raise ApiError(400, "messages: this model has no chat template; use /v1/completions", "messages")
        try:
            encoded = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], add_generation_prompt=True, tokenize=True, return_dict=True
            )
        except TemplateError as error:
            raise ApiError(400, f"messages: the chat template refuses them ({error})", "messages") from None
        return tuple(cast(Mapping[str, list[int]], encoded)["input_ids"])


def _options(body: Request, defaults: Mapping[str, Any]) -> SamplingOptions:
    """Return how a request is sampled: what it says, else the defaults of its policy, else those of OpenAI."""
    given = {"temperature": body.temperature, "top_p": body.top_p, "top_k": body.top_k}
    known: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    known |= {name: defaults[name] for name in known if name in defaults}
    known |= {name: value for name, value in given.items() if value is not None}
    return SamplingOptions(float(known["temperature"]), float(known["top_p"]), max(0, known["top_k"]))
