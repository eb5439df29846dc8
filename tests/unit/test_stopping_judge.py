"""The frozen probe as a judge of rollouts: it is sure where exits online would have been."""

from dataclasses import replace

import pytest
import torch

from reason_rl.algorithm.reward import load_reward
from reason_rl.content import find_content
from reason_rl.errors import RecipeError
from reason_rl.models import load_model, load_tokenizer
from reason_rl.problem.prompt import render_prompts
from reason_rl.problem.sources import load_problems
from reason_rl.recipe.schema import ModelSection, PromptSection, WorldData
from reason_rl.rollout.backend import SamplingOptions, SamplingRequest
from reason_rl.rollout.batch import RolloutBatch
from reason_rl.stopping import judge as judge_module
from reason_rl.stopping.artefact import fingerprint, save_probe
from reason_rl.stopping.generate import StoppingBackend
from reason_rl.stopping.judge import ExitJudge, share_kept
from reason_rl.stopping.rule import StopPolicy
from reason_rl.stopping.rules.probe_exit import ProbeExit
from reason_rl.stopping.thinking import think_tokens

FOLDER = "eval/stopping/tiny-probe"


@pytest.fixture(scope="module")
def world():
    tokenizer, model = load_tokenizer(ModelSection()), load_model(ModelSection())
    backend = StoppingBackend(model, think_tokens(model, tokenizer), int(tokenizer.pad_token_id))
    problems = load_problems(WorldData(use="world", split="test", count=24))
    prompts = render_prompts(problems, tokenizer, PromptSection())
    return backend, [SamplingRequest(tuple(prompt), 80, seed) for seed, prompt in enumerate(prompts)]


def batch_of(requests, samples):
    """Return a batch of these rollouts, all right."""
    length = torch.tensor([len(sample.token_ids) for sample in samples])
    return RolloutBatch(
        group_size=len(samples),
        problem_id=("p",) * len(samples),
        prompt_ids=tuple(request.prompt_ids for request in requests),
        completion_ids=tuple(sample.token_ids for sample in samples),
        text=("",) * len(samples),
        length=length,
        think_length=length,
        finish_reason=tuple(sample.finish_reason for sample in samples),
        budget=torch.full((len(samples),), 80),
        correct=torch.ones(len(samples)),
    )


def test_the_judge_is_sure_where_the_probe_would_have_exited(world):
    backend, requests = world
    judge, threshold = ExitJudge(FOLDER, "tiny-reasoner"), 0.6
    full = [done.sample for done in backend.decode(requests, SamplingOptions())]
    found = judge.first_sure(batch_of(requests, full), threshold)
    card = judge.loaded.card
    rule = ProbeExit(judge.loaded.probe, card.layers, card.cues, card.elicitor, threshold)
    online = backend.under(StopPolicy(rule=rule)).decode(requests, SamplingOptions())
    assert [None if at != at else int(at) for at in found.tolist()] == [done.exit_at for done in online]
    assert sum(done.exit_at is not None for done in online) > 3


def test_the_reward_prices_what_comes_after(world):
    backend, requests = world
    full = [done.sample for done in backend.decode(requests, SamplingOptions())]
    batch = batch_of(requests, full)
    sure = ExitJudge(FOLDER, "tiny-reasoner").first_sure(batch, 0.6)
    reward = load_reward(find_content("rewards/probe_exit.py"), threshold=0.6, weight=0.8)(batch)
    assert torch.equal(reward, share_kept(batch.length, sure, 0.8))
    assert (reward[sure.isnan()] == 1).all()
    assert (reward[~sure.isnan()] < 1).all()
    assert reward.min() >= 0.2


def test_nothing_is_loaded_before_a_trace_and_a_strange_probe_is_refused():
    judge = ExitJudge(FOLDER, "tiny-random-llama")
    assert "loaded" not in vars(judge)
    with pytest.raises(RecipeError, match="made with another"):
        _ = judge.loaded
    with pytest.raises(RecipeError, match="no file nowhere"):
        _ = ExitJudge("nowhere", "tiny-reasoner").loaded


def test_a_probe_of_weights_in_another_type_is_read_with_that_type(tmp_path, monkeypatch):
    section = ModelSection(dtype="bfloat16")
    shipped = ExitJudge(FOLDER, "tiny-reasoner").loaded
    made_with = fingerprint(load_model(section), load_tokenizer(section))
    figures = {"model": "tiny-reasoner", "revision": None, "dtype": "bfloat16"}
    save_probe(tmp_path, shipped.probe, replace(shipped.card, fingerprint=made_with, end_think=None, figures=figures))
    with pytest.raises(
        RecipeError, match=r"another model \(tiny-reasoner, bfloat16\), or with its weights in another type"
    ):
        _ = ExitJudge(str(tmp_path), "tiny-reasoner").loaded
    moved = []
    monkeypatch.setattr(judge_module, "to_accelerator", lambda model: moved.append(model) or model)
    loaded = ExitJudge(str(tmp_path), "tiny-reasoner", "bfloat16").loaded
    assert loaded.model.dtype == torch.bfloat16
    assert moved == [loaded.model]
    assert loaded.tokens.start is None
    with pytest.raises(RecipeError, match="dtype bf16: is none of float32, bfloat16"):
        load_reward(find_content("rewards/probe_exit.py"), dtype="bf16")
