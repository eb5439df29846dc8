"""Task dpo: pairs from two models, the loss of the paper, what preferences teach, and resuming."""

import json
import math

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from reason_rl.errors import RecipeError, RunError
from reason_rl.evaluate.records import EvalRow
from reason_rl.pipeline import prepare
from reason_rl.pipeline import train as train_task
from reason_rl.problem.sources import load_problems
from reason_rl.recipe.load import load_recipe
from reason_rl.run_folder import RunFolder
from reason_rl.trainer import dpo, pairs
from reason_rl.trainer.compat import check_signatures
from reason_rl.trainer.dpo import PairsTrainer, to_dataset
from reason_rl.trainer.offline import one_process_made
from reason_rl.trainer.pairs import make_pairs, pairs_file

RECIPE = """\
task: dpo
output: {output}
model: {{path: {model}}}
data: {{use: world, count: 12}}
answer: {{verify: exact}}
pairs: {{short: {model}, samples: 3, max_tokens: 32}}
trainer: {{beta: 0.5, learning_rate: 1.0e-3, max_steps: 8, per_device_train_batch_size: 4, save_steps: 4}}
eval: {{data: {{use: world, split: test, count: 6}}, samples: 1, max_tokens: 32}}
"""
SHORT, LONG = "1 </think> \\boxed{ 2 } <eos>", "wait again wait again 1 </think> \\boxed{ 2 } <eos>"


def row(problem, sample, completion, correct):
    tokens = len(completion.split())
    return EvalRow(problem, 1, "chain", sample, 0, "", completion, "2", "2", correct, tokens, tokens - 4, 4, "stop")


@pytest.fixture
def opened(tmp_path, make_llama, tiny_tokenizer, monkeypatch):
    """Return an opener of runs of two scripted models, one long, one short, both always right."""
    model = tmp_path / "model"
    make_llama(0).save_pretrained(model)
    tiny_tokenizer.save_pretrained(model)
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.format(output=tmp_path / "run", model=model))

    def write(recipe, _folder, out, engine=None):
        text = SHORT if out.stem == "short" else LONG
        names = [problem.id for problem in load_problems(recipe.eval.data)]
        return [row(name, k, f"{k} {text}", True) for name in names for k in range(recipe.eval.samples)]

    def make(*changes):
        loaded = load_recipe(file, changes)
        folder = RunFolder(tmp_path / "run")
        folder.prepare(loaded.resolved(), resume=False)
        return loaded.recipe, folder

    monkeypatch.setattr("reason_rl.trainer.pairs.evaluate", write)
    return make


def quiet(_line):
    return None


def logp(model, tokenizer, prompt, text):
    ids = torch.tensor([[*prompt, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        scores = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return scores.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum().item()


def losses(model, reference, dataset, tokenizer, make_out, beta):
    args = DPOConfig(output_dir=str(make_out), beta=beta, use_cpu=True, bf16=False, report_to="none", max_length=None)
    trainer = PairsTrainer(
        model=model, ref_model=reference, args=args, train_dataset=dataset, processing_class=tokenizer
    )
    batch = trainer.data_collator([dataset[0]])
    return trainer.compute_loss(trainer.model.eval(), batch).item()


def test_the_loss_is_that_of_the_paper_on_the_tokens_as_they_are(make_llama, tiny_tokenizer, tmp_path):
    prompt = [5, 6, 7]
    pairs = [{"problem_id": "p", "kind": "group", "chosen": SHORT, "rejected": LONG}]
    dataset = to_dataset(pairs, {"p": prompt}, tiny_tokenizer, None)
    assert dataset[0]["chosen_ids"] == tiny_tokenizer(SHORT, add_special_tokens=False)["input_ids"]
    assert dataset[0]["chosen_ids"][-1] == tiny_tokenizer.eos_token_id
    policy, reference = make_llama(1), make_llama(2)
    margin = sum(
        sign * (logp(policy, tiny_tokenizer, prompt, text) - logp(reference, tiny_tokenizer, prompt, text))
        for sign, text in ((1, SHORT), (-1, LONG))
    )
    found = losses(policy, reference, dataset, tiny_tokenizer, tmp_path / "out", 0.05)
    assert found == pytest.approx(-math.log(1 / (1 + math.exp(-0.05 * margin))), abs=1e-5)
    # The worked example: a margin of 5 at beta 0.05 and 0.1.
    for beta, expected in ((0.05, 0.5759), (0.1, 0.4741)):
        found = losses(policy, reference, dataset, tiny_tokenizer, tmp_path / "out", beta * 5 / margin)
        assert found == pytest.approx(expected, abs=5e-5)
    same = losses(make_llama(1), make_llama(1), dataset, tiny_tokenizer, tmp_path / "out", 0.05)
    assert same == pytest.approx(math.log(2), abs=1e-6)


def test_preferring_short_solutions_makes_them_likelier(opened, tiny_tokenizer):
    recipe, folder = opened("trainer.logging_steps=2")
    result = train_task(recipe, folder, resume=False, say=quiet)
    assert result.steps == 8
    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert rows[-1]["margin"] > rows[0]["margin"] + 0.5
    before, after = (AutoModelForCausalLM.from_pretrained(path) for path in (recipe.model.path, result.model))
    prompt = dpo.prompts_of(recipe, tiny_tokenizer)
    some = next(iter(prompt.values()))
    gains = [
        logp(after, tiny_tokenizer, some, f"0 {t}") - logp(before, tiny_tokenizer, some, f"0 {t}")
        for t in (SHORT, LONG)
    ]
    assert gains[0] - gains[1] > 1.0


def test_pairs_are_kept_and_not_made_again(opened):
    recipe, folder = opened()
    said = []
    rows = make_pairs(recipe, folder, said.append)
    assert said == ["48 pairs of 12 problems: long preferred on 0, short on 12, 0 never right"]
    # All three short solutions are as long as each other, so none of them is worth preferring to another.
    assert {row["kind"] for row in rows} == {"group"}
    assert all("wait again" not in row["chosen"] and row["chosen_tokens"] < row["rejected_tokens"] for row in rows)
    assert json.loads(pairs_file(folder).read_text().split("\n")[0])["pairs"] == len(rows)
    assert make_pairs(recipe, folder, said.append) == rows
    assert len(said) == 1


def test_both_models_write_their_solutions_on_one_engine(opened, monkeypatch):
    recipe, folder = opened()
    opens, used = [], []
    monkeypatch.setattr(pairs, "open_engine", lambda sampled: opens.append(sampled.model.path) or "an engine")

    scripted = pairs.evaluate

    def evaluated(sampled, weights, out, engine):
        used.append((out.stem, engine))
        return scripted(sampled, weights, out)

    monkeypatch.setattr(pairs, "evaluate", evaluated)
    make_pairs(recipe, folder, quiet)
    assert opens == [recipe.model.path]
    assert used == [("long", "an engine"), ("short", "an engine")]


def test_a_killed_run_goes_on_from_its_checkpoint(opened, tmp_path):
    recipe, folder = opened("trainer.logging_steps=1")
    train_task(recipe, folder, resume=False, say=quiet)
    whole = {name: p.clone() for name, p in weights(folder.model).items()}
    for path in folder.checkpoints.glob("checkpoint-8"):
        (path / "complete.json").unlink()
    again = train_task(recipe, folder, resume=True, say=quiet)
    assert again.steps == 8
    assert all(torch.equal(whole[name], p) for name, p in weights(folder.model).items())
    steps = [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]
    assert steps == list(range(1, 9))


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_merged_start_is_what_lora_trains_on(opened):
    recipe, folder = opened("merge={method: linear, models: [x, x]}", "lora={r: 2, target_modules: all-linear}")
    merge = recipe.merge.model_copy(update={"models": [recipe.model.path] * 2})
    recipe = recipe.model_copy(update={"merge": merge})
    result = train_task(recipe, folder, resume=False, say=quiet)
    adapter = json.loads((result.model / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(folder.path / "start")
    assert (folder.path / "start" / "merge.json").is_file()


def test_prepare_makes_the_pairs_and_several_processes_want_them(opened, monkeypatch):
    recipe, folder = opened()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="run reason-rl prepare RECIPE first, then launch with --resume"):
        train_task(recipe, folder, resume=False, say=quiet)
    assert prepare(recipe, folder, quiet)["rows"] == len(make_pairs(recipe, folder, quiet))
    one_process_made(pairs_file(folder), 2)
    with pytest.raises(RecipeError, match="task train: has nothing to prepare"):
        prepare(load_recipe("tiny/grpo").recipe, folder, quiet)


def test_a_preferred_side_is_never_cut(tiny_tokenizer):
    pairs = [{"problem_id": "p", "kind": "group", "chosen": text, "rejected": LONG} for text in (SHORT, LONG)]
    short = len(tiny_tokenizer(SHORT, add_special_tokens=False)["input_ids"])
    kept = to_dataset(pairs, {"p": [1, 2]}, tiny_tokenizer, short + 2)
    assert isinstance(kept, Dataset)
    assert [len(ids) for ids in kept["chosen_ids"]] == [short]
    with pytest.raises(RecipeError, match="cuts the preferred side of all 2 pairs"):
        to_dataset(pairs, {"p": [1, 2]}, tiny_tokenizer, 3)


def test_another_trl_is_refused():
    check_signatures(DPOTrainer, dpo.WRAPPED)
    with pytest.raises(RunError, match=r"DPOTrainer\._prepare_dataset"):
        check_signatures(DPOTrainer, {"_prepare_dataset": ("self",)})
