"""Evaluate a model that somebody else serves: the same problems, prompts, grading and rows as for a model of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason_rl.answer.extract import split_think
from reason_rl.answer.response import answer_in
from reason_rl.answer.verify import Verifier, make_verifier
from reason_rl.errors import RunError
from reason_rl.evaluate.records import EvalRow, hash_prompt
from reason_rl.evaluate.run import EvalOptions, OnProgress, SampleSome, complete_rows, make_header
from reason_rl.models import load_tokenizer
from reason_rl.problem.prompt import messages
from reason_rl.problem.record import Problem
from reason_rl.problem.sources import load_problems
from reason_rl.rollout.backend import SamplingOptions, sampling_seed
from reason_rl.rollout.endpoint import SEED_BITS, ChatClient, ChatRequest, Endpoint, Reply, connect

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from reason_rl.recipe.schema import Recipe

END_THINK = "</think>"
PIECE_ROUNDS = 4  # requests a connection; what an interruption loses at most


@dataclass(frozen=True)
class Counted:
    """A reply as one text with its parts counted; ``answer_text`` is None where thinking did not end."""

    completion: str
    answer_text: str | None
    completion_tokens: int
    think_tokens: int


@dataclass(frozen=True)
class TokenCounter:
    """Counts the tokens of what a server did not count itself.

    Without a thinking part, the whole completion counts as thinking, as for any model that does not think.

    Args:
        tokenizer: of the served model; None = what the server says must do.
    """

    tokenizer: PreTrainedTokenizerBase | None = None

    def count(self, reply: Reply, cut: bool) -> Counted:
        """Split a reply into thinking and answer, and count both.

        The server's own numbers come first, the tokenizer fills in what it does not say.

        Raises:
            RunError: when a number is missing and there is no tokenizer.
        """
        if reply.thinking is None:
            whole, (thinking, answer) = reply.text, split_think(reply.text, END_THINK)
            closed = answer is not None
            # No mark: thinking that was cut, or a model that does not think.
            text = answer if closed else None if cut else reply.text
        else:
            thinking, closed = reply.thinking, bool(reply.text) or not cut
            text = reply.text if closed else None
            whole = f"{thinking}{END_THINK}{reply.text}" if closed else thinking
        tokens = self._tokens(whole) if reply.completion_tokens is None else reply.completion_tokens
        think = tokens
        if closed:
            counted = reply.reasoning_tokens
            think = min(tokens, self._tokens(f"{thinking}{END_THINK}") if counted is None else counted)
        return Counted(whole, text, tokens, think)

    def _tokens(self, text: str) -> int:
        if self.tokenizer is None:
            raise RunError("--url: the server does not count completion and thinking tokens; name a --tokenizer")
        return len(self.tokenizer(text, add_special_tokens=False).input_ids)


def evaluate_endpoint(
    recipe: Recipe, endpoint: Endpoint, tokenizer: str | None, out: Path, on_progress: OnProgress | None = None
) -> list[EvalRow]:
    """Evaluate a served model on the recipe's ``eval`` problems; interrupted, it goes on where it was.

    Args:
        recipe: the sections eval, prompt and answer count; its model does not.
        endpoint: who is asked.
        tokenizer: model folder, hub id or name whose tokenizer counts what the server does not.
        out: JSONL of the rows.
        on_progress: ``(rows done, rows)`` of a piece.

    Raises:
        RecipeError: when data or address cannot be used.
        RunError: when the server fails for good, or ``out`` holds another evaluation.
    """
    section = recipe.eval
    assert section is not None
    options = EvalOptions(**section.model_dump(include=set(EvalOptions.__dataclass_fields__)))
    problems = load_problems(section.data)[: section.limit]
    header = make_header(recipe, endpoint.model, len(problems), "openai", url=endpoint.url, tokenizer=tokenizer)
    size = PIECE_ROUNDS * endpoint.concurrency
    return complete_rows(out, header, problems, size, _opened(recipe, endpoint, tokenizer, options), on_progress)


@contextmanager
def _opened(recipe: Recipe, endpoint: Endpoint, tokenizer: str | None, options: EvalOptions) -> Iterator[SampleSome]:
    spec: Any = recipe.model.model_copy(update={"path": tokenizer})
    counter = TokenCounter(load_tokenizer(spec) if tokenizer else None)
    with (
        connect(endpoint) as client,
        make_verifier(recipe.answer.verify, recipe.answer.timeout_seconds) as verifier,
    ):
        yield lambda some, on_progress: _rows(client, verifier, counter, recipe, some, options, on_progress)


def _rows(
    client: ChatClient,
    verifier: Verifier,
    counter: TokenCounter,
    recipe: Recipe,
    problems: Sequence[Problem],
    options: EvalOptions,
    on_progress: OnProgress | None,
) -> list[EvalRow]:
    owners = [(problem, sample) for problem in problems for sample in range(options.samples)]
    requests = [
        ChatRequest(
            tuple(messages(problem, recipe.prompt)),
            options.max_tokens,
            sampling_seed(options.seed, problem.id, sample) % 2**SEED_BITS,
        )
        for problem, sample in owners
    ]
    replies = client.complete(requests, SamplingOptions(options.temperature, options.top_p, options.top_k), on_progress)
    parts = [counter.count(reply, reply.finish_reason == "length") for reply in replies]
    find = recipe.answer.find
    extracted = [None if part.answer_text is None else answer_in(part.answer_text, find) for part in parts]
    verdicts = verifier.verify(extracted, [problem.answer for problem, _ in owners])
    return [
        EvalRow(
            problem_id=problem.id,
            level=problem.level,
            family=problem.meta.get("family"),
            sample=sample,
            seed=request.seed,
            prompt=problem.prompt,
            completion=part.completion,
            answer=problem.answer,
            extracted=answer,
            correct=verdict and reply.finish_reason == "stop",
            completion_tokens=part.completion_tokens,
            think_tokens=part.think_tokens,
            answer_tokens=part.completion_tokens - part.think_tokens,
            finish_reason=reply.finish_reason,
            prompt_hash=hash_prompt(request.messages),
        )
        for (problem, sample), request, reply, part, answer, verdict in zip(
            owners, requests, replies, parts, extracted, verdicts, strict=True
        )
    ]
