"""GSM8K with this project's prompt for lighteval: --custom-tasks eval/interop/lighteval_task.py, reason_rl_gsm8k. Not run."""

from __future__ import annotations

from typing import Any

from lighteval.metrics.metrics import Metrics
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc

PROMPT = "{question}\nPlease reason step by step, and put your final answer within \\boxed{{}}."


def gsm8k_prompt(line: dict[str, Any], task_name: str = "") -> Doc:
    """Return one problem; the name and arguments are lighteval's."""
    gold = line["answer"].split("####")[-1].strip().replace(",", "")
    return Doc(task_name=task_name, query=PROMPT.format(question=line["question"]), choices=[gold], gold_index=0)


TASKS_TABLE = [
    LightevalTaskConfig(
        name="reason_rl_gsm8k",
        prompt_function=gsm8k_prompt,
        hf_repo="openai/gsm8k",
        hf_subset="main",
        hf_avail_splits=["train", "test"],
        evaluation_splits=["test"],
        metrics=[Metrics.expr_gold_metric],
        generation_size=32768,
        stop_sequence=[],
    )
]
