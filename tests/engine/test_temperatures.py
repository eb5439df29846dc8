"""Selective temperatures in whole runs: trained, saved, resumed, loaded by all that loads models, refused elsewhere."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from reason_rl.attention.prior_files import CARD_FILE as PRIOR_CARD
from reason_rl.attention.ssa import SSAOptions, add_ssa, ssa_parameters
from reason_rl.attention.ssa_files import has_ssa, save_ssa
from reason_rl.cli import app
from reason_rl.errors import RecipeError, RunError
from reason_rl.evaluate.run import evaluate
from reason_rl.export import export
from reason_rl.merge.source import _folder as merged_from
from reason_rl.models import kept_by, load_model
from reason_rl.pipeline import run as run_recipe
from reason_rl.recipe.load import load_recipe
from reason_rl.recipe.schema import ModelSection
from reason_rl.report.card import publish
from reason_rl.rollout.engines import make_backend, open_engine
from reason_rl.run_folder import RunFolder
from reason_rl.trainer.temperatures import starting_model
from reason_rl.trainer.train import train
from reason_rl.world.pretrain import PretrainConfig, build_model

IDS = torch.arange(5, 29).view(2, 12)
SMALL = (
    "trainer.per_device_train_batch_size=8",
    "trainer.steps_per_generation=2",
    "trainer.num_generations=4",
    "trainer.max_steps=4",
    "trainer.save_steps=2",
    "trainer.logging_steps=1",
    "trainer.warmup_steps=0",
    "algorithm.reward={file: rewards/l1_exact.py, token_penalty: 0.01}",
    "algorithm.overlong=penalise",
    "prompt={template: '{prompt} {tokens}', target_tokens: {low: 8, high: 8}}",
    "algorithm.budget.tokens=32",
    "data.count=48",
    "eval.data.count=4",
    "eval.samples=1",
    "eval.max_tokens=16",
)
LORA = "lora={r: 4, target_modules: all-linear}"


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.fixture
def start(make_llama, tiny_tokenizer, tmp_path):
    """Return a folder with a model and its tokenizer."""
    make_llama().save_pretrained(tmp_path / "start")
    tiny_tokenizer.save_pretrained(tmp_path / "start")
    return tmp_path / "start"


@pytest.fixture
def warm(make_llama, tiny_tokenizer, tmp_path):
    """Return a folder with a model that has temperatures away from the identity, and the model."""
    model = make_llama()
    add_ssa(model, SSAOptions())
    with torch.no_grad():
        for _, parameter in ssa_parameters(model):
            parameter += 0.05
    model.save_pretrained(tmp_path / "warm")
    tiny_tokenizer.save_pretrained(tmp_path / "warm")
    save_ssa(model, SSAOptions(), tmp_path / "warm")
    return tmp_path / "warm", model


def section(folder):
    return ModelSection(path=str(folder))


def test_a_saved_model_is_loaded_with_its_temperatures(warm, make_llama, caplog):
    folder, model = warm
    logging.getLogger("transformers").propagate = True
    loaded = load_model(section(folder))
    logging.getLogger("transformers").propagate = False
    assert not any("UNEXPECTED" in record.getMessage() for record in caplog.records)
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.equal(logits(loaded), logits(make_llama()))
    assert torch.equal(logits(load_model(section(folder), temperatures=False)), logits(make_llama()))
    (folder / "ssa.json").unlink()
    with pytest.raises(RecipeError, match=r"selective temperatures among its weights, but no ssa\.json"):
        load_model(section(folder))


def small(name, start, folder, *more):
    return load_recipe(name, [*SMALL, f"model.path={start}", f"output={folder}", *more])


def trained(loaded, folder, resume=False):
    run = RunFolder(folder)
    run.prepare(loaded.resolved(), resume=resume)
    train(loaded.recipe, run, resume=resume)
    return run


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize(
    "more",
    [("attention={ssa: {}}",), ("attention={ssa: {features: mlp}}", LORA), ("attention={ssa: {alone: true}}",)],
    ids=["everything", "with an adapter", "alone"],
)
def test_rl_trains_them_and_resumes_exactly(start, make_llama, tmp_path, more):
    loaded = small("tiny/grpo", start, tmp_path / "run", *more)
    run = trained(loaded, tmp_path / "run")
    assert load_recipe("tiny/grpo").recipe.trainer["weight_decay"] > 0
    moved = load_file(run.model / "ssa.safetensors")
    assert all(value.abs().max() > 0 for name, value in moved.items() if name != "shared.weight"), moved.keys()
    assert has_ssa(run.checkpoints / "checkpoint-2")
    whole = files(run.model)
    shutil.rmtree(run.checkpoints / "checkpoint-4")
    shutil.rmtree(run.model)
    again = trained(loaded, tmp_path / "run", resume=True)
    assert files(again.model) == whole
    model = load_model(loaded.recipe.model, folder=run.model)
    assert kept_by(model) == "selective temperatures (ssa.json)"
    assert not torch.equal(logits(model), logits(load_model(loaded.recipe.model)))
    stock = {k: v for k, v in load_model(loaded.recipe.model, folder=run.model).state_dict().items() if "ssa" not in k}
    same = (
        [torch.equal(value, make_llama().state_dict()[k]) for k, value in stock.items() if "lora" not in k]
        if ("alone" in more[0])
        else [True]
    )
    assert all(same)
    if LORA in more:
        assert not any("ssa" in name and "lora" in name for name, _ in model.named_parameters())
        with pytest.raises(RecipeError, match=r"keeps selective temperatures \(ssa\.json\), which plain weights"):
            export(run.model, tmp_path / "out")


def test_a_run_goes_on_with_the_temperatures_of_its_start(warm, tmp_path):
    folder, model = warm
    loaded = small("tiny/grpo", folder, tmp_path / "run", "attention={ssa: {}}", "trainer.learning_rate=0", LORA)
    run = trained(loaded, tmp_path / "run")
    assert files(run.model)["ssa.safetensors"] == files(folder)["ssa.safetensors"]
    assert torch.equal(logits(load_model(loaded.recipe.model, folder=run.model)), logits(model))
    for more, message in (
        ((), r"keeps selective temperatures \(ssa\.json\), which this training would not save"),
        (("attention={ssa: {rate: 5}}",), "has other temperatures"),
        (
            ("attention={ssa: {}}", "algorithm.kl.coefficient=0.1"),
            "reference would be without the start's temperatures",
        ),
    ):
        with pytest.raises(RecipeError, match=message):
            trained(small("tiny/grpo", folder, tmp_path / message[:8], *more), tmp_path / message[:8])


def test_evaluation_applies_them(warm, tmp_path):
    folder, _ = warm
    recipe = small("tiny/grpo", folder, tmp_path / "run", "eval.temperature=0", "eval.max_tokens=32").recipe
    texts = []
    for name in ("with", "without"):
        texts.append([row.completion for row in evaluate(recipe, None, tmp_path / f"{name}.jsonl")])
        if name == "with":
            stock = load_model(recipe.model, temperatures=False)
            (folder / "ssa.json").unlink()
            stock.save_pretrained(folder)
    assert texts[0] != texts[1]


def test_engines_and_commands_that_do_not_know_them_refuse(warm, tiny_tokenizer, tmp_path):
    folder, model = warm
    recipe = load_recipe("tiny/dler_vllm", [f"model.path={folder}"]).recipe
    refusal = r"rollout\.engine: vllm cannot follow what the model's attention keeps, selective temperatures"
    with pytest.raises(RecipeError, match=refusal):
        open_engine(recipe)
    with pytest.raises(RecipeError, match=refusal):
        make_backend(recipe, model, tiny_tokenizer, engine=object())
    with pytest.raises(RecipeError, match=r"merge: .* which merged weights cannot hold"):
        merged_from(str(folder), tmp_path)
    with pytest.raises(RecipeError, match=r"pretrain\.start: .* which it would go on without"):
        build_model(PretrainConfig(start=str(folder)), tiny_tokenizer)
    heads = ["heads", "tiny/grpo", "--out", str(tmp_path / "heads"), f"model.path={folder}", "attention.heads={}"]
    assert "which reason-rl heads would not save" in str(CliRunner().invoke(app, heads).exception)
    prune = ["prune", str(folder), "--rank", "norm", "--budget", "0.5", "--out", str(tmp_path / "pruned")]
    assert "keeps selective temperatures" in str(CliRunner().invoke(app, prune).exception)
    (folder / PRIOR_CARD).write_text("{}")
    shutil.copytree(folder, tmp_path / "pushed" / "model")
    (tmp_path / "pushed" / "summary.json").write_text("{}")
    with pytest.raises(RunError, match="keeps an attention prior"):
        publish(RunFolder(tmp_path / "pushed"), "user/model", dry_run=False)


def test_pairs_start_from_plain_attention(warm):
    folder, _ = warm
    recipe = load_recipe("tiny/adar1").recipe
    with pytest.raises(RecipeError, match="which this training would not save"):
        starting_model(recipe, section(folder))


def test_a_recipe_pretrains_with_them(tmp_path):
    overrides = [
        "pretrain={hidden_size: 32, layers: 2, heads: 2, intermediate_size: 48, traces: 60, tokens_per_batch: 2048, "
        "compile: false, curriculum_share: 0.0, max_completion_tokens: 96}",
        "attention={ssa: {gate: double_exponential}}",
        f"output={tmp_path}",
    ]
    run_recipe(load_recipe("tiny/pretrain", overrides).recipe, RunFolder(tmp_path), resume=False, say=lambda text: None)
    assert json.loads((tmp_path / "model" / "ssa.json").read_text())["gate"] == "double_exponential"
    assert all(value.abs().max() > 0 for value in load_file(tmp_path / "model" / "ssa.safetensors").values())
    assert kept_by(load_model(section(tmp_path / "model")))


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("tiny/dler_vllm", ["attention={ssa: {}}"], r"yaml:\d+: rollout\.engine: vllm cannot follow selective"),
        ("tiny/mind_sft", ["attention={ssa: {}}", "rollout.engine=vllm"], "vllm cannot follow selective temperatures"),
        ("tiny/grpo", ["attention={ssa: {}}", "rollout.engine=vllm_server"], "vllm_server cannot follow selective"),
        ("tiny/dler_rpa", ["attention.ssa={}"], r"attention\.ssa: does not go with attention\.prior"),
        ("tiny/grpo", ["attention={ssa: {gate: none, features: none}}"], "scale nothing"),
        ("tiny/grpo", ["attention={ssa: {alone: true}}", LORA], r"attention\.ssa\.alone: true trains nothing"),
        ("tiny/grpo", ["attention={ssa: {}}", LORA, "algorithm.kl.coefficient=0.1"], "set 0, or leave out lora"),
        (
            "tiny/grpo",
            ["attention={ssa: {}}", "trainer.sync_ref_model=true", "algorithm.kl.coefficient=0.1"],
            r"trainer\.sync_ref_model: the reference model has no temperatures",
        ),
        (
            "tiny/grpo",
            [
                "attention={ssa: {}}",
                "trainer.gradient_checkpointing=true",
                "trainer.gradient_checkpointing_kwargs={use_reentrant: true}",
            ],
            "selective temperatures need use_reentrant: false",
        ),
        ("tiny/pretrain", ["attention={ssa: {}}"], r"pretrain\.compile: selective temperatures hook"),
        ("tiny/pretrain", ["attention={ssa: {alone: true}}", "pretrain.compile=false"], "trains everything"),
        ("tiny/adar1", ["attention={ssa: {}}"], "attention: is for task train or pretrain or sft"),
        ("tiny/grpo", ["attention={ssa: {gates: linear}}"], r"unknown key; did you mean gate\?"),
    ],
)
def test_what_a_recipe_with_them_may_not_say(name, overrides, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(name, overrides)
