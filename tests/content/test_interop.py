"""Task files for other harnesses: the same prompt as our suite, and gradings that agree."""

import ast
import importlib.util
import json
import os
import re
from pathlib import Path

import pytest
import yaml

from reason_rl.answer.grade import grade_rows
from reason_rl.recipe.suite import load_suite

INTEROP = Path(__file__).parents[2] / "eval" / "interop"
QUESTION = "What is 2 + 3?"
GSM8K = Path(os.environ.get("REASON_RL_DATA") or "nowhere") / "gsm8k_test.jsonl"


class TaskLoader(yaml.SafeLoader):
    """Reads lm-eval's reference to a function as its name."""


TaskLoader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


@pytest.fixture
def task():
    return yaml.load((INTEROP / "lm_eval" / "reason_rl_gsm8k.yaml").read_text(), TaskLoader)


def test_all_ask_as_the_suite_does(task):
    suite = load_suite("gsm8k").suite
    asked = suite.prompt.template.replace("{prompt}", QUESTION)
    assert task["doc_to_text"].replace("{{question}}", QUESTION) == asked
    lighteval = ast.parse((INTEROP / "lighteval_task.py").read_text())
    prompt = next(
        node.value.value for node in lighteval.body if isinstance(node, ast.Assign) and node.targets[0].id == "PROMPT"
    )
    assert prompt.format(question=QUESTION) == asked
    sampling = task["generation_kwargs"]
    assert (sampling["max_gen_toks"], sampling["temperature"], sampling["top_p"]) == (
        suite.eval.max_tokens,
        suite.eval.temperature,
        suite.eval.top_p,
    )


@pytest.mark.parametrize(
    ("generation", "accuracy"),
    [(r"So \boxed{1,000}.", 1.0), ("#### 1000", 1.0), (r"<think>\boxed{1000}", 0.0), (r"\boxed{999}", 0.0), ("", 0.0)],
)
def test_lm_evals_generations_are_graded_as_ours(task, generation, accuracy):
    module, function = task["process_results"].split(".")
    spec = importlib.util.spec_from_file_location(module, INTEROP / "lm_eval" / f"{module}.py")
    grading = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(grading)
    assert getattr(grading, function)({"answer": "It is 1000. #### 1,000"}, [generation]) == {"accuracy": accuracy}


@pytest.mark.parametrize("name", ["inspect_task.py", "lighteval_task.py"])
def test_python_tasks_compile(name):
    compile((INTEROP / name).read_text(), name, "exec")


# Generations as models write them, with the gold answer; the last ones are read differently.
GENERATIONS = [
    ("16 - 3 - 4 = 9 eggs are left, 9 * 2 = <<9*2=18>>18 dollars.\n#### 18", "18", True),
    ("It takes 2/2 = 1 bolt of white, so 2 + 1 = 3 bolts.\n#### 3", "3", True),
    ("The house gained 120,000, so the profit is $70,000.\n#### 70,000", "70000", True),
    ("Each run is 60 meters, 3 * 3 * 60.\n\n#### 540", "540", True),
    ("She needs 20 cups.\n#### 15", "20", False),
    ("Kylar pays 8 * 5 + 8 * 3 = 64.\n#### $64", "64", True),
    ("In total there are 4 * 65 = 260 sheep.", "260", True),
    ("The answer is 160.", "160", True),
    ("The answer is 45.", "460", False),
    ("Eliza earns $10 * 40 + $60 = $460.", "460", True),
    ("#### -5", "-5", True),
    ("He lost 5.\n#### 5", "-5", False),
    ("I cannot say.", "366", False),
    ("", "694", False),
]
LM_EVAL_IGNORES = [",", r"\$", r"(?s).*#### ", r"\.$"]


def lm_eval_flexible(generation, gold):
    """Grade as lm-eval 0.4.13 does in gsm8k.yaml: the last match of flexible-extract, then exact_match."""
    matches = [a or b for a, b in re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", generation)]
    sides = [matches[-1] if matches else "[invalid]", gold]
    for pattern in LM_EVAL_IGNORES:
        sides = [re.sub(pattern, "", side) for side in sides]
    return sides[0].lower() == sides[1].lower()


def test_our_verdicts_on_saved_generations_are_those_of_lm_evals_gsm8k():
    graded = grade_rows([{"gold": gold, "prediction": text} for text, gold, _ in GENERATIONS], workers=1)
    assert [row["correct"] for row in graded] == [right for *_, right in GENERATIONS]
    assert [lm_eval_flexible(text, gold) for text, gold, _ in GENERATIONS] == [right for *_, right in GENERATIONS]


@pytest.mark.parametrize(
    ("generation", "gold"),
    [("The answer is 18 dollars, 9 for each of 2.", "18"), (r"So \boxed{1000.0} grams", "1000")],
)
def test_where_lm_eval_takes_the_last_number_and_we_the_answer(generation, gold):
    assert grade_rows([{"gold": gold, "prediction": generation}], workers=1)[0]["correct"] is True
    assert not lm_eval_flexible(generation, gold)


@pytest.mark.skipif(not GSM8K.is_file(), reason="needs gsm8k_test.jsonl (REASON_RL_DATA)")
@pytest.mark.parametrize(("kind", "differ"), [("its answer", 0), ("another's answer", 0), ("no mark", 40)])
def test_verdicts_on_gsm8ks_own_solutions_are_those_of_lm_evals_gsm8k(kind, differ):
    """1,319 texts a kind. Where no mark is, lm-eval takes 16.00 for another number than 16."""
    rows = [json.loads(line) for line in GSM8K.read_text(encoding="utf-8").splitlines()]
    answers = [row["answer"] for row in rows]
    ends = {"its answer": answers, "another's answer": [*answers[1:], answers[0]]}.get(kind)
    steps = [row["solution"].rsplit("####", 1)[0].rstrip() for row in rows]
    texts = [f"{text}\n#### {end}" for text, end in zip(steps, ends, strict=True)] if ends else steps
    graded = grade_rows([{"gold": g, "prediction": t} for g, t in zip(answers, texts, strict=True)], workers=1)
    ours = [row["correct"] is True for row in graded]
    theirs = [lm_eval_flexible(text, gold) for text, gold in zip(texts, answers, strict=True)]
    assert len(rows) == 1319
    assert sum(a != b for a, b in zip(ours, theirs, strict=True)) == differ
