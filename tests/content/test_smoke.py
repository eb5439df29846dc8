"""Smoke runs: every shipped recipe has one; test_smoke_full.py, _lora.py and _others.py make them, here the command does."""

import json
import subprocess
import sys

import pytest
from transformers import AutoConfig
from typer.testing import CliRunner

from reason_rl.cli import app
from reason_rl.content import shipped_recipes
from reason_rl.errors import RecipeError
from reason_rl.models import end_think_id, load_model, load_tokenizer, resolve_model
from reason_rl.recipe.checks import check
from reason_rl.recipe.load import load_recipe
from reason_rl.recipe.smoke import drop_last_smoke, smoke
from reason_rl.tiny_random import architecture
from reason_rl.trainer.train import TrainResult
from reason_rl.world.tokenizer import build_tokenizer

RECIPES = {name: path for name, path in shipped_recipes().items() if not name.endswith("base")}
TASKS = {name: load_recipe(path).recipe.task for name, path in RECIPES.items()}
RL = sorted(name for name, task in TASKS.items() if task == "train")
OFFLINE = sorted(name for name, task in TASKS.items() if task in ("dpo", "sft"))

# How much is sampled for a method's own figures; none of it defines the method.
FEWER = {
    "filter": {"max_rounds"},
    "reference": {"samples", "max_tokens"},
    "targets": {"problems", "rollouts"},
    "curriculum": {"probe_rollouts", "problems"},
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REASON_RL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", RL)
def test_every_recipe_has_a_smoke_run_of_the_same_method(name):
    recipe = load_recipe(RECIPES[name]).recipe
    small = smoke(recipe)
    assert list(check(small, RECIPES[name].parent)) == []
    assert small.model.path == f"tiny-random-{architecture(recipe.model.path)}"
    assert (small.trainer["max_steps"], small.rollout.engine, small.data.use) == (2, "hf", "world")
    assert small.output == f"{recipe.output}-smoke"
    assert small.algorithm.model_dump(exclude=FEWER) == recipe.algorithm.model_dump(exclude=FEWER)
    assert small.lora == recipe.lora
    assert small.reward_file() == recipe.reward_file()
    kept = ("loss_type", "epsilon", "epsilon_high", "delta", "num_generations", "learning_rate")
    assert {key: small.trainer.get(key) for key in kept} == {key: recipe.trainer.get(key) for key in kept}


def test_a_recipe_of_puzzles_has_its_smoke_run_graded_by_equality(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: recipes/tiny/dler.yaml\noutput: out\ndata: {use: puzzle, name: hanoi, sizes: [3]}\n"
        "answer: {verify: puzzle}\neval: {data: {use: puzzle, name: hanoi, sizes: [4]}}\n"
    )
    small = smoke(load_recipe(path).recipe)
    assert small.answer.verify == "exact"
    assert list(check(small, tmp_path)) == []


@pytest.mark.parametrize("name", OFFLINE)
def test_every_recipe_of_solutions_has_a_smoke_run_of_the_same_method(name):
    recipe = load_recipe(RECIPES[name]).recipe
    small = smoke(recipe)
    assert list(check(small, RECIPES[name].parent)) == []
    assert small.model.path == f"tiny-random-{architecture(recipe.model.path)}"
    assert (small.trainer["max_steps"], small.rollout.engine, small.data.use) == (2, "hf", "world")
    assert (small.merge is None) == (recipe.merge is None)
    for section, kept in (
        ("pairs", ("group_pairs", "instance_pairs")),
        ("turns", ("answer_tokens", "cut", "candidate")),
    ):
        ours, theirs = getattr(small, section), getattr(recipe, section)
        assert [getattr(ours, key, None) for key in kept] == [getattr(theirs, key, None) for key in kept]
    kept = ("beta", "learning_rate", "loss_type", "max_length")
    assert [small.trainer.get(key) for key in kept] == [recipe.trainer.get(key) for key in kept]
    assert small.lora == recipe.lora


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {*RL, *OFFLINE}))
def test_what_trains_on_nothing_sampled_has_none(name):
    with pytest.raises(RecipeError, match="have a smoke run"):
        smoke(load_recipe(RECIPES[name]).recipe)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "qwen2"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "llama"),
        ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", "qwen3"),
        ("agentica-org/DeepScaleR-1.5B-Preview", "qwen2"),
        ("nvidia/Llama-3.1-Nemotron-Nano-8B-v1", "llama"),
        ("smollm2-135m", "llama"),
        ("tiny-reasoner", "llama"),
    ],
)
def test_the_architecture_behind_a_name(path, kind):
    assert architecture(path) == kind


def test_a_folder_is_asked_for_its_architecture(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    assert architecture(str(tmp_path)) == "qwen3"
    with pytest.raises(RecipeError, match="no tiny model stands for org/gpt; known families: llama, qwen2, qwen3"):
        architecture("org/gpt")


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_tiny_models_are_small_think_and_are_the_same_everywhere(kind, cache, tmp_path, monkeypatch):
    section = load_recipe("tiny/grpo", [f"model.path=tiny-random-{kind}"]).recipe.model
    model, tokenizer = load_model(section), load_tokenizer(section)
    assert model.config.model_type == kind
    assert model.num_parameters() < 50_000
    assert end_think_id(tokenizer, "</think>") is not None
    assert (
        tokenizer("yes </think> 12", add_special_tokens=False)["input_ids"]
        == build_tokenizer()("yes </think> 12")["input_ids"]
    )
    assert AutoConfig.from_pretrained(resolve_model(section.path)).max_position_embeddings > 32_000
    monkeypatch.setenv("REASON_RL_CACHE", str(tmp_path / "elsewhere"))
    again = load_model(section).state_dict()
    assert all((again[name] == value).all() for name, value in model.state_dict().items())
    assert len(list(cache.iterdir())) == 1


def test_an_unknown_tiny_model(cache):
    with pytest.raises(RecipeError, match="no model tiny-random-gpt2; there are tiny-random-llama"):
        resolve_model("tiny-random-gpt2")


def test_only_an_earlier_smoke_run_is_deleted(tmp_path):
    for name in ("mine", "run-smoke", "data-smoke"):
        (tmp_path / name).mkdir()
    for name in ("mine", "run-smoke"):
        (tmp_path / name / "resolved.yaml").write_text("")
    for name in ("mine", "run-smoke", "data-smoke", "none-smoke"):
        drop_last_smoke(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data-smoke", "mine"]


def test_every_process_of_a_smoke_run_trains_whatever_the_last_one_left(tmp_path, monkeypatch):
    """As a second process that is faster than the first, which deletes the folder."""
    folder = tmp_path / "run-smoke"
    folder.mkdir()
    (folder / "resolved.yaml").write_text("")
    (folder / "trained.json").write_text(json.dumps({"steps": 2, "seconds": 1.0}))
    monkeypatch.setenv("RANK", "1")
    trained = []

    def note(recipe, run, **_):
        trained.append(run.path)
        return TrainResult(run.model, 2, 1.0)

    monkeypatch.setattr("reason_rl.trainer.train.train", note)
    command = ["train", "tiny/grpo", "--smoke", f"output={tmp_path / 'run'}"]
    CliRunner().invoke(app, command, catch_exceptions=False, standalone_mode=False)
    assert trained == [folder]


@pytest.mark.slow
def test_a_smoke_run_from_the_command_line(cache, tmp_path):
    command = [
        sys.executable,
        "-m",
        "reason_rl.cli",
        "train",
        "qwen3_1.7b/l1_max",
        "--smoke",
        f"output={tmp_path / 'run'}",
    ]
    for _ in range(2):  # the second deletes the first
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=800)
        assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "run-smoke"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["completion_tokens"] > 10
    assert AutoConfig.from_pretrained(folder / "model").model_type == "qwen3"
