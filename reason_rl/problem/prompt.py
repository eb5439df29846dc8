"""How problems become prompts: chat messages, token ids, and the data set that the trainer reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from reason_rl.errors import RecipeError
from reason_rl.problem.record import Problem

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def messages(problem: Problem, spec: Any) -> list[dict[str, str]]:
    """Return the chat of a problem, from the recipe's ``prompt:`` section.

    Raises:
        RecipeError: when the template has no place for the problem.
    """
    if "{prompt}" not in spec.template:
        raise RecipeError("prompt.template: has no {prompt}, so the model would never see the problem")
    system = [{"role": "system", "content": spec.system}] if spec.system else []
    return [*system, {"role": "user", "content": spec.template.replace("{prompt}", problem.prompt)}]


def render_prompts(problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, spec: Any) -> list[tuple[int, ...]]:
    """Return the prompt token ids of each problem, by the tokenizer's chat template.

    Raises:
        RecipeError: when the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise RecipeError("model.path: the tokenizer has no chat template; use an instruction-tuned model")
    chats = [messages(problem, spec) for problem in problems]
    encoded = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=True, return_dict=True)
    return [tuple(ids) for ids in cast(Mapping[str, list[list[int]]], encoded)["input_ids"]]


def check_context(
    problems: Sequence[Problem], prompts: Sequence[Sequence[int]], budget_tokens: int, context_tokens: int
) -> None:
    """Raise RecipeError for the first problem whose prompt and budget do not fit into the model's context."""
    for problem, prompt in zip(problems, prompts, strict=True):
        if len(prompt) + budget_tokens > context_tokens:
            raise RecipeError(
                f"problem {problem.id}: a prompt of {len(prompt)} tokens and a budget of {budget_tokens} do not fit into "
                f"the model's context of {context_tokens}; lower the budget or filter the data"
            )


def to_dataset(problems: Sequence[Problem], spec: Any) -> Dataset:
    """Return the data set that the trainer reads: prompt (chat), problem_id, answer, level, family."""
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "prompt": [messages(problem, spec) for problem in problems],
            "problem_id": [problem.id for problem in problems],
            "answer": [problem.answer for problem in problems],
            "level": [problem.level for problem in problems],
            "family": [problem.meta.get("family") for problem in problems],
        }
    )
