"""Evaluate a model that somebody else serves: the same problems, prompts, grading and rows as for a model of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason_rl.answer.extract import split_think
from reason_rl.answer.response import answer_in
from reason_rl.answer.verify import Verifier, make_verifier
from reason_rl.errors import RecipeError, RunError
from reason_rl.evaluate.records import EvalRow, hash_prompt
from reason_rl.evaluate.run import CUT, EvalOptions, OnRows, SampleSome, Trial, complete_rows, make_header
from reason_rl.models import load_tokenizer
from reason_rl.problem.prompt import messages
from reason_rl.problem.sources import load_problems
from reason_rl.rollout.backend import OnProgress, SamplingOptions, sampling_seed
from reason_rl.rollout.endpoint import SEED_BITS, ChatClient, ChatRequest, Endpoint, Reply, connect

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from reason_rl.recipe.schema import Recipe

END_THINK = "</think>"


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


def stop_field(name: str | None) -> dict[str, Any] | None:
    """Return what ``eval.stop`` asks of a server of ``reason-rl serve``, whose probe is its own: ``probe:RISK``.

    >>> stop_field("strength:1.5"), stop_field("budget:512"), stop_field("probe:0.05"), stop_field(None)
    ({'strength': 1.5}, {'budget': 512}, {'probe': {'risk': 0.05}}, None)

    Raises:
        RecipeError: for a strength or risk that is no number, and for no_thinking, whose answer is sampled: a server answers
            greedily where it closes thinking.
    """
    if name is None:
        return None
    kind, _, value = name.partition(":")
    if kind == "no_thinking":
        raise RecipeError(
            "--stop no_thinking: with --url the answer would be greedy, not sampled; evaluate the model with engine hf"
        )
    if kind == "budget":
        return {"budget": int(value)}
    try:
        return {"strength": float(value)} if kind == "strength" else {"probe": {"risk": float(value)}}
    except ValueError:
        wanted = "a risk, for the probe is the server's" if kind == "probe" else "a number"
        raise RecipeError(f"--stop {name}: with --url, what follows {kind} is {wanted}") from None


def evaluate_endpoint(
    recipe: Recipe, endpoint: Endpoint, tokenizer: str | None, out: Path, on_progress: OnProgress | None = None
) -> list[EvalRow]:
    """Evaluate a served model on the recipe's ``eval`` problems; interrupted, it goes on where it was.

    Args:
        recipe: the sections eval, prompt and answer count; its model does not.
        endpoint: who is asked.
        tokenizer: model folder, hub id or name whose tokenizer counts what the server does not.
        out: JSONL of the rows.
        on_progress: ``(rows done, rows)``.

    Raises:
        RecipeError: when data or address cannot be used.
        RunError: when the server fails for good, or ``out`` holds another evaluation.
    """
    section = recipe.eval
    assert section is not None
    stop_field(section.stop)
    options = EvalOptions(**section.model_dump(include=set(EvalOptions.__dataclass_fields__)))
    problems = load_problems(section.data)[: section.limit]
    header = make_header(recipe, endpoint.model, problems, "openai", url=endpoint.url, tokenizer=tokenizer)
    return complete_rows(out, header, problems, _opened(recipe, endpoint, tokenizer, options), on_progress)


@contextmanager
def _opened(recipe: Recipe, endpoint: Endpoint, tokenizer: str | None, options: EvalOptions) -> Iterator[SampleSome]:
    spec: Any = recipe.model.model_copy(update={"path": tokenizer})
    counter = TokenCounter(load_tokenizer(spec) if tokenizer else None)
    with (
        connect(endpoint) as client,
        make_verifier(recipe.answer.verify, recipe.answer.timeout_seconds) as verifier,
    ):
        yield partial(_ask, client, _RowMaker(verifier, counter, recipe), options)


def _ask(
    client: ChatClient,
    make: _RowMaker,
    options: EvalOptions,
    trials: Sequence[Trial],
    on_rows: OnRows,
) -> None:
    """Ask for one completion a trial, and hand over its row when it is there."""
    assert make.recipe.eval is not None
    stop = stop_field(make.recipe.eval.stop)
    requests = [
        ChatRequest(
            tuple(messages(problem, make.recipe.prompt)),
            options.max_tokens,
            sampling_seed(options.seed, problem.id, sample) % 2**SEED_BITS,
            stop,
        )
        for problem, sample in trials
    ]
    client.complete(
        requests,
        SamplingOptions(options.temperature, options.top_p, options.top_k),
        on_ended=lambda ended: on_rows([make.row(trials[i], requests[i], reply) for i, reply in ended]),
    )


@dataclass(frozen=True)
class _RowMaker:
    """Turns replies into graded rows."""

    verifier: Verifier
    counter: TokenCounter
    recipe: Recipe

    def row(self, trial: Trial, request: ChatRequest, reply: Reply) -> EvalRow:
        problem, cut = trial.problem, reply.finish_reason == "length"
        part = self.counter.count(reply, cut)
        answer = None if part.answer_text is None else answer_in(part.answer_text, self.recipe.answer.find)
        (verdict,) = self.verifier.judge([answer], [problem.answer])
        return EvalRow(
            problem_id=problem.id,
            level=problem.level,
            family=problem.meta.get("family"),
            sample=trial.sample,
            seed=request.seed,
            prompt=problem.prompt,
            completion=part.completion,
            answer=problem.answer,
            extracted=answer,
            correct=verdict.correct is True and reply.finish_reason == "stop",
            completion_tokens=part.completion_tokens,
            think_tokens=part.think_tokens,
            answer_tokens=part.completion_tokens - part.think_tokens,
            finish_reason=reply.finish_reason,
            prompt_hash=hash_prompt(request.messages),
            reason=CUT if cut else verdict.reason,
        )
