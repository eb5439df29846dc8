"""Evaluate a model: sample each problem several times with fixed seeds, grade, and write the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from reason_rl.answer.verify import make_verifier
from reason_rl.evaluate.records import EvalRow, append_rows, hash_prompt, part_of, start_rows
from reason_rl.models import context_tokens, end_think_id, load_model, load_tokenizer
from reason_rl.problem.prompt import check_context, render_prompts
from reason_rl.problem.record import Problem
from reason_rl.problem.sources import load_problems
from reason_rl.rollout.backend import Backend, Sample, SamplingOptions, SamplingRequest, sampling_seed
from reason_rl.rollout.engines import make_backend
from reason_rl.rollout.grading import Grader

if TYPE_CHECKING:
    from reason_rl.recipe.schema import Recipe

OnProgress: TypeAlias = Callable[[int, int], None]
SampleSome: TypeAlias = Callable[[Sequence[Problem], OnProgress | None], list[EvalRow]]
PIECE_BATCHES = 2  # of max_batch_rows; what an interruption loses at most


@dataclass(frozen=True)
class EvalOptions:
    """How an evaluation samples: completions a problem, token cap, distribution, seed."""

    samples: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


def evaluate_model(
    backend: Backend,
    grader: Grader,
    problems: Sequence[Problem],
    prompts: Sequence[tuple[int, ...]],
    options: EvalOptions,
    on_progress: OnProgress | None = None,
) -> list[EvalRow]:
    """Sample and grade ``options.samples`` completions a problem; a completion cut at the cap counts as wrong."""
    requests, owners = [], []
    for problem, prompt in zip(problems, prompts, strict=True):
        for sample in range(options.samples):
            seed = sampling_seed(options.seed, problem.id, sample)
            requests.append(SamplingRequest(tuple(prompt), options.max_tokens, seed))
            owners.append((problem, sample))
    sampling = SamplingOptions(options.temperature, options.top_p, options.top_k)
    samples = backend.generate(requests, sampling, on_progress)
    extracted = [grader.extracted(sample.token_ids) for sample in samples]
    verdicts = grader.verifier.verify(extracted, [problem.answer for problem, _ in owners])
    return [
        _row(grader, problem, number, request, sample, answer, verdict)
        for (problem, number), request, sample, answer, verdict in zip(
            owners, requests, samples, extracted, verdicts, strict=True
        )
    ]


def _row(
    grader: Grader,
    problem: Problem,
    number: int,
    request: SamplingRequest,
    sample: Sample,
    extracted: str | None,
    verdict: bool,
) -> EvalRow:
    think = grader.think_length(sample.token_ids)
    return EvalRow(
        problem_id=problem.id,
        level=problem.level,
        family=problem.meta.get("family"),
        sample=number,
        seed=request.seed,
        prompt=problem.prompt,
        completion=grader.decode(sample.token_ids),
        answer=problem.answer,
        extracted=extracted,
        correct=verdict and sample.finish_reason != "length",
        completion_tokens=len(sample.token_ids),
        think_tokens=think,
        answer_tokens=len(sample.token_ids) - think,
        finish_reason=sample.finish_reason,
        shortest_think_tokens=problem.meta.get("shortest_think_tokens"),
        prompt_hash=hash_prompt(request.prompt_ids),
    )


def evaluate(
    recipe: Recipe,
    folder: Path | None,
    out: Path,
    on_progress: OnProgress | None = None,
    engine: Any = None,
) -> list[EvalRow]:
    """Evaluate the recipe's model, or the trained one in ``folder``, on the recipe's ``eval`` problems.

    Rows go to ``out`` piece by piece: an interrupted evaluation goes on where it was, a finished one is not made again.
    ``engine`` comes from ``open_engine``, if already open.

    Raises:
        RecipeError: when data or model cannot be used.
        RunError: when ``out`` holds another evaluation.
    """
    section = recipe.eval
    assert section is not None
    options = EvalOptions(**section.model_dump(include=set(EvalOptions.__dataclass_fields__)))
    problems = load_problems(section.data)[: section.limit]
    header = make_header(recipe, str(folder or recipe.model.path), len(problems), recipe.rollout.engine)
    size = PIECE_BATCHES * recipe.rollout.max_batch_rows
    return complete_rows(out, header, problems, size, _sampler(recipe, folder, problems, options, engine), on_progress)


def complete_rows(
    out: Path,
    header: dict[str, Any],
    problems: Sequence[Problem],
    piece_rows: int,
    opened: AbstractContextManager[SampleSome],
    on_progress: OnProgress | None = None,
) -> list[EvalRow]:
    """Return all rows of an evaluation: those in ``out`` as they are, the missing ones sampled and written.

    Args:
        out: the rows' file.
        header: what makes the evaluation; rows under another header are refused.
        problems: all of them.
        piece_rows: completions between two writes.
        opened: loads what sampling needs, entered only when something is missing.
        on_progress: ``(rows done, rows)`` of a piece.
    """
    rows = start_rows(out, header)
    done = {row.problem_id for row in rows}
    missing = [problem for problem in problems if problem.id not in done]
    if missing:
        with opened as sample:
            size = max(1, piece_rows // header["samples"])
            for start in range(0, len(missing), size):
                new = sample(missing[start : start + size], on_progress)
                append_rows(out, new)
                rows += new
    if not out.exists():
        part_of(out).replace(out)
    return rows


@contextmanager
def _sampler(
    recipe: Recipe, folder: Path | None, problems: Sequence[Problem], options: EvalOptions, engine: Any
) -> Iterator[SampleSome]:
    """Load what an evaluation needs and yield the function that samples and grades some of the problems."""
    if recipe.eval is not None and recipe.eval.stop is not None and recipe.rollout.engine == "hf":
        with _stopping(recipe, recipe.eval.stop, folder, options) as sample_some:
            yield sample_some
        return
    tokenizer = load_tokenizer(recipe.model)
    prompts = render_prompts(problems, tokenizer, recipe.prompt)
    model = load_model(recipe.model, folder=folder)
    check_context(problems, prompts, options.max_tokens, context_tokens(model))
    by_id = {problem.id: prompt for problem, prompt in zip(problems, prompts, strict=True)}
    backend = make_backend(recipe, model, tokenizer, engine, _engine_stop(recipe, model, tokenizer))
    backend.sync_weights(0)
    with make_verifier(recipe.answer.verify, recipe.answer.timeout_seconds) as verifier:
        grader = Grader(tokenizer, verifier, end_think_id(tokenizer, recipe.model.end_think_token), recipe.answer.find)
        yield lambda some, on_progress: evaluate_model(
            backend, grader, some, [by_id[problem.id] for problem in some], options, on_progress
        )


def _engine_stop(recipe: Recipe, model: Any, tokenizer: Any) -> Any:
    """Return what requests ask of a vLLM engine's logits processor; None where the recipe evaluates without stopping."""
    if recipe.eval is None or recipe.eval.stop is None:
        return None
    from reason_rl.stopping.thinking import think_tokens
    from reason_rl.stopping.vllm_strength import named_stop

    return named_stop(recipe.eval.stop, think_tokens(model, tokenizer, recipe.model.end_think_token))


@contextmanager
def _stopping(recipe: Recipe, name: str, folder: Path | None, options: EvalOptions) -> Iterator[SampleSome]:
    from reason_rl.stopping.named import named_policy
    from reason_rl.stopping.setting import open_setting

    with open_setting(recipe, folder) as setting:
        backend = setting.backend.under(named_policy(name, setting))
        yield lambda some, on_progress: evaluate_model(
            backend, setting.grader, some, setting.prompts(some), options, on_progress
        )


def make_header(recipe: Recipe, model: str, problems: int, engine: str, **more: Any) -> dict[str, Any]:
    """Return the first line of an evaluation's file: everything that its rows depend on."""
    assert recipe.eval is not None
    return {
        "model": model,
        "problems": problems,
        "data": recipe.eval.data.model_dump(exclude_none=True),
        "prompt": recipe.prompt.model_dump(),
        "verify": recipe.answer.verify,
        "find": recipe.answer.find,
        "engine": engine,
        **recipe.eval.model_dump(exclude={"data", "label_errors"}),
        **more,
    }
