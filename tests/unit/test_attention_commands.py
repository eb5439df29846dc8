"""Head budgets from the command line: teach, prune by gates or norms, load as a standard model; errors in one line."""

import json
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from reason_rl.attention import heads_run
from reason_rl.attention.heads_files import has_heads, load_heads, save_heads
from reason_rl.attention.heads_module import HeadOptions, add_heads, at_mask
from reason_rl.attention.prune import fold
from reason_rl.attention.ssa import SSAOptions, add_ssa
from reason_rl.attention.ssa_files import save_ssa
from reason_rl.cli import app
from reason_rl.errors import RecipeError
from reason_rl.models import load_model, load_tokenizer, refuse_kept
from reason_rl.recipe.schema import ModelSection

ROOT = Path(__file__).parents[2]
QWEN = "tiny-random-qwen2"
SHORT = ["data.count=12", "model.path=tiny-random-llama", "trainer.max_steps=2"]
HEADS = ["attention.heads.soft_steps=2", "attention.heads.hard_steps=2", "attention.heads.batch_rows=4"]
SMALL = ["attention.heads.max_tokens=12", "attention.heads.budgets=[0.5,1.0]"]


def run(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(result.stdout)


@pytest.fixture
def gated_folder(tmp_path):
    """Return a folder with a random Qwen2 and gates that are not all alike."""
    folder, section = tmp_path / "gated", ModelSection(path=QWEN)
    model = load_model(section)
    model.save_pretrained(folder)
    load_tokenizer(section).save_pretrained(folder)
    held = add_heads(model, HeadOptions())
    with torch.no_grad():
        held.offset += torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    save_heads(held, folder)
    return folder


def test_prune_by_gates_keeps_the_most_open_ones(gated_folder, tmp_path):
    result = run(
        "prune", gated_folder, "--budget", 0.5, "--out", tmp_path / "out", "--tokens", 16, "--repeats", 1, "--json"
    )
    assert result["heads"] == [[2, 3], [0, 1]]
    assert result["kept"] == 0.5
    assert result["largest_logit_difference"] < 1e-5
    assert result["parameters"]["after"] < result["parameters"]["before"]
    assert result["speed_up"] == pytest.approx(result["dense_seconds"] / result["pruned_seconds"])
    smaller = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    model, ids = AutoModelForCausalLM.from_pretrained(gated_folder), torch.arange(5, 15)[None]
    load_heads(model, gated_folder)
    with at_mask(model, torch.tensor([[False, True], [True, False]])), torch.no_grad():
        assert torch.allclose(smaller(ids).logits, model(ids).logits, atol=1e-5)
    assert json.loads((tmp_path / "out" / "pruned.json").read_text())["heads"] == result["heads"]


def test_prune_by_norms_evaluates_on_a_recipe(tmp_path):
    recipe = tmp_path / "short.yaml"
    recipe.write_text(f"extends: {ROOT / 'recipes/tiny/dler.yaml'}\neval: {{max_tokens: 8, samples: 1}}\n")
    result = run(
        *("prune", "tiny-random-llama", "--budget", 0.5, "--out", tmp_path / "out", "--rank", "norm", "--tokens", 16),
        *("--repeats", 1, "--recipe", recipe, "--limit", 2, "--json"),
    )
    assert result["accuracy"].keys() == {"before", "after"}
    assert (tmp_path / "out" / "eval" / "after.jsonl").is_file()


def test_prune_names_its_folder_after_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("prune", "tiny-random-llama", "--budget", 0.5, "--rank", "norm", "--tokens", 8, "--repeats", 1, "--json")
    assert (tmp_path / "outputs" / "tiny-random-llama-heads-0.5" / "pruned.json").exists()


def test_heads_teaches_and_prune_reads_it(tmp_path, monkeypatch):
    moved = []
    monkeypatch.setattr(heads_run, "to_accelerator", lambda model: moved.append(model) or model)
    taught = run("heads", "tiny/dler", "--out", tmp_path / "taught", *SHORT, *HEADS, *SMALL, "--json")
    assert taught["traces"] == 12
    assert 0 < taught["gates"]["0.5"] < taught["gates"]["1"] == 1.0
    assert len(moved) == 1
    assert has_heads(tmp_path / "taught")
    start = load_model(ModelSection(path="tiny-random-llama"))
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "taught")
    assert not torch.equal(trained.model.layers[0].mlp.up_proj.weight, start.model.layers[0].mlp.up_proj.weight)
    pruned = run("prune", tmp_path / "taught", "--budget", 0.5, "--out", tmp_path / "p", "--tokens", 8, "--json")
    assert pruned["largest_logit_difference"] < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune", QWEN, "--budget", "1.5", "--out", "OUT"], "--budget 1.5: must be above 0"),
        (["prune", QWEN, "--budget", "0.5", "--out", "OUT"], "make them with reason-rl heads, or .* --rank norm"),
        (["prune", "tiny-reasonr", "--budget", "0.5", "--out", "OUT"], "did you mean tiny-reasoner"),
        (["prune", QWEN, "--budget", "0.5", "--out", "."], "exists and is not empty"),
        (["prune", QWEN, "--budget", "0.5", "--out", __file__], "is a file; name a folder"),
        (["heads", "tiny/dler", "--out", __file__, "attention.heads.unit=head"], "is a file; name a folder"),
        (["heads", "tiny/dler", "--out", "OUT"], "attention.heads: is missing"),
        (["heads", "tiny/dler", "--out", "OUT", "attention.heads.unit=head", "lora.r=4"], "trains all weights"),
        (["heads", "tiny/dler", "--out", "OUT", "attention.heads.budgets=[2]"], "attention.heads.budgets"),
    ],
)
def test_errors_are_one_clear_line(arguments, message, tmp_path):
    with pytest.raises(RecipeError, match=message):
        run(*(str(tmp_path / "out") if word == "OUT" else word for word in arguments))


def test_one_key_value_head_leaves_nothing_to_choose(tmp_path, make_llama, tiny_tokenizer):
    make_llama(num_key_value_heads=1).save_pretrained(tmp_path / "one")
    tiny_tokenizer.save_pretrained(tmp_path / "one")
    model = f"model.path={tmp_path / 'one'}"
    with pytest.raises(RecipeError, match=r"attention\.heads\.unit: kv_group makes one gate a layer"):
        run("heads", "tiny/dler", "--out", tmp_path / "out", *SHORT, model, *HEADS, *SMALL)


def test_temperatures_are_not_pruned_away(gated_folder, tmp_path):
    model = load_model(ModelSection(path=QWEN))
    add_ssa(model, SSAOptions())
    save_ssa(model, SSAOptions(), gated_folder)
    with pytest.raises(RecipeError, match="prune first"):
        run("prune", gated_folder, "--budget", 0.5, "--out", tmp_path / "out")


@pytest.fixture
def adapter_folder(tmp_path):
    """Return a folder with an adapter that changes what its base says."""
    folder, section = tmp_path / "adapter", ModelSection(path="tiny-random-llama")
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(load_model(section), lora).save_pretrained(folder)
    load_tokenizer(section).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["prune", "ADAPTER", "--rank", "norm", "--budget", "0.5", "--out", "OUT"], "prune"),
        (["heads", "tiny/dler", "--out", "OUT", "attention.heads.unit=head", "model.path=ADAPTER"], "model.path"),
        (["train", "tiny/dler", "output=OUT", "model.path=ADAPTER"], "model.path"),
        (["train", "tiny/mind_sft", "output=OUT", "model.path=ADAPTER"], "model.path"),
        (["run", "tiny/mind_sft", "output=OUT", "model.path=ADAPTER"], "model.path"),
        (["prepare", "tiny/mind_sft", "output=OUT", "model.path=ADAPTER"], "model.path"),
        (["run", "tiny/pretrain", "output=OUT", "pretrain.start=ADAPTER"], "pretrain.start"),
    ],
)
def test_an_adapter_is_merged_before_it_is_trained_or_pruned(arguments, key, adapter_folder, tmp_path, monkeypatch):
    for name in ("load_model", "evaluate"):
        monkeypatch.setattr("reason_rl.evaluate.run." + name, lambda *_, **__: pytest.fail("evaluated first"))
    merged = re.escape(f"{key}: {adapter_folder} is an adapter; merge it first: reason-rl export {adapter_folder} ")
    with pytest.raises(RecipeError, match=merged):
        run(*(w.replace("OUT", str(tmp_path / "out")).replace("ADAPTER", str(adapter_folder)) for w in arguments))


def test_an_adapter_that_transformers_loads_is_seen_on_the_model(adapter_folder):
    model = load_model(ModelSection(path=str(adapter_folder)))
    for refusing in (lambda: refuse_kept(model, "lost"), lambda: fold(model, torch.ones(2, 4))):
        with pytest.raises(RecipeError, match="adapter; merge it first"):
            refusing()
    ids, base = torch.arange(5, 15)[None], load_model(ModelSection(path="tiny-random-llama"))
    adapted = PeftModel.from_pretrained(base, adapter_folder)
    assert torch.equal(model(ids).logits, adapted(ids).logits)


def test_training_refuses_a_recipe_with_head_budgets(tmp_path):
    with pytest.raises(RecipeError, match=r"attention\.heads: is for reason-rl heads"):
        run("train", "tiny/dler", "attention.heads.unit=head", f"output={tmp_path / 'run'}")
