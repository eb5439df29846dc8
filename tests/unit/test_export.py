"""Export of adapters: which base it loads, and where it does not write."""

import json

import pytest
from transformers import AutoModelForCausalLM

from reason_rl.errors import RecipeError
from reason_rl.export import export
from reason_rl.recipe.load import load_recipe
from reason_rl.trainer.config import lora_config


@pytest.fixture
def adapter(tmp_path):
    """Return a folder with the configuration of an adapter on a model of the hub."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    card = {"base_model_name_or_path": "org/model", "revision": "abc"}
    (folder / "adapter_config.json").write_text(json.dumps(card))
    return folder


def test_an_adapter_remembers_the_revision_that_it_belongs_on():
    changes = ["lora={r: 4}", "model.path=org/model", "model.revision=abc"]
    assert lora_config(load_recipe("tiny/dler", changes).recipe).revision == "abc"
    assert lora_config(load_recipe("tiny/dler", changes[:1]).recipe).revision is None


def test_the_base_is_loaded_at_that_revision(adapter, tmp_path, monkeypatch):
    asked = []

    def load(base, **options):
        asked.append((base, options["revision"], options["trust_remote_code"]))
        raise OSError("no such model")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    for trusted in (False, True):
        with pytest.raises(RecipeError, match="cannot load the base model org/model"):
            export(adapter, tmp_path / "out", trusted)
    assert asked == [("org/model", "abc", False), ("org/model", "abc", True)]


def test_a_file_is_no_place_for_a_model(adapter, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="file is a file; name a folder"):
        export(adapter, tmp_path / "file")
