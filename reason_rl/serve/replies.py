"""The bodies of replies: completions and chats, whole or in chunks, and the list of models."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reason_rl.serve.engine import Token
from reason_rl.serve.service import Plan, Service
from reason_rl.serve.text import Delta, Reader


@dataclass(frozen=True)
class Reply:
    """Words one reply.

    Args:
        service: the served model.
        plan: of the request.
        chat: a chat completion, else a bare one.
        logprobs: say the log-probability of each token, under the distribution it was drawn from.
    """

    service: Service
    plan: Plan
    chat: bool
    logprobs: bool
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, deltas: Sequence[Sequence[Delta]]) -> dict[str, Any]:
        """Return the reply from the deltas of each completion."""
        choices = [self._choice(i, some, reader) for i, (some, reader) in enumerate(self._pairs(deltas))]
        return {**self._frame(chunk=False), **self._stopping(), "choices": choices, "usage": self.usage()}

    def first(self) -> list[dict[str, Any]]:
        """Return the chunks that open the completions of a chat; none for bare ones."""
        if not self.chat:
            return []
        opening = {"delta": {"role": "assistant", "content": ""}, "finish_reason": None, "logprobs": None}
        return [self._chunk([{"index": i, **opening}]) for i in range(len(self.plan.rows))]

    def chunk(self, index: int, delta: Delta) -> dict[str, Any] | None:
        """Return the chunk of a delta; None when there is nothing to say."""
        told = delta.token is not None and self.logprobs
        if not (delta.reasoning or delta.content or delta.finish or told):
            return None
        choice: dict[str, Any] = {"index": index}
        if self.chat:
            parts = {"reasoning_content": delta.reasoning, "content": delta.content}
            choice["delta"] = {name: text for name, text in parts.items() if text}
        else:
            choice["text"] = delta.content
        choice |= {"logprobs": self._logprobs([delta]), "finish_reason": delta.finish}
        if not delta.finish:
            return self._chunk([choice])
        choice |= self._ending(self.plan.readers[index])
        return {**self._chunk([choice]), **self._stopping()}

    def last(self) -> dict[str, Any]:
        """Return the chunk that says the usage."""
        return {**self._chunk([]), "usage": self.usage()}

    def usage(self) -> dict[str, Any]:
        """Return the tokens of the prompts, of all completions, and of these those of thinking."""
        completion = sum(reader.written for reader in self.plan.readers)
        thinking = sum(reader.think_tokens for reader in self.plan.readers)
        return {
            "prompt_tokens": self.plan.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.plan.prompt_tokens + completion,
            "completion_tokens_details": {"reasoning_tokens": thinking},
        }

    def _pairs(self, deltas: Sequence[Sequence[Delta]]) -> list[tuple[Sequence[Delta], Reader]]:
        return list(zip(deltas, self.plan.readers, strict=True))

    def _frame(self, *, chunk: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self.chat else "text_completion"
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.service.name}

    def _stopping(self) -> dict[str, Any]:
        return {} if self.plan.stopping is None else {"stopping": self.plan.stopping}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._frame(chunk=True), "choices": choices}

    def _choice(self, index: int, deltas: Sequence[Delta], reader: Reader) -> dict[str, Any]:
        content = "".join(delta.content for delta in deltas)
        choice: dict[str, Any] = {"index": index}
        if self.chat:
            message: dict[str, Any] = {"role": "assistant", "content": content}
            if reader.split:
                message["reasoning_content"] = "".join(delta.reasoning for delta in deltas)
            choice["message"] = message
        else:
            choice["text"] = content
        choice |= {"logprobs": self._logprobs(deltas), "finish_reason": reader.finish}
        return choice | self._ending(reader)

    @staticmethod
    def _ending(reader: Reader) -> dict[str, Any]:
        """Return what OpenAI has no words for: after how many tokens thinking was ended, and by which text it stopped."""
        exit_at = None if reader.exit_at is None else {"after_tokens": reader.exit_at}
        return {"exit": exit_at, "stop_reason": reader.stopped_by}

    def _logprobs(self, deltas: Sequence[Delta]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        written = [delta.token for delta in deltas if delta.token is not None]
        if self.chat:
            return {"content": [self._entry(token) for token in written]}
        return {
            "tokens": [self._text(token) for token in written],
            "token_logprobs": [token.logp for token in written],
            "top_logprobs": None,
            "text_offset": None,
        }

    def _entry(self, token: Token) -> dict[str, Any]:
        text = self._text(token)
        return {"token": text, "logprob": token.logp, "bytes": list(text.encode()), "top_logprobs": []}

    def _text(self, token: Token) -> str:
        return str(self.service.tokenizer.decode([token.id]))


def models(service: Service, started: int) -> dict[str, Any]:
    """Return the list of models: one, with its context, whether it thinks, and what its probe guarantees."""
    exits = service.policies.exits
    guarantee = exits.certificate.guarantee.statement() if exits and exits.certificate else None
    entry = {
        "id": service.name,
        "object": "model",
        "created": started,
        "owned_by": "reason_rl",
        "max_model_len": service.context_tokens,
        "thinks": service.thinks,
        "probe": None if exits is None else {"certified": guarantee is not None, "statement": guarantee},
    }
    return {"object": "list", "data": [entry]}
