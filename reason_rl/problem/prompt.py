"""How problems become prompts: chat messages, token ids, and the data set that the trainer reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from reason_rl.errors import RecipeError
from reason_rl.problem.record import PLAIN, Problem, variant_id

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def messages(problem: Problem, spec: Any, variant: str = PLAIN) -> list[dict[str, str]]:
    """Return the chat of a problem, from the recipe's ``prompt:`` section, in one of its variants."""
    system = [{"role": "system", "content": spec.system}] if spec.system else []
    asked = spec.template.replace("{tokens}", str(target_tokens(problem, spec)))
    words = "" if variant == PLAIN else spec.variants[variant]
    asked = asked.replace("{variant}", words) if "{variant}" in asked else asked + words
    return [*system, {"role": "user", "content": asked.replace("{prompt}", problem.prompt)}]


def variants_of(problem: Problem, spec: Any) -> list[str]:
    """Return the variants of the prompt that training asks a problem in; only the plain one when there are no others.

    Which problems are also asked plainly, at a rate of ``plain_share``, depends on their ids alone.
    """
    if not spec.variants:
        return [PLAIN]
    draw = int.from_bytes(hashlib.sha256(f"plain {problem.id}".encode()).digest()[:8]) / 2**64
    return [*spec.variants, *([PLAIN] if draw < spec.plain_share else [])]


def target_tokens(problem: Problem, spec: Any) -> int | None:
    """Return the completion tokens that the problem's prompt asks for: uniform in the recipe's range, fixed by the id.

    None when the recipe asks for none.

    >>> from types import SimpleNamespace
    >>> spec = SimpleNamespace(target_tokens=SimpleNamespace(low=100, high=4000))
    >>> target_tokens(Problem("p-58bf025caf", "What is 2 + 2?", "4"), spec)
    2710
    """
    asked = spec.target_tokens
    if asked is None:
        return None
    draw = int.from_bytes(hashlib.sha256(f"target tokens {problem.id}".encode()).digest()[:8])
    return int(asked.low + draw % (asked.high - asked.low + 1))


def longest_variant(spec: Any) -> Any:
    """Return the ``prompt:`` section asking for the variant with the longest text, to check that prompts fit."""
    names = sorted(spec.variants, key=lambda name: len(spec.variants[name]))
    return spec.model_copy(update={"ask": names[-1]}) if names else spec


def render_prompts(problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, spec: Any) -> list[tuple[int, ...]]:
    """Return the prompt token ids of each problem, in the variant that ``spec.ask`` names, by the tokenizer's chat template.

    Raises:
        RecipeError: when the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise RecipeError("model.path: the tokenizer has no chat template; use an instruction-tuned model")
    chats = [messages(problem, spec, spec.ask or PLAIN) for problem in problems]
    encoded = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=True, return_dict=True)
    return [tuple(ids) for ids in cast(Mapping[str, list[list[int]]], encoded)["input_ids"]]


def check_context(
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    budget_tokens: int,
    context_tokens: int,
    summary_tokens: int = 0,
) -> None:
    """Raise RecipeError for the first problem whose prompt and budget, and a summary, do not fit into the model's context."""
    summary = f" with a summary of {summary_tokens}" if summary_tokens else ""
    for problem, prompt in zip(problems, prompts, strict=True):
        if len(prompt) + budget_tokens + summary_tokens > context_tokens:
            raise RecipeError(
                f"problem {problem.id}: a prompt of {len(prompt)} tokens and a budget of {budget_tokens}{summary} do not fit "
                f"into the model's context of {context_tokens}; lower the budget or filter the data"
            )


def to_dataset(problems: Sequence[Problem], spec: Any) -> Dataset:
    """Return the data set that the trainer reads: prompt (chat), problem_id, answer, level, family.

    And target_tokens, where prompts ask for a length, and variant, where they have variants: a row for each of them.
    """
    from datasets import Dataset

    asked = [(problem, variant) for problem in problems for variant in variants_of(problem, spec)]
    columns: dict[str, list[Any]] = {
        "prompt": [messages(problem, spec, variant) for problem, variant in asked],
        "problem_id": [variant_id(problem.id, variant) for problem, variant in asked],
        "answer": [problem.answer for problem, _ in asked],
        "level": [problem.level for problem, _ in asked],
        "family": [problem.meta.get("family") for problem, _ in asked],
    }
    if spec.target_tokens is not None:
        columns["target_tokens"] = [target_tokens(problem, spec) for problem, _ in asked]
    if spec.variants:
        columns["variant"] = [variant for _, variant in asked]
    return Dataset.from_dict(columns)
