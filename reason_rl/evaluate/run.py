"""Evaluate a model: sample each problem several times with fixed seeds, grade, and write the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from reason_rl.answer.compare import Verdict
from reason_rl.answer.verify import make_verifier
from reason_rl.evaluate.records import EvalRow, append_rows, finish_rows, hash_prompt, part_of, start_rows
from reason_rl.models import (
    context_tokens,
    end_think_id,
    load_model,
    load_tokenizer,
    resolve_model,
    to_accelerator,
    weights_digest,
)
from reason_rl.problem.prompt import check_context, render_prompts
from reason_rl.problem.record import Problem
from reason_rl.problem.sources import digest, load_problems
from reason_rl.rollout.backend import Backend, OnProgress, Sample, SamplingOptions, SamplingRequest, sampling_seed
from reason_rl.rollout.engines import make_backend
from reason_rl.rollout.grading import Grader

if TYPE_CHECKING:
    from reason_rl.recipe.schema import Recipe

OnRows: TypeAlias = Callable[[Sequence[EvalRow]], None]
PIECE_BATCHES = 8  # of max_batch_rows: a backend holds the tokens of all rows it was asked for


CUT = "cut at the cap"


@dataclass(frozen=True)
class EvalOptions:
    """How an evaluation samples: completions a problem, token cap, distribution, seed."""

    samples: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


class Trial(NamedTuple):
    """One of the completions that an evaluation asks for."""

    problem: Problem
    sample: int

    @property
    def key(self) -> tuple[str, int]:
        """What tells its row from the others."""
        return self.problem.id, self.sample


SampleSome: TypeAlias = Callable[[Sequence[Trial], OnRows], None]


def all_trials(problems: Sequence[Problem], samples: int) -> list[Trial]:
    """Return what an evaluation asks for: ``samples`` completions of each problem."""
    return [Trial(problem, sample) for problem in problems for sample in range(samples)]


def evaluate_model(
    backend: Backend,
    grader: Grader,
    problems: Sequence[Problem],
    prompts: Sequence[tuple[int, ...]],
    options: EvalOptions,
    on_progress: OnProgress | None = None,
) -> list[EvalRow]:
    """Sample and grade ``options.samples`` completions a problem; a completion cut at the cap counts as wrong."""
    trials, rows = all_trials(problems, options.samples), list[EvalRow]()
    by_id = {problem.id: prompt for problem, prompt in zip(problems, prompts, strict=True)}
    sample_trials(
        backend, grader, trials, [by_id[trial.problem.id] for trial in trials], options, rows.extend, on_progress
    )
    done = {(row.problem_id, row.sample): row for row in rows}
    return [done[trial.key] for trial in trials]


def sample_trials(
    backend: Backend,
    grader: Grader,
    trials: Sequence[Trial],
    prompts: Sequence[tuple[int, ...]],
    options: EvalOptions,
    on_rows: OnRows,
    on_progress: OnProgress | None = None,
) -> None:
    """Sample one completion a trial, and hand over its graded row as soon as the engine tells of its end.

    Args:
        backend: samples.
        grader: extracts and verifies.
        trials: what is asked for.
        prompts: token ids of each trial's prompt.
        options: the seed of a trial depends on ``options.seed``, the problem's id and the sample's number alone.
        on_rows: gets every row once, in the order in which they end.
        on_progress: ``(rows done, rows)``.
    """
    requests = [
        SamplingRequest(tuple(prompt), options.max_tokens, sampling_seed(options.seed, trial.problem.id, trial.sample))
        for trial, prompt in zip(trials, prompts, strict=True)
    ]

    def grade(ended: Sequence[tuple[int, Sample]]) -> None:
        extracted = [grader.extracted(sample.token_ids) for _, sample in ended]
        verdicts = grader.verifier.judge(extracted, [trials[i].problem.answer for i, _ in ended])
        on_rows(
            [
                _row(grader, trials[i], requests[i], sample, answer, verdict)
                for (i, sample), answer, verdict in zip(ended, extracted, verdicts, strict=True)
            ]
        )

    backend.generate(requests, SamplingOptions(options.temperature, options.top_p, options.top_k), on_progress, grade)


def _row(
    grader: Grader, trial: Trial, request: SamplingRequest, sample: Sample, extracted: str | None, verdict: Verdict
) -> EvalRow:
    problem, think = trial.problem, grader.think_length(sample.token_ids)
    cut = sample.finish_reason == "length"
    return EvalRow(
        problem_id=problem.id,
        level=problem.level,
        family=problem.meta.get("family"),
        sample=trial.sample,
        seed=request.seed,
        prompt=problem.prompt,
        completion=grader.decode(sample.token_ids),
        answer=problem.answer,
        extracted=extracted,
        correct=verdict.correct is True and not cut,
        completion_tokens=len(sample.token_ids),
        think_tokens=think,
        answer_tokens=len(sample.token_ids) - think,
        finish_reason=sample.finish_reason,
        shortest_think_tokens=problem.meta.get("shortest_think_tokens"),
        prompt_hash=hash_prompt(request.prompt_ids),
        reason=CUT if cut else verdict.reason,
    )


def evaluate(
    recipe: Recipe,
    folder: Path | None,
    out: Path,
    on_progress: OnProgress | None = None,
    engine: Any = None,
    part: tuple[int, int] = (0, 1),
) -> list[EvalRow]:
    """Evaluate the recipe's model, or the trained one in ``folder``, on the recipe's ``eval`` problems.

    Rows go to ``out`` as they end: an interrupted evaluation goes on where it was, a finished one is not made again.
    ``engine`` comes from ``open_engine``, if already open. ``part``: (k, n) = the problems k, k + n, ... only, in
    process k of n that all take part.

    Raises:
        RecipeError: when data or model cannot be used.
        RunError: when ``out`` holds another evaluation.
    """
    section = recipe.eval
    assert section is not None
    options = EvalOptions(**section.model_dump(include=set(EvalOptions.__dataclass_fields__)))
    first, parts = part
    problems = load_problems(section.data)[: section.limit][first::parts]
    model, base = str(folder or recipe.model.path), recipe.model.path
    weights = [weights_digest(str(folder or resolve_model(base))), weights_digest(resolve_model(base))]
    more = {"part": f"{first + 1} of {parts}"} if parts > 1 else {}
    header = make_header(recipe, model, problems, recipe.rollout.engine, base=base, weights=weights, **more)
    opened = _sampler(recipe, folder, problems, options, engine)
    if parts == 1:
        return complete_rows(out, header, problems, opened, on_progress)
    with opened as sample:  # by all of them, for some engines are given their weights by all processes together
        return complete_rows(out, header, problems, nullcontext(sample), on_progress)


def complete_rows(
    out: Path,
    header: dict[str, Any],
    problems: Sequence[Problem],
    opened: AbstractContextManager[SampleSome],
    on_progress: OnProgress | None = None,
) -> list[EvalRow]:
    """Return all rows of an evaluation: those in ``out`` as they are, the missing ones sampled and written.

    Args:
        out: the rows' file.
        header: what makes the evaluation; rows under another header are refused.
        problems: all of them.
        opened: loads what sampling needs, entered only when something is missing.
        on_progress: ``(rows done, rows)``, those found in ``out`` included.
    """
    rows = {(row.problem_id, row.sample): row for row in start_rows(out, header)}
    trials = all_trials(problems, header["samples"])
    missing = [trial for trial in trials if trial.key not in rows]

    def keep(new: Sequence[EvalRow]) -> None:
        append_rows(out, new)
        rows.update({(row.problem_id, row.sample): row for row in new})
        if on_progress:
            on_progress(len(rows), len(trials))

    if missing:
        with opened as sample:
            sample(missing, keep)
    whole = [rows[trial.key] for trial in trials]
    if part_of(out).exists():
        finish_rows(out, header, whole)
    return whole


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
    if recipe.rollout.engine == "hf":
        model = to_accelerator(model)
    check_context(problems, prompts, options.max_tokens, context_tokens(model))
    by_id = {problem.id: prompt for problem, prompt in zip(problems, prompts, strict=True)}
    needed = max(map(len, prompts), default=0) + options.max_tokens
    backend = make_backend(recipe, model, tokenizer, engine, _engine_stop(recipe, model, tokenizer), needed)
    backend.sync_weights(0)
    with make_verifier(recipe.answer.verify, recipe.answer.timeout_seconds) as verifier:
        grader = Grader(tokenizer, verifier, end_think_id(tokenizer, recipe.model.end_think_token), recipe.answer.find)
        yield _in_pieces(
            backend, grader, lambda some: [by_id[p.id] for p in some], options, recipe.rollout.max_batch_rows
        )


def _in_pieces(
    backend: Backend,
    grader: Grader,
    prompts_of: Callable[[Sequence[Problem]], Sequence[tuple[int, ...]]],
    options: EvalOptions,
    batch_rows: int,
) -> SampleSome:
    """Return what samples trials a few batches at a time."""

    def sample(trials: Sequence[Trial], on_rows: OnRows) -> None:
        size = PIECE_BATCHES * batch_rows
        for first in range(0, len(trials), size):
            some = trials[first : first + size]
            sample_trials(backend, grader, some, prompts_of([trial.problem for trial in some]), options, on_rows)

    return sample


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
        yield _in_pieces(backend, setting.grader, setting.prompts, options, recipe.rollout.max_batch_rows)


def make_header(recipe: Recipe, model: str, problems: Sequence[Problem], engine: str, **more: Any) -> dict[str, Any]:
    """Return the first line of an evaluation's file: everything that its rows depend on.

    Problems may change under the same name, so that their digest is in it; ``more`` has that of the weights.
    """
    assert recipe.eval is not None
    return {
        "model": model,
        "revision": recipe.model.revision,
        "end_think_token": recipe.model.end_think_token,
        "problems": len(problems),
        "problems_sha256": digest(problems),
        "data": recipe.eval.data.model_dump(exclude_none=True),
        "prompt": recipe.prompt.model_dump(),
        "verify": recipe.answer.verify,
        "find": recipe.answer.find,
        "engine": engine,
        "dtype": recipe.model.dtype,
        **recipe.eval.model_dump(exclude={"data", "label_errors"}),
        **more,
    }
