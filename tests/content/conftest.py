import json

import pytest
import torch

from reason_rl.content import shipped_recipes
from reason_rl.recipe.load import load_recipe
from reason_rl.recipe.smoke import smoke
from reason_rl.run_folder import RunFolder


@pytest.fixture
def smoke_run(tmp_path):
    """Return what makes the smoke run of a recipe in this process, as ``train --smoke`` does, and looks at what is left."""

    def make(name):
        from reason_rl.pipeline import train

        loaded = load_recipe(shipped_recipes()[name], [f"output={tmp_path / 'run'}"])
        recipe = smoke(loaded.recipe)
        folder = RunFolder(tmp_path / "run-smoke")
        folder.path.mkdir()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            assert train(recipe, folder, resume=False, say=lambda text: None).steps == 2
        finally:
            torch.set_num_threads(threads)
        rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
        assert [row["step"] for row in rows] == [1, 2]
        assert recipe.task != "train" or rows[0]["completion_tokens"] > 10
        weights = "adapter_model.safetensors" if recipe.lora else "model.safetensors"
        assert (folder.model / weights).is_file()
        assert (folder.model / "tokenizer_config.json").is_file()

    return make
