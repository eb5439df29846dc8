"""Recipes: what is accepted, and that everything else names file, line, key and a way out."""

import itertools
import json

import pytest

from reason_rl.errors import RecipeError
from reason_rl.recipe.document import override, read
from reason_rl.recipe.fields import SNAPSHOTS, take_snapshots
from reason_rl.recipe.load import load_recipe
from reason_rl.recipe.plan import lora_parameters, parameters, plan

MINIMAL = """\
output: out
data: {use: world, count: 10}
algorithm:
  budget: {use: fixed, tokens: 64}
eval:
  data: {use: world, split: test, count: 10}
  max_tokens: 64
trainer:
  learning_rate: 1e-6
"""


@pytest.fixture
def write(tmp_path):
    def put(text, name="recipe.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return put


def complaint(path, *overrides):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_a_minimal_recipe_loads_and_numbers_are_numbers(write):
    recipe = load_recipe(write(MINIMAL)).recipe
    assert recipe.trainer["learning_rate"] == 1e-6
    assert recipe.algorithm.advantage.scale == "group_std"
    assert recipe.reward_file().name == "correctness.py"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("trainer:\n  learning_rat: 1\n", 2, "trainer.learning_rat: unknown key; did you mean learning_rate?"),
        ("algoritm: {}\n", 1, "algoritm: unknown key; did you mean algorithm?"),
        ("seed: one\n", 1, "seed: input should be a valid integer"),
        ("data:\n  use: world\n  count: 5\n  sed: 1\n", 4, "data.sed: unknown key; did you mean seed?"),
        ("data: {use: wrld, count: 5}\n", 1, "data: input tag 'wrld'"),
        ("lora: {r: 0}\n", 1, "lora.r: is 0; give at least 1"),
        ("trainer: {eval_strategy: steps}\n", 1, "trainer.eval_strategy: is not for training here"),
        ("lora: {lora_alph: 8}\n", 1, "lora.lora_alph: unknown key; did you mean lora_alpha?"),
        ("trainer: {temperature: 0.6}\n", 1, "trainer.temperature: is set by rollout.temperature; move it there"),
        ("trainer: {bf16: 3}\n", 1, "trainer.bf16: should be bool | None, is 3"),
        ("trainer: {num_generations: 3}\n", 1, "a process rolls out 8 rows"),
        ("trainer: {num_generations: 1}\n", 1, "a group needs at least 2 rollouts"),
        ("rollout: {top_p: 0.9}\n", 1, "rollout.top_p: top_p 0.9 cuts off part of the distribution"),
        ("rollout: {top_k: 20}\n", 1, "rollout.top_k: top_k 20 cuts off part of the distribution"),
        ("rollout: {engine: vlm}\n", 1, "rollout.engine: input should be 'hf'"),
        ("rollout:\n  lag: 1\n  stop: {strength: 2}\n", 2, "rollout.lag: 1 samples from a copy of the model, in which"),
        (
            "algorithm:\n  budget: {tokens: 9}\n  overlong: mask\n  reward: {file: rewards/dler.py}\n",
            3,
            "and mask takes cut rollouts out of the loss, so that it could never act; use penalise",
        ),
        (
            "algorithm:\n  budget: {tokens: 9}\n  reward: {file: rewards/dlr.py}\n",
            3,
            "no file rewards/dlr.py; did you mean rewards/dler.py?",
        ),
        (
            "algorithm:\n  budget: {tokens: 9}\n  reward: {file: rewards/dler.py, truncated: 1}\n",
            3,
            "algorithm.reward.truncated: unknown parameter; did you mean truncated_reward?",
        ),
        (
            "algorithm:\n  budget: {tokens: 9}\n  reward: {file: rewards/soft_overlong.py, max_tokens: 9}\n",
            3,
            "algorithm.reward.cache_tokens: is missing; soft_overlong.py needs it",
        ),
        ("algorithm:\n  budget: {use: fixed}\n", 2, "algorithm.budget.tokens: is missing"),
        ("trainer: {steps_per_generation: 4, save_steps: 6}\n", 1, "trainer.save_steps: 6 is not a multiple of 4"),
        ("trainer: {loss_type: dappo}\n", 1, "trainer.loss_type: TRL has no loss dappo; did you mean dapo?"),
        ("trainer: {save_steps: 0.5}\n", 1, "trainer.save_steps: 0.5 is not a multiple of 1"),
        ("trainer: {save_steps: 0}\n", 1, "trainer.save_steps: 0 is not a multiple of 1"),
        ("trainer: {generation_batch_size: 64}\n", 1, "is not read; set steps_per_generation"),
        ("trainer: {min_p: 0.1}\n", 1, "trainer.min_p: is read by TRL's own engines only"),
        ("trainer: {generation_kwargs: {num_beams: 2}}\n", 1, "trainer.generation_kwargs: is read by TRL's own"),
        ("trainer: {chat_template_kwargs: {enable_thinking: false}}\n", 1, "change the model's chat template"),
        ("trainer: {use_cpu: true}\n", 1, "trainer.use_cpu: is decided by the machine"),
        ("trainer: {save_strategy: epoch}\n", 1, "trainer.save_strategy: is always steps; set save_steps"),
        ("pretrain: {steps: 4}\n", 1, "pretrain: is for task pretrain; task train does not read it"),
        ("trainer: {save_total_limit: 1}\n", 1, "trainer.save_total_limit: 1 deletes the last checkpoint before"),
        ("trainer: {mask_truncated_completions: true}\n", 1, "is set by algorithm.overlong; move it there"),
        ("trainer:\n  max_steps: ten\n", 2, "trainer.max_steps: should be int, is 'ten'"),
        ("trainer: {num_generations: '8'}\n", 1, "trainer.num_generations: should be int | None, is '8'"),
        ("trainer: {num_generations: null}\n", 1, "trainer.num_generations: is null; a group needs at least 2"),
        ("trainer: {num_generations: 0}\n", 1, "trainer.num_generations: is 0; a group needs at least 2 rollouts"),
        ("trainer: {per_device_train_batch_size: 0}\n", 1, "per_device_train_batch_size: is 0; give at least 1"),
        ("trainer: {per_device_train_batch_size: null}\n", 1, "per_device_train_batch_size: should be int, is None"),
        ("trainer: {gradient_accumulation_steps: 0}\n", 1, "gradient_accumulation_steps: is 0; give at least 1"),
        ("trainer:\n  steps_per_generation: eight\n", 2, "steps_per_generation: should be int | None, is 'eight'"),
        ("trainer: {num_iterations: 0}\n", 1, "trainer.num_iterations: is 0; give at least 1"),
        (
            "trainer: {top_entropy_quantile: null}\nupdate: {skip_zero_advantage: true}\n",
            1,
            "trainer.top_entropy_quantile: should be float, is None",
        ),
        ("trainer: {save_total_limit: '1', bf16: 3}\n", 1, "trainer.bf16: should be bool | None, is 3"),
        ("extends: bse.yaml\n", 1, "extends: no file bse.yaml"),
        ("extends:\n", 1, "extends: should be a file or a list of files, is None"),
        ("extends: 3\n", 1, "extends: should be a file or a list of files, is 3"),
        ("extends:\n  - 3\n", 1, "extends: should be a file or a list of files, is [3]"),
        (
            "algorithm:\n  budget: {tokens: 9}\n  openings:\n    - {text: a, share: 0.5}\n    - {text: b, shre: 0.5}\n",
            5,
            "algorithm.openings.1.shre: unknown key; did you mean share?",
        ),
    ],
)
def test_each_mistake_is_one_clear_line_with_its_place(write, text, line, message):
    section = text.split(":")[0]
    rest = "\n".join(part for part in split_sections(MINIMAL) if not part.startswith(section + ":"))
    path = write(text + rest + "\n")
    said = complaint(path)
    assert message in said
    assert f"{path}:{line}: " in said


def split_sections(text):
    parts = []
    for line in text.splitlines():
        if line.startswith(" "):
            parts[-1] += "\n" + line
        else:
            parts.append(line)
    return parts


def test_duplicate_keys_and_broken_yaml(write):
    assert ':2: found duplicate key "seed"' in complaint(write("seed: 1\nseed: 2\n"))
    assert ":2: not YAML" in complaint(write("a: 1\n  b: [\n"))
    assert ":1: a recipe is a map of sections" in complaint(write("- 1\n"))


def test_missing_sections_and_files(write, tmp_path):
    said = complaint(write("output: out\n"))
    assert "data: is missing; task train needs it" in said
    assert "algorithm: is missing" in said
    assert "no file" in complaint(tmp_path / "none.yaml")
    assert "did you mean recipes/tiny/dler.yaml?" in complaint("tiny/dlr")


def test_extends_merges_and_another_variant_replaces(write):
    write(MINIMAL, "base.yaml")
    child = write("extends: base.yaml\nseed: 5\ndata: {use: jsonl, path: x.jsonl}\ntrainer: {weight_decay: 0.1}\n")
    recipe = load_recipe(child).recipe
    assert recipe.seed == 5
    assert recipe.data.use == "jsonl"
    assert recipe.trainer == {"learning_rate": 1e-6, "weight_decay": 0.1}


def test_files_parsed_once_are_read_as_if_parsed_again(write):
    write("seed: 1\ndata: {use: world, count: 10}\n", "root.yaml")
    write("extends: root.yaml\ndata: {count: 20}\n", "base.yaml")
    paths = [write(f"extends: base.yaml\ndata: {{seed: {k}}}\n", f"{k}.yaml") for k in range(2)]
    parsed = {}
    assert [read(path, parsed=parsed) for path in paths] == [read(path) for path in paths]
    assert {path.name for path in parsed} == {"root.yaml", "base.yaml", "0.yaml", "1.yaml"}


def test_extends_in_a_circle(write):
    write("extends: two.yaml\n", "one.yaml")
    two = write("extends: one.yaml\n", "two.yaml")
    assert "extends itself by way of two.yaml -> one.yaml -> two.yaml" in complaint(two)


def test_overrides_set_delete_and_remember_their_origin(write):
    loaded = load_recipe(write(MINIMAL), ["trainer.learning_rate=3e-4", "~eval.data.split", "data.families=[chain]"])
    assert loaded.recipe.trainer["learning_rate"] == 3e-4
    assert loaded.recipe.eval.data.split == "train"
    assert loaded.recipe.data.families == ["chain"]
    assert loaded.document.origin(("trainer", "learning_rate")) == "command line"
    assert loaded.document.origin(("data", "count")).endswith("recipe.yaml:2")
    assert "command line: ~eval.dta: the recipe has no such key" in complaint(write(MINIMAL), "~eval.dta")
    assert "command line: seed 4: write key.path=value" in complaint(write(MINIMAL), "seed 4")


def test_merge_keys_of_yaml_work(write):
    text = MINIMAL.replace("eval:", "eval: &shared\n  limit: 3", 1).replace(
        "  learning_rate", "  <<: {max_steps: 4}\n  learning_rate"
    )
    loaded = load_recipe(write(text))
    assert loaded.recipe.trainer == {"learning_rate": 1e-6, "max_steps": 4}
    assert loaded.document.origin(("trainer", "max_steps")).endswith("recipe.yaml:9")
    assert "recipe.yaml:9: trainer.max_stps: unknown key" in complaint(write(text.replace("max_steps", "max_stps")))
    both = write("a: &a {limit: 3}\nb:\n  <<: *a\n  samples: 2\n")
    assert read(both).values["b"] == {"limit": 3, "samples": 2}


@pytest.mark.parametrize(
    "changes", list(itertools.permutations(["use=reasoning_gym", "task=gcd", "count=5", "seed=7"]))
)
def test_the_order_of_overrides_does_not_lose_any(write, changes):
    data = load_recipe(write(MINIMAL), [f"eval.data.{change}" for change in changes]).recipe.eval.data
    assert (data.use, data.task, data.count, data.seed) == ("reasoning_gym", "gcd", 5, 7)


def test_a_parameter_given_before_its_file_is_checked_too(write):
    said = complaint(write(MINIMAL), "algorithm.reward.penalty=9", "algorithm.reward.file=rewards/dler.py")
    assert "command line: algorithm.reward.penalty: unknown parameter" in said
    deleted = ["algorithm.reward.file=rewards/correctness.py", "~algorithm.reward"]
    text = MINIMAL.replace("algorithm:", "algorithm:\n  reward: {file: rewards/dler.py, truncated_reward: 0.1}")
    assert load_recipe(write(text), deleted).recipe.algorithm.reward.params() == {}


def test_origins_are_those_of_what_is_there(write, monkeypatch):
    monkeypatch.delenv("NOPE", raising=False)
    write(MINIMAL, "base.yaml")
    path = write("extends: base.yaml\nlora: {r: 4}\n")
    assert "command line: eval.data.count: input should be" in complaint(path, "eval.data={use: world, count: -1}")
    assert "command line: turns: is for task sft" in complaint(path, "turns.max_tokens=9")
    assert "command line: environment variable NOPE is not set" in complaint(path, "output=${env:NOPE}/x")
    document = override(read(path), ["~lora", "data={use: jsonl, path: x.jsonl}"])
    assert not [key for key in document.origins if key[0] == "lora" or key[:2] == ("data", "count")]
    assert document.origins["data", "path"] == "command line"


def test_environment_variables(write, monkeypatch):
    monkeypatch.setenv("WHERE", "there")
    assert load_recipe(write(MINIMAL.replace("output: out", "output: ${env:WHERE}/x"))).recipe.output == "there/x"
    monkeypatch.delenv("WHERE")
    assert ":1: environment variable WHERE is not set" in complaint(
        write(MINIMAL.replace("output: out", "output: ${env:WHERE}/x"))
    )


def test_a_resolved_recipe_loads_to_itself(write):
    loaded = load_recipe(write(MINIMAL))
    again = load_recipe(write(loaded.resolved(), "resolved.yaml"))
    assert again.recipe == loaded.recipe


def test_snapshots_are_those_of_the_installed_libraries():
    for name, fields in take_snapshots().items():
        assert json.loads((SNAPSHOTS / f"{name}.json").read_text()) == fields


LLAMA = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "vocab_size": 123,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
}


def test_plan_counts_parameters_as_the_model_has_them(make_llama):
    from peft import LoraConfig, get_peft_model

    model = make_llama()
    config = {**LLAMA, "vocab_size": model.config.vocab_size}
    assert parameters(config) == model.num_parameters()
    assert parameters({**config, "tie_word_embeddings": True}) == make_llama(tie_word_embeddings=True).num_parameters()
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert lora_parameters(config, 4) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_plan_figures(write):
    path = write(MINIMAL + "  per_device_train_batch_size: 16\n  steps_per_generation: 4\n  max_steps: 40\n")
    figures = plan(load_recipe(path, ["data.count=800"]).recipe, LLAMA, processes=2)
    assert figures["rows_per_generation"] == 128
    assert figures["groups_per_generation"] == 16
    assert figures["updates_per_generation"] == 4
    assert figures["updates_per_epoch"] == 200
    assert figures["generations"] == 10
    assert figures["largest_rollout_tokens_per_generation"] == 128 * 64
    assert figures["memory_total_gb"] > 0


@pytest.mark.parametrize(
    ("changes", "revision"),
    [
        ([], "aaaa"),
        (["model.path=org/one"], "aaaa"),
        (["model.path=org/two"], None),
        (["model.path=org/two", "model.revision=bbbb"], "bbbb"),
        (["model.revision=bbbb", "model.path=org/two"], "bbbb"),
    ],
)
def test_a_revision_goes_with_its_model(tmp_path, changes, revision):
    (tmp_path / "base.yaml").write_text("model: {path: org/one, revision: aaaa}\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\noutput: here\n")
    values = override(read(tmp_path / "mine.yaml"), changes).values
    assert values["model"].get("revision") == revision
