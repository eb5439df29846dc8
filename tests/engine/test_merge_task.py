"""Task merge: merged first, then both evaluated; what cannot be merged is refused before anything is sampled."""

import json

import pytest
import torch
from safetensors.torch import load_file

from reason_rl.errors import RecipeError
from reason_rl.pipeline import run
from reason_rl.pipeline import train as train_task
from reason_rl.recipe.load import load_recipe
from reason_rl.run_folder import RunFolder

RECIPE = """\
task: merge
output: {folder}/run
model: {{path: {folder}/base}}
answer: {{verify: exact}}
merge: {{method: selective, base: {folder}/base, models: [{folder}/tuned]}}
eval: {{data: {{use: world, split: test, count: 6}}, samples: 1, max_tokens: 16}}
"""


@pytest.fixture
def opened(tmp_path, make_llama, tiny_tokenizer):
    """Return an opener of the run of a recipe that merges two random models."""
    for seed, name in enumerate(("base", "tuned")):
        make_llama(seed).save_pretrained(tmp_path / name)
        tiny_tokenizer.save_pretrained(tmp_path / name)
    make_llama(2, num_hidden_layers=1).save_pretrained(tmp_path / "other")
    tiny_tokenizer.save_pretrained(tmp_path / "other")
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.format(folder=tmp_path))

    def open_run(*changes):
        loaded = load_recipe(file, changes)
        folder = RunFolder(tmp_path / "run")
        folder.prepare(loaded.resolved(), resume=False)
        return loaded.recipe, folder

    return open_run


def quiet(_line):
    return None


def test_both_models_are_evaluated_and_compared(opened, tmp_path):
    recipe, folder = opened()
    summary = run(recipe, folder, resume=False, say=quiet)
    assert summary["training"] == {"steps": 0, "seconds": 0.0}
    assert summary["metrics"]["completion_tokens"]["before"]["mean"] > 0
    headers = [json.loads((folder.eval / f"{side}.jsonl").read_text().split("\n")[0]) for side in ("before", "after")]
    assert [header["model"] for header in headers] == [str(tmp_path / "base"), str(folder.model)]
    base, tuned, merged = (
        load_file(path / "model.safetensors") for path in (tmp_path / "base", tmp_path / "tuned", folder.model)
    )
    name = "model.layers.0.mlp.up_proj.weight"
    changed = merged[name] != base[name]
    assert int(changed.sum()) == round(0.25 * base[name].numel())
    torch.testing.assert_close(merged[name][changed], (base[name] + 0.7 * (tuned[name] - base[name]))[changed])
    assert folder.finished
    assert folder.report.is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("merge.models=[{folder}/other]", "have other tensors"),
        ("merge.models=[{folder}/none]", "merge.models.0: no model"),
        ("merge.base={folder}/none", "merge.base: no model"),
    ],
)
def test_what_cannot_be_merged_is_refused_before_sampling(opened, tmp_path, change, message):
    recipe, folder = opened(change.format(folder=tmp_path))
    with pytest.raises(RecipeError, match=message):
        run(recipe, folder, resume=False, say=quiet)
    assert not folder.eval.exists()


def test_a_merge_is_not_trained(opened):
    recipe, folder = opened()
    with pytest.raises(RecipeError, match="task merge: is not trained; use reason-rl run"):
        train_task(recipe, folder, resume=False, say=quiet)
