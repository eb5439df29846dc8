"""The prior on attention in a training run: a term of the loss, with LoRA, and a controller that follows the run."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from reason_rl.algorithm.store import after_generation
from reason_rl.attention.guardian import Guardian
from reason_rl.attention.kl import AttentionKL
from reason_rl.attention.prior_files import has_prior
from reason_rl.attention.regulariser import PriorLoss, make_guardian, make_prior_loss
from reason_rl.attention.rollout_memberships import rollout_memberships
from reason_rl.attention.schedule import Strength
from reason_rl.attention.source import PriorSource
from reason_rl.errors import RecipeError
from reason_rl.models import PRIOR_ATTENTION, kept_by, load_model, load_tokenizer
from reason_rl.problem.sources import load_problems
from reason_rl.recipe.load import load_recipe
from reason_rl.recipe.schema import ModelSection, WorldData
from reason_rl.rollout.engines import make_backend
from reason_rl.run_folder import RunFolder
from reason_rl.trainer import sft as sft_module
from reason_rl.trainer.dpo import prompts_of
from reason_rl.trainer.sft import to_dataset, train_sft
from reason_rl.trainer.temperatures import starting_model
from reason_rl.trainer.train import extra_loss, training_inputs


def prior_loss(trainer, weight):
    model = trainer.accelerator.unwrap_model(trainer.model)
    watch = AttentionKL(model, PriorSource(), 64, (-1,), queries=64)
    return PriorLoss(watch, Strength(weight, warm=0.0, fall=None))


def weights(trainer):
    return [p.detach().clone() for p in trainer.accelerator.unwrap_model(trainer.model).parameters()]


@pytest.mark.parametrize("chunk_rows", [None, 4])
def test_the_term_is_logged_and_draws_attention_to_the_prior(make_trainer, make_config, chunk_rows):
    results = []
    for weight in (None, 0.0, 10.0):
        config = make_config(scale_rewards="none", learning_rate=1e-2, max_steps=8)
        trainer = make_trainer(config=config, chunk_rows=chunk_rows)
        if weight is not None:
            trainer.extra_loss = prior_loss(trainer, weight)
        trainer.train()
        results.append((weights(trainer), [row for row in trainer.state.log_history if "reason/attention_kl" in row]))
    (plain, no_rows), (off, off_rows), (_, on_rows) = results
    assert all(torch.equal(a, b) for a, b in zip(plain, off, strict=True))
    assert not no_rows
    assert not off_rows
    assert on_rows[0]["reason/attention_kl"] > 0
    assert on_rows[0]["reason/attention_kl_weight"] == 10.0
    values = [row["reason/attention_kl"] for row in on_rows]
    assert values[-1] < 0.9 * values[0], values


def test_it_watches_through_an_adapter(make_trainer, make_llama):
    torch.manual_seed(0)
    model = get_peft_model(make_llama(), LoraConfig(r=4, target_modules=["q_proj", "k_proj"]))
    spec = load_recipe("tiny/dler_rpa").recipe.attention.prior
    watch = make_prior_loss(spec, model, seed=0).watch
    with watch.collecting():
        model(input_ids=torch.arange(5, 29)[None])
    watch.term(0).backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    assert any("k_proj.lora_B" in name and grad.abs().sum() > 0 for name, grad in grads.items())


def test_guardian_turns_the_weight(make_trainer):
    recipe = load_recipe("tiny/dler_rpa_guardian").recipe
    guardian = make_guardian(recipe.attention.prior, 80, seed=0)
    trainer = make_trainer(controller=guardian)
    loss = prior_loss(trainer, 1.0)
    assert loss.factor(0.5, trainer.store) == 1.0
    trainer.train()
    state = trainer.store.states[Guardian.name]
    assert state["generations"] == trainer.store.generation > 0
    colder = {**state, "knobs": {**state["knobs"], "tau": 0.5}}
    store = after_generation(trainer.store, [], [])
    assert loss.factor(0.5, type(store)(states={Guardian.name: colder})) == 2.0


def test_sharded_weights_are_refused(make_llama):
    recipe = load_recipe("tiny/dler_rpa").recipe
    with pytest.raises(RecipeError, match=r"attention\.prior: .* FSDP shards; use DDP"):
        extra_loss(recipe, make_llama(), sharded=True)
    assert extra_loss(load_recipe("tiny/dler").recipe, make_llama(), sharded=True) is None


def test_rows_that_do_not_fit_are_refused_before_anything_is_loaded():
    recipe = load_recipe("tiny/dler_rpa", ["attention.prior.reference_tokens=100", "data.count=200"]).recipe
    with pytest.raises(RecipeError, match=r"is 100, but the longest prompt and its budget are 1\d\d tokens"):
        training_inputs(recipe)


def test_engines_that_cannot_follow_a_prior_are_refused(make_llama, tiny_tokenizer):
    model = make_llama()
    model.config._attn_implementation = PRIOR_ATTENTION
    recipe = load_recipe("tiny/dler_vllm").recipe
    with pytest.raises(RecipeError, match=r"rollout\.engine: vllm cannot follow .* attention prior .*; use hf"):
        make_backend(recipe, model, tiny_tokenizer, engine=object())


def test_content_memberships_are_those_of_the_starting_models_rollouts(make_llama, tiny_tokenizer):
    overrides = ["attention.prior.variant=content", "attention.prior.calibration_traces=6", "data.count=20"]
    recipe = load_recipe("tiny/dler_rpa", overrides).recipe
    found = [rollout_memberships(recipe, recipe.attention.prior, make_llama(), 30) for _ in range(2)]
    assert set(found[0]) == {0, 1}
    assert found[0][1].shape == (160, 4)
    assert torch.equal(found[0][1], found[1][1])
    loss = extra_loss(recipe, make_llama(), sharded=False)
    assert loss.watch.source.frozen[0].shape == (160, 4)


def test_two_ranks_have_the_gradient_of_one():
    script = Path(__file__).with_name("attention_on_ranks.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


SFT = """\
task: sft
output: {folder}
seed: 0
model: {{path: {model}}}
data: {{use: world, count: 12}}
answer: {{verify: exact}}
turns: {{max_tokens: 64}}
attention: {{prior: {{reference_tokens: 128, layers: [0, 1], warm: 0.0}}}}
trainer: {{learning_rate: 3.0e-3, max_steps: 8, per_device_train_batch_size: 4, logging_steps: 1}}
eval: {{data: {{use: world, split: test, count: 2}}, samples: 1, max_tokens: 32}}
"""


@pytest.fixture
def sft(make_llama, tiny_tokenizer, tmp_path, monkeypatch):
    """Return a maker of (recipe, run folder) whose traces are there already."""
    make_llama().save_pretrained(tmp_path / "start")
    tiny_tokenizer.save_pretrained(tmp_path / "start")
    traces = [
        {"problem_id": problem.id, "text": f"{n} 12 no wait again 12 30 yes </think> \\boxed{{ 12 30 }} <eos>"}
        for n, problem in enumerate(load_problems(WorldData(use="world", count=12)))
    ]
    monkeypatch.setattr("reason_rl.trainer.sft.make_traces", lambda *_args: traces)

    def make(name, *overrides):
        path = tmp_path / f"{name}.yaml"
        path.write_text(SFT.format(folder=tmp_path / name, model=tmp_path / "start"))
        return load_recipe(path, list(overrides)).recipe, RunFolder(tmp_path / name)

    return make


def trained(recipe, folder, resume=False):
    folder.path.mkdir(exist_ok=True)
    train_sft(recipe, folder, resume=resume, say=lambda text: None)
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def test_supervised_fine_tuning_with_a_bias_that_stays_and_guardian(sft):
    more = ["variant=content", "calibration_traces=4", "guardian={every: 2, window: 1, held_out_traces: 3}"]
    overrides = ["mode=bias", "fall=null", *more]
    recipe, folder = sft("bias", *(f"attention.prior.{text}" for text in overrides), "trainer.save_steps=4")
    rows = trained(recipe, folder)
    assert {row["prior_weight"] for row in rows} >= {0.5}
    assert len({row["guardian_gain"] for row in rows}) > 2
    model = load_model(ModelSection(path=str(folder.model)))
    with pytest.raises(RecipeError, match=r"keeps an attention prior .*, which this training would not save"):
        starting_model(load_recipe("tiny/dler", [f"model.path={folder.model}"]).recipe)
    bias = model.model.layers[0].self_attn.attention_bias
    assert bias.strength == pytest.approx(0.5 / rows[-1]["guardian_tau"], abs=1e-4)
    assert bias.source.frozen[0].shape == (128, 4)
    with pytest.raises(RecipeError, match="in no checkpoint of task sft"):
        trained(recipe, folder, resume=True)


def test_supervised_fine_tuning_with_a_bias_that_falls_ends_as_stock(sft):
    recipe, folder = sft(
        "fall", "attention.prior.mode=bias", "attention.prior.end=0.8", "lora={r: 2, target_modules: all-linear}"
    )
    rows = trained(recipe, folder)
    assert rows[0]["prior_weight"] == 0.5
    assert rows[-1]["prior_weight"] == 0.0
    assert not has_prior(folder.model)


def test_supervised_fine_tuning_is_drawn_to_the_prior(sft):
    values = {}
    for weight in (1e-9, 10.0):
        options = ("fall=null", "tau=0.6", f"weight={weight}", "reference_tokens=64")
        recipe, folder = sft(f"kl{weight:g}", *(f"attention.prior.{text}" for text in options), "trainer.max_steps=20")
        trained(recipe, folder)
        model = load_model(ModelSection(path=str(folder.model)))
        watch = AttentionKL(model, PriorSource(tau=0.6), 64, (0, 1))
        tokenizer = load_tokenizer(recipe.model)
        rows = to_dataset(sft_module.make_traces(), prompts_of(recipe, tokenizer), tokenizer)
        with watch.collecting():
            model(input_ids=torch.tensor(rows[0]["input_ids"])[None])
        values[weight] = watch.term(0).item()
    assert values[10.0] < 0.9 * values[1e-9], values


@pytest.mark.parametrize(
    "more", [(), ("lora={r: 2, target_modules: all-linear}",)], ids=["everything", "with an adapter"]
)
def test_supervised_fine_tuning_with_temperatures_resumes_exactly(sft, more):
    plain = "~attention.prior", "attention.ssa={features: mlp}", "trainer.save_steps=4"
    recipe, folder = sft("ssa", *plain, *more)
    trained(recipe, folder)
    whole = {path.name: path.read_bytes() for path in folder.model.glob("*.safetensors")}
    assert len(whole) == 2
    assert load_file(folder.model / "ssa.safetensors")["layers.0.query.weight"].abs().max() > 0
    shutil.rmtree(folder.checkpoints / "checkpoint-8")
    trained(recipe, folder, resume=True)
    assert {path.name: path.read_bytes() for path in folder.model.glob("*.safetensors")} == whole
    assert kept_by(load_model(recipe.model, folder=folder.model)) == "selective temperatures (ssa.json)"


@pytest.mark.parametrize("code", ["eager", "flash_attention_2"])
def test_a_bias_with_attention_code_that_takes_none_is_refused_before_anything_is_loaded(sft, code):
    message = (
        rf"command line: model\.attn_implementation: {code} takes no bias; set sdpa, or attention\.prior\.mode: kl"
    )
    with pytest.raises(RecipeError, match=message):
        sft("code", "attention.prior.mode=bias", f"model.attn_implementation={code}")
    sft("code", f"model.attn_implementation={code}")


def test_flash_attention_without_its_package_is_one_clear_line():
    if find_spec("flash_attn") is not None:
        pytest.skip("flash-attn is installed")
    with pytest.raises(RecipeError, match=r"model\.attn_implementation: flash_attention_2 needs what is not installed"):
        load_model(ModelSection(attn_implementation="flash_attention_2"))


@pytest.mark.parametrize("key", ["packing", "padding_free"])
@pytest.mark.parametrize("mode", ["kl", "bias"])
def test_rows_side_by_side_are_refused_with_a_prior(sft, key, mode):
    with pytest.raises(
        RecipeError, match=rf"trainer\.{key}: puts rows side by side, which the prior would take for one"
    ):
        sft("packed", f"attention.prior.mode={mode}", f"trainer.{key}=true")


def test_what_supervised_fine_tuning_refuses(sft):
    recipe, folder = sft("short", "attention.prior.reference_tokens=8")
    with pytest.raises(RecipeError, match="reference_tokens: is 8, but a row has"):
        trained(recipe, folder)
    sft_module.make_traces()[0]["text"] = "12 " * 128
    recipe, folder = sft("held", "attention.prior.guardian={held_out_traces: 1}")
    with pytest.raises(RecipeError, match=r"reference_tokens: is 128, but a row has 1[3-9]\d tokens"):
        trained(recipe, folder)
    recipe, folder = sft("all", "attention.prior.guardian={held_out_traces: 12}")
    with pytest.raises(RecipeError, match="12 of 12 leaves none to learn"):
        trained(recipe, folder)
    with pytest.raises(RecipeError, match="vllm cannot follow a bias that stays; use hf, or a fall"):
        sft("vllm", "attention.prior.mode=bias", "attention.prior.fall=null", "rollout.engine=vllm")
