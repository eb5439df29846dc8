"""Task files for other harnesses: the same prompt as our suite, and gradings that agree."""

import ast
import importlib.util
from pathlib import Path

import pytest
import yaml

from reason_rl.recipe.suite import load_suite

INTEROP = Path(__file__).parents[2] / "eval" / "interop"
QUESTION = "What is 2 + 3?"


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
