"""Suites of this project as an inspect-ai task: inspect eval eval/interop/inspect_task.py -T suite=gsm8k. Not run."""

from __future__ import annotations

from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import CORRECT, INCORRECT, Score, accuracy, scorer, stderr
from inspect_ai.solver import generate

from reason_rl.answer.response import find_answer
from reason_rl.answer.verify import make_verifier
from reason_rl.problem.prompt import messages
from reason_rl.problem.sources import load_problems
from reason_rl.recipe.suite import load_suite


@scorer(metrics=[accuracy(), stderr()])
def graded() -> Any:
    """Return a scorer with this project's extraction and verdict."""

    async def score(state: Any, target: Any) -> Score:
        found = find_answer(state.output.completion)
        text = None if found is None else found.text
        with make_verifier("math", 5.0) as verifier:
            verdict = verifier.verify([text], [target.text])[0]
        return Score(value=CORRECT if verdict else INCORRECT, answer=text)

    return score


@task
def reason_rl_suite(suite: str = "gsm8k") -> Task:
    """Return the task of a suite that is graded as mathematics."""
    loaded = load_suite(suite).suite
    if loaded.answer.verify != "math":
        raise ValueError(f"suite {suite}: is graded by {loaded.answer.verify}, not as mathematics")
    samples = [
        Sample(input=messages(problem, loaded.prompt)[-1]["content"], target=problem.answer, id=problem.id)
        for problem in load_problems(loaded.eval.data)
    ]
    config = GenerateConfig(
        temperature=loaded.eval.temperature, top_p=loaded.eval.top_p, max_tokens=loaded.eval.max_tokens
    )
    return Task(dataset=MemoryDataset(samples), solver=generate(), scorer=graded(), config=config)
