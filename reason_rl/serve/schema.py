"""The requests that the server reads: OpenAI's fields, and ``stop`` as an object that says how thinking is ended."""

from __future__ import annotations

import difflib
import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from reason_rl.serve.errors import ApiError

# Fields of OpenAI's clients that change no completion.
IGNORED = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
# Fields that would change one, with the value at which they do not.
NEUTRAL: dict[str, Any] = {
    "best_of": 1,
    "echo": False,
    "frequency_penalty": 0,
    "logit_bias": {},
    "modalities": ["text"],
    "presence_penalty": 0,
    "response_format": {"type": "text"},
    "suffix": "",
    "tool_choice": "none",
    "tools": [],
    "top_logprobs": 0,
}
IGNORED_OF_MESSAGES = frozenset({"annotations", "reasoning", "reasoning_content", "refusal"})
MAX_CHOICES = 128


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Texts = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_texts), Field(max_length=16)]


class Body(BaseModel):
    """A part of a request; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ProbeAsk(Body):
    """Exits by the server's probe, at another risk or a threshold of one's own."""

    risk: float | None = Field(default=None, gt=0, lt=1)
    threshold: float | None = Field(default=None, ge=0, le=1)
    uncertified: bool = False


def _probe(value: Any) -> Any:
    """Read true as the certified threshold, false as no exits."""
    if not isinstance(value, bool | dict | ProbeAsk | None):
        raise ValueError("is true, or an object with risk, threshold or uncertified")
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class StopAsk(Body):
    """The field ``stop``: texts that end a completion, and how its thinking is ended.

    Args:
        strings: a completion ends before the first of them.
        probe: true, or how; see :class:`ProbeAsk`.
        strength: of the scaled stop token; above 1 thinking ends earlier.
        budget: think tokens after which thinking is closed and answered.
    """

    strings: Texts = []
    probe: Annotated[ProbeAsk | None, BeforeValidator(_probe)] = None
    strength: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    budget: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_of_them(self) -> StopAsk:
        if self.probe is not None and (self.strength is not None or self.budget is not None):
            raise ValueError(
                "probe goes with neither strength nor budget: its exits are certified for decoding as it is"
            )
        return self


def _stop(value: Any) -> Any:
    """Read a string or a list of strings as OpenAI does."""
    if not isinstance(value, str | list | dict | StopAsk):
        raise ValueError("is a string, a list of strings, or an object with strings, probe, strength or budget")
    return {"strings": value} if isinstance(value, str | list) else value


class StreamOptions(Body):
    """What a stream says beside the text."""

    include_usage: bool = False


class Request(Body):
    """What completions and chat have in common; ``top_k`` is no field of OpenAI's, -1 or 0 is off."""

    model: str
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Annotated[StopAsk, BeforeValidator(_stop)] = StopAsk()
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()


def _prompts(value: Any) -> Any:
    """Read one prompt, a text or token ids, as a list of one."""
    prompts = [value] if isinstance(value, str) or (isinstance(value, list) and _ids(value)) else value
    if not isinstance(prompts, list) or not all(isinstance(one, str) or _ids(one) for one in prompts):
        raise ValueError("is a text, token ids, or a list of texts or token ids")
    return prompts


def _ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


class CompletionRequest(Request):
    """The body of ``/v1/completions``; ``logprobs`` 0 gives those of the written tokens, others are not there."""

    prompt: Annotated[list[str | list[int]], BeforeValidator(_prompts), Field(min_length=1, max_length=MAX_CHOICES)]
    logprobs: int | None = Field(default=None, ge=0, le=0)


class Part(Body):
    """A part of a message; only text is there."""

    type: Literal["text"]
    text: str


class Message(Body):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] = ""
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: v for k, v in value.items() if v is not None and k not in IGNORED_OF_MESSAGES}

    def plain(self) -> dict[str, str]:
        """Return the message as chat templates take it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ChatRequest(Request):
    """The body of ``/v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False

    @model_validator(mode="after")
    def _one_cap(self) -> ChatRequest:
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise ValueError("max_tokens and max_completion_tokens say different things; give one")
        return self


OWNERS: dict[Any, type[BaseModel]] = {
    "stop": StopAsk,
    "probe": ProbeAsk,
    "stream_options": StreamOptions,
    "messages": Message,
    "content": Part,
}
Read = TypeVar("Read", bound=Request)


def read_body(kind: type[Read], raw: bytes) -> Read:
    """Return the request of a body.

    Raises:
        ApiError: 400, naming the field, what is wrong with it, and what it could be.
    """
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise ApiError(400, "the body is no JSON object with the fields of a request")
    wanted = {}
    for name, value in fields.items():
        if value is None or name in IGNORED:
            continue
        if name in NEUTRAL and name not in kind.model_fields:
            if value != NEUTRAL[name]:
                only = json.dumps(NEUTRAL[name])
                raise ApiError(400, f"{name}: is not supported, only {only} is; leave it out", name, "unsupported")
            continue
        _check_text(name, value)
        wanted[name] = value
    try:
        return kind.model_validate(wanted)
    except ValidationError as error:
        first = error.errors()[0]
        param = _place(first["loc"])
        raise ApiError(400, f"{param or 'the body'}: {_reason(kind, first)}", param or None) from None


def _check_text(name: str, value: Any) -> None:
    """Raise ApiError for half a surrogate pair, which JSON can write down and UTF-8 cannot."""
    try:
        json.dumps([name, value], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        shown = ascii(name)[1:-1]
        raise ApiError(400, f"{shown}: holds half of a surrogate pair, which is no text", shown) from None


def _place(location: tuple[int | str, ...]) -> str:
    """Return where an error is, without the names that pydantic gives to the members of a union.

    >>> _place(("stop", "probe", "risk")), _place(("prompt", 0, "list[int]", 1)), _place(("messages", 0, "content", "str"))
    ('stop.probe.risk', 'prompt.0.1', 'messages.0.content')
    """
    return ".".join(str(part) for part in location if part != "str" and not str(part).startswith("list["))


def _reason(kind: type[BaseModel], error: Any) -> str:
    if error["type"] != "extra_forbidden":
        return str(error["msg"]).removeprefix("Value error, ")
    *path, name = error["loc"]
    within = [OWNERS[part] for part in path if part in OWNERS]
    known = list((within[-1] if within else kind).model_fields)
    near = difflib.get_close_matches(str(name), known, n=1)
    return "unknown field; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")
