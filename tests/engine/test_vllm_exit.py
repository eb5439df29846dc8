"""Exits by a probe inside vLLM: those of the reference loop on the same greedy traces, row by row and token by token."""

import importlib.util
import json
import shutil
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from reason_rl.bench.commands import bench_app
from reason_rl.content import find_content
from reason_rl.errors import RecipeError
from reason_rl.evaluate.records import read_rows
from reason_rl.models import load_model, load_tokenizer, resolve_model
from reason_rl.problem.prompt import render_prompts
from reason_rl.problem.sources import load_problems
from reason_rl.recipe.schema import ModelSection, PromptSection, WorldData
from reason_rl.rollout.backend import SamplingOptions, SamplingRequest
from reason_rl.rollout.hf import HFBackend
from reason_rl.rollout.vllm_local import EngineOptions, VLLMBackend, start_engine
from reason_rl.stopping import setting, vllm_tap
from reason_rl.stopping.artefact import CARD_FILE, fingerprint, load_probe
from reason_rl.stopping.commands import probe_app
from reason_rl.stopping.cues import Cues
from reason_rl.stopping.generate import StoppingBackend
from reason_rl.stopping.probe import Probe
from reason_rl.stopping.rule import Elicitor, StopPolicy
from reason_rl.stopping.rules.probe_exit import ProbeExit
from reason_rl.stopping.thinking import think_tokens
from reason_rl.stopping.vllm_exit import VLLMExits

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (make vllm)")
SPEC = ModelSection()
GREEDY = SamplingOptions(temperature=0.0)
LAST = 4


at = vllm_tap.States.at


def in_vllm(recipe):
    return recipe.rollout.engine == "vllm"


def run(command, *arguments, app=probe_app):
    """Run a command on the tiny recipe and return what it printed as JSON; errors come through."""
    words = [command, "tiny/dler", *map(str, arguments)]
    result = CliRunner().invoke(app, words, catch_exceptions=False, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


class Both:
    """The tiny reasoner in the reference loop and in one engine."""

    def __init__(self):
        self.tokenizer, self.model = load_tokenizer(SPEC), load_model(SPEC)
        self.tokens = think_tokens(self.model, self.tokenizer)
        self.hf = StoppingBackend(self.model, self.tokens, self.tokenizer.pad_token_id)
        engine = start_engine(resolve_model(SPEC.path), EngineOptions(512, max_batch_rows=16))
        self.vllm = VLLMBackend(engine, self.model, self.tokens.eos)
        self.vllm.sync_weights(0)
        self.plain = HFBackend(self.model, self.tokens.eos, self.tokenizer.pad_token_id)
        problems = load_problems(WorldData(use="world", split="test", count=48, seed=3))
        prompts = render_prompts(problems, self.tokenizer, PromptSection())
        # More rows than the engine takes at once, some cut by their budget.
        self.asked = [SamplingRequest(tuple(p), 160 if i % 5 else 24, i) for i, p in enumerate(prompts)]

    def decode(self, rule, **fields):
        """Return what both engines write under a rule."""
        expected = self.hf.under(StopPolicy(rule=rule)).decode(self.asked, GREEDY)
        return expected, VLLMExits(self.vllm, rule, self.tokens, **fields).decode(self.asked, GREEDY)


@pytest.fixture(scope="module")
def both():
    return Both()


@pytest.fixture(scope="module")
def shipped(both):
    folder = find_content(f"eval/stopping/tiny-probe/{CARD_FILE}").parent
    probe, card = load_probe(folder, fingerprint(both.model, both.tokenizer))
    return ProbeExit(probe, card.layers, card.cues, card.elicitor, 0.8)


@pytest.fixture(scope="module")
def last_alone(both):
    """A probe of the last layer that believes about every other cue, at words as well as at intervals."""
    wait, boxed = both.tokenizer.convert_tokens_to_ids(["wait", "\\boxed{"])
    torch.manual_seed(0)
    probe = Probe((torch.randn(1, both.model.config.hidden_size),), (torch.tensor([-2.0]),))
    elicitor = Elicitor((both.tokens.end, boxed), 4, both.tokens.eos)
    return ProbeExit(probe, (LAST,), Cues(frozenset({(wait,), (boxed, wait)}), every=9), elicitor, 0.9)


@pytest.mark.parametrize("name", ["shipped", "last_alone"])
def test_exits_are_those_of_the_reference_loop(both, name, request):
    rule = request.getfixturevalue(name)
    expected, found = both.decode(rule, keep_scores=True)
    assert [done.exit_at for done in found] == [done.exit_at for done in expected]
    assert [done.sample.token_ids for done in found] == [done.sample.token_ids for done in expected]
    assert [done.sample.finish_reason for done in found] == [done.sample.finish_reason for done in expected]
    assert [done.forced for done in found] == [done.forced for done in expected]
    exits = sum(done.exit_at is not None for done in found)
    assert 8 < exits < len(found) - 2
    assert {done.sample.finish_reason for done in found} == {"stop", "length", "exit"}
    for mine, theirs in zip(found, expected, strict=True):
        assert [place for place, _ in mine.state] == [place for place, _ in theirs.state]
        assert [score for _, score in mine.state] == pytest.approx([score for _, score in theirs.state], abs=1e-3)


def test_a_probe_that_never_believes_changes_no_token_and_one_that_always_does_exits_at_once(both, shipped):
    plain = [done.sample.token_ids for done in both.hf.decode(both.asked, GREEDY)]
    never = VLLMExits(both.vllm, replace(shipped, threshold=1.0), both.tokens)
    assert [sample.token_ids for sample in never.generate(both.asked, GREEDY)] == plain
    expected, found = both.decode(replace(shipped, threshold=-1.0, min_think_tokens=3))
    assert {done.exit_at for done in found} == {4}
    assert [done.sample.token_ids for done in found] == [done.sample.token_ids for done in expected]


def test_the_engine_is_left_as_it_was(both, shipped):
    runner = both.vllm.engine.collective_rpc(lambda worker: worker.model_runner)[0]
    before = set(vars(runner))
    VLLMExits(both.vllm, shipped, both.tokens).decode(both.asked[:4], GREEDY)
    assert set(vars(runner)) == before
    plain = [sample.token_ids for sample in both.vllm.generate(both.asked, GREEDY)]
    assert plain == [done.sample.token_ids for done in both.hf.decode(both.asked, GREEDY)]


def test_rows_that_are_put_aside_come_back_as_they_were(both, shipped, monkeypatch):
    scheduler = both.vllm.engine.llm_engine.engine_core.engine_core.scheduler
    put_aside, schedule = [], scheduler.schedule

    def interrupting(*arguments, **fields):
        running = [r for r in scheduler.running if r.num_output_tokens in (7, 20)]
        for request in running[:2]:
            scheduler.running.remove(request)
            scheduler._preempt_request(request, 0.0)
            put_aside.append(request.request_id)
        return schedule(*arguments, **fields)

    monkeypatch.setattr(scheduler, "schedule", interrupting)
    expected, found = both.decode(shipped)
    assert len(put_aside) > 4
    assert [done.sample.token_ids for done in found] == [done.sample.token_ids for done in expected]
    assert [done.exit_at for done in found] == [done.exit_at for done in expected]


def test_engines_whose_states_cannot_be_read_are_refused(both, shipped, last_alone, monkeypatch):
    config = both.vllm.engine.llm_engine.vllm_config
    monkeypatch.setattr(config.model_config, "enforce_eager", False)
    with pytest.raises(RecipeError, match=r"layers \[1, 2, 3\].*enforce_eager=true, or fit a probe of layer 4"):
        VLLMExits(both.vllm, shipped, both.tokens)
    VLLMExits(both.vllm, last_alone, both.tokens)
    monkeypatch.setattr(both.vllm, "sleeps", True)
    with pytest.raises(RecipeError, match="enable_sleep_mode: is for training"):
        VLLMExits(both.vllm, last_alone, both.tokens)
    monkeypatch.setattr(both.vllm, "sleeps", False)
    monkeypatch.setattr(config.parallel_config, "world_size", 2)
    with pytest.raises(RecipeError, match="need one worker, not 2"):
        VLLMExits(both.vllm, last_alone, both.tokens)
    monkeypatch.setattr(config, "speculative_config", object())
    with pytest.raises(RecipeError, match="speculative"):
        VLLMExits(both.vllm, last_alone, both.tokens)


def test_a_threshold_certified_for_vllm_holds_there_and_not_in_hf(both, tmp_path, monkeypatch):
    monkeypatch.setattr(setting, "make_backend", lambda recipe, *_: both.vllm if in_vllm(recipe) else both.plain)
    source = find_content(f"eval/stopping/tiny-probe/{CARD_FILE}").parent
    folder = tmp_path / "probe"
    shutil.copytree(source, folder)
    few = ["eval.data.count=60", "eval.max_tokens=96", "eval.samples=1"]
    calibration = [*few, "eval.data.split=calibration", "--risk", "0.2", "--json"]
    made = run("calibrate", folder, *calibration, "rollout.engine=vllm")
    assert made["engine_drift"] < 1e-3
    out = ["--out", tmp_path / "rows.jsonl", "--json"]
    there = run("eval", folder, *few, "rollout.engine=vllm", *out)
    assert (there["certified"], there["warnings"]) == (True, [])
    assert 0 < there["exits"] < 1
    assert read_rows(tmp_path / "rows.jsonl").header["engine"] == "vllm"
    with pytest.raises(RecipeError, match="certified with another engine"):
        run("eval", folder, *few, *out)
    # Were the engine to see other states, no threshold would be certified.
    monkeypatch.setattr(vllm_tap.States, "at", lambda self, places, last: 0 * at(self, places, last))
    with pytest.raises(RecipeError, match=r"scores in vLLM differ by up to 0\.\d+ from those of the model"):
        run("calibrate", folder, *calibration, "rollout.engine=vllm")


def test_the_price_in_vllm_is_a_ratio_of_one_run(both, monkeypatch):
    monkeypatch.setattr(setting, "make_backend", lambda *_: both.vllm)
    folder = find_content(f"eval/stopping/tiny-probe/{CARD_FILE}").parent
    result = run("probe", folder, "--engine", "vllm", "--rows", "4", "--repeats", "1", "--json", app=bench_app)
    assert (result["engine"], result["layers"]) == ("vllm", [1, 2, 3, 4])
    assert result["overhead"] == result["seconds"]["probe"] / result["seconds"]["plain"] - 1
    assert result["completion_tokens"] > 4
