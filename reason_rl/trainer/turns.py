"""Traces in turns: right solutions of a model, cut into units, with the answer that the model gives after each of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reason_rl.algorithm.turns import split_units
from reason_rl.errors import RecipeError
from reason_rl.evaluate.records import EvalRow, write_lines
from reason_rl.evaluate.run import evaluate
from reason_rl.models import load_model, load_tokenizer, to_accelerator
from reason_rl.problem.prompt import render_prompts
from reason_rl.rollout.backend import Backend, SamplingOptions, SamplingRequest, sampling_seed
from reason_rl.rollout.engines import make_backend, open_engine
from reason_rl.trainer.offline import solving
from reason_rl.trainer.train import training_problems

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from reason_rl.recipe.schema import Recipe
    from reason_rl.run_folder import RunFolder

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Tags:
    """Token ids of the tags around thinking, and those that end a completion."""

    think: int
    end_think: int
    ends: frozenset[int]


@dataclass(frozen=True)
class Cut:
    """A right solution cut into units, in token ids: the units of its thinking, and its answer with the end token."""

    problem_id: str
    units: tuple[Ids, ...]
    answer: Ids


def traces_file(run: RunFolder) -> Path:
    """Return where the traces are kept."""
    return run.path / "turns" / "traces.jsonl"


def make_traces(recipe: Recipe, run: RunFolder, say: Callable[[str], None], engine: Any = None) -> list[dict[str, Any]]:
    """Return traces in turns, one row each, and keep them in the run folder with the solutions they are made of.

    An interrupted sampling goes on where it was; traces that are there are not made again.

    Returns:
        rows of problem_id, turns and text, which starts inside the first thinking and holds the end token.

    Raises:
        RecipeError: when no trace could be made, or the tokenizer has no token for a tag.
    """
    if traces_file(run).is_file():
        return [json.loads(line) for line in traces_file(run).read_text(encoding="utf-8").split("\n")[1:] if line]
    section = recipe.turns
    assert section is not None
    sampled = solving(recipe, section.model, section)
    if engine is None:
        engine = open_engine(sampled)  # one for both, solutions and answers: a GPU has no room for a second
    rows = evaluate(sampled, None, traces_file(run).with_name("solutions.jsonl"), engine=engine)
    problems = {problem.id: problem for problem in training_problems(recipe)}
    tokenizer = load_tokenizer(sampled.model)
    tags = tags_of(tokenizer, str(recipe.model.end_think_token))
    right = [row for row in rows if row.correct and row.problem_id in problems]
    cuts = [cut for row in right for cut in [cut_row(row, tokenizer, tags, section.cut, section.candidate)] if cut]
    kept = list(problems.values())
    prompts = dict(zip(problems, render_prompts(kept, tokenizer, recipe.prompt), strict=True))
    weights = load_model(sampled.model)
    if recipe.rollout.engine == "hf":
        weights = to_accelerator(weights)
    backend = make_backend(sampled, weights, tokenizer, engine)
    backend.sync_weights(0)
    traces = in_turns(cuts, prompts, backend, tags, section.answer_tokens)
    if not traces:
        raise RecipeError("turns: no trace could be made; take more problems, or a model that solves some of them")
    made = [
        {"problem_id": name, "turns": turns, "text": str(tokenizer.decode(list(ids)))} for name, turns, ids in traces
    ]
    turns = sum(count for _, count, _ in traces) / len(traces)
    say(f"{len(made)} traces of {turns:.1f} turns from {len(right)} right solutions of {len(rows)}")
    write_lines(traces_file(run), [{"header": True, "traces": len(made), "solutions": len(rows)}, *made])
    return made


def tags_of(tokenizer: PreTrainedTokenizerBase, end_think_token: str) -> Tags:
    """Return the tags of a tokenizer.

    Raises:
        RecipeError: when one of them is not one token of the vocabulary.
    """
    vocabulary, opener = tokenizer.get_vocab(), end_think_token.replace("/", "", 1)
    for token in (opener, end_think_token):
        if token not in vocabulary:
            raise RecipeError(
                f"model.end_think_token: {token} is not a token of this model, so it cannot think in turns"
            )
    ends = {tokenizer.eos_token_id} - {None}
    return Tags(vocabulary[opener], vocabulary[end_think_token], frozenset(ends))


def cut_row(row: EvalRow, tokenizer: PreTrainedTokenizerBase, tags: Tags, cut: str, candidate: str) -> Cut | None:
    """Return a solution cut into units; None when its thinking holds further tags, or it has no answer."""
    end = str(tokenizer.convert_ids_to_tokens(tags.end_think))
    thinking, found, answer = row.completion.partition(end)
    units = [text_ids(tokenizer, unit) for unit in split_units(thinking, cut, candidate)]
    last = text_ids(tokenizer, answer)
    inside = {tags.think, tags.end_think} & {token for ids in (*units, last) for token in ids}
    if not found or inside or not last:
        return None
    return Cut(row.problem_id, tuple(units), last)


def in_turns(
    cuts: Sequence[Cut], prompts: Mapping[str, Ids], backend: Backend, tags: Tags, answer_tokens: int
) -> list[tuple[str, int, Ids]]:
    """Return (problem, turns, token ids) of each trace: every unit followed by the answer given when thinking ends there.

    The last answer is the solution's own. Traces with an answer that is too long, empty or thinks again are left out.

    Source: arXiv 2505.19788, as others summarise its four steps; answers are greedy here (our choice).
    """
    requests = [
        SamplingRequest(
            (*prompts[cut.problem_id], *(i for unit in cut.units[: k + 1] for i in unit), tags.end_think),
            answer_tokens,
            sampling_seed("turn", cut.problem_id, k),
        )
        for cut in cuts
        for k in range(len(cut.units) - 1)
    ]
    samples = iter(backend.generate(requests, SamplingOptions(temperature=0.0)) if requests else [])
    traces = []
    for cut in cuts:
        given = [next(samples) for _ in cut.units[1:]]
        answers = [tuple(i for i in sample.token_ids if i not in tags.ends) for sample in given]
        thinks = any({tags.think, tags.end_think} & set(answer) for answer in answers)
        if thinks or not all(answers) or any(sample.finish_reason == "length" for sample in given):
            continue
        ids: list[int] = []
        for unit, answer in zip(cut.units, (*answers, cut.answer), strict=True):
            ids += [*([tags.think] if ids else []), *unit, tags.end_think, *answer]
        traces.append((cut.problem_id, len(cut.units), tuple(ids)))
    return traces


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> Ids:
    """Return the token ids of a text by itself."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
