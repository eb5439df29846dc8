"""The stopping commands on the tiny reasoner, and what they refuse."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from reason_rl.bench.probe import probe_overhead
from reason_rl.content import find_content
from reason_rl.errors import RecipeError, RunError
from reason_rl.evaluate.pairing import make_pair
from reason_rl.evaluate.records import EvalRow, EvalRows, read_rows
from reason_rl.evaluate.run import make_header
from reason_rl.recipe.load import load_recipe
from reason_rl.rollout.hf import HFBackend
from reason_rl.stopping import setting as setting_module
from reason_rl.stopping.artefact import Certificate, save_certificate
from reason_rl.stopping.commands import probe_app, stop_app
from reason_rl.stopping.conformal import certify
from reason_rl.stopping.generate import StoppingBackend
from reason_rl.stopping.named import named_policy
from reason_rl.stopping.reuse import population
from reason_rl.stopping.setting import Setting, open_setting
from reason_rl.stopping.store import traces_path
from reason_rl.stopping.strength import advantage, check_strengths, choose, point
from reason_rl.stopping.workflow import load_exit

SMALL = ["data.count=400", "eval.data.count=48", "eval.data.split=calibration", "eval.max_tokens=128", "eval.samples=1"]


def run(app, *arguments):
    """Run a command and return what it printed as JSON; errors come through."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def rows(correct, tokens):
    """Return evaluation rows of one sample a problem."""
    return [
        EvalRow(f"p{i:03d}", 1, None, 0, 0, "", "", "1", "1", bool(c), int(t), int(t) - 1, 1, "stop")
        for i, (c, t) in enumerate(zip(correct, tokens, strict=True))
    ]


def test_the_cheapest_strength_before_the_first_that_fails_is_chosen():
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.8
    spoiled = right & (rng.random(400) > 0.05)
    base = rows(right, [100] * 400)
    points = [
        point(1.0, base, base),
        point(1.5, base, rows(right, [80] * 400)),
        point(2.0, base, rows(right, [85] * 400)),
        point(3.0, base, rows(spoiled, [40] * 400)),
        point(4.0, base, rows(right, [20] * 400)),
    ]
    assert choose(points).setting == 1.5
    assert points[3].accuracy_change["mean"] == pytest.approx(spoiled.mean() - right.mean())
    assert points[1].tokens_change["mean"] == -20
    with pytest.raises(ValueError, match="do not rise from 1"):
        choose(points[1:])
    with pytest.raises(ValueError, match="different problems"):
        point(2.0, base, base[1:])


def test_tokens_are_told_by_right_and_wrong():
    base = rows([1, 1, 0, 0], [10, 20, 60, 80])
    assert (point(1.0, base, base).tokens_right, point(1.0, base, base).tokens_wrong) == (15, 70)
    assert point(1.0, rows([1, 1], [1, 1]), rows([1, 1], [1, 1])).tokens_wrong is None


def test_the_gain_at_equal_tokens_is_interpolated_and_none_beyond_the_curve():
    low, high = rows([0, 0, 1, 0] * 25, [20] * 100), rows([1, 1, 1, 0] * 25, [60] * 100)
    middle = rows([1, 1, 1, 0] * 25, [40] * 100)
    gain = advantage(middle, [high, low])
    assert gain["mean"] == pytest.approx(0.75 - (0.25 + 0.75) / 2)
    assert gain["low"] < gain["mean"] < gain["high"]
    assert advantage(rows([1] * 100, [90] * 100), [low, high]) is None


def test_strengths_that_save_nothing_are_refused():
    with pytest.raises(RecipeError, match="1 and above"):
        check_strengths([0.5, 2.0])


def test_stop_calibrate_draws_the_curve_and_chooses(tmp_path):
    options = ["--strength", "8", "--budget", "12", "--gate", "0", "--out", tmp_path, "--json"]
    result = run(stop_app, "calibrate", "tiny/dler", *SMALL, *options)
    one, eight = result["strengths"]
    assert (one["setting"], eight["setting"], result["problems"]) == (1.0, 8.0, 48)
    assert eight["tokens"] < one["tokens"]
    assert result["budgets"][0]["think_tokens"] <= 13
    assert result["chosen"] in result["strengths"]
    assert json.loads((tmp_path / "strength.json").read_text()) == result
    page = (tmp_path / "strength.html").read_text()
    assert "Accuracy against tokens" in page
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    layers = ["--layer", "2", "--layer", "4"]
    options = ["--problems", "90", "--every", "12", *layers, "--answer-tokens", "6", "--out", folder, "--json"]
    result = run(probe_app, "fit", "tiny/dler", *SMALL, *options)
    assert result["auc"] > 0.5
    page = (folder / "probe.html").read_text()
    assert page.count("<svg") == 1
    assert f"AUC {result['auc']:.2f}" in page
    return folder


def test_probe_calibrate_certifies_and_says_what_holds(probe):
    result = run(probe_app, "calibrate", "tiny/dler", probe, *SMALL, "--risk", "0.1", "--confidence", "0.9", "--json")
    assert "confidence 0.9 over the draw of the 48 calibration problems" in result["statement"]
    assert 0.5 <= result["threshold"] < 1
    assert result["on_calibration_problems"]["harm"]["share"] <= 0.1
    stored = json.loads((probe / "certificate.json").read_text())
    assert stored["guarantee"]["threshold"] == result["threshold"]
    assert stored["conditions"]["sampling"]["max_tokens"] == 128
    page = (probe / "certificate.html").read_text()
    assert result["statement"] in page
    assert page.count("<svg") == 3
    assert all(part in page for part in ("Reliability of the probe", "Risk against coverage", "By difficulty"))


def test_probe_validity_counts_over_splits(probe):
    result = run(probe_app, "validity", "tiny/dler", probe, *SMALL, "--risk", "0.2", "--splits", "20", "--json")
    assert [(row["rule"], row["promised"]) for row in result] == [("per trace", pytest.approx(0.1)), ("per cue", None)]
    assert all(row["traces"] == 48 and row["splits"] == 20 for row in result)
    with pytest.raises(RecipeError, match="24 of 48 traces to calibrate on; 114 and some"):
        run(probe_app, "validity", "tiny/dler", probe, *SMALL, "--risk", "0.02", "--json")


def test_probe_eval_writes_rows_that_compare_and_marks_other_conditions(probe, tmp_path):
    test = [*SMALL[:2], "eval.data.split=test", *SMALL[3:]]
    run(probe_app, "calibrate", "tiny/dler", probe, *SMALL, "--risk", "0.1", "--json")
    result = run(probe_app, "eval", "tiny/dler", probe, *test, "--out", tmp_path / "exits.jsonl", "--json")
    assert (result["certified"], result["warnings"]) == (True, [])
    assert result["exits"] > 0
    rows_read = read_rows(tmp_path / "exits.jsonl")
    assert len(rows_read.rows) == 48
    assert rows_read.header["threshold"] == result["threshold"]
    assert sum(row.finish_reason == "exit" for row in rows_read.rows) == round(48 * result["exits"])
    recipe = load_recipe("tiny/dler", test).recipe
    plain = EvalRows(make_header(recipe, "tiny-reasoner", (), "hf"), rows_read.rows)
    assert [phrase.split()[0] for phrase in make_pair(plain, rows_read).differences] == ["stop", "threshold"]
    cooler = [*test, "eval.temperature=0.6"]
    with pytest.raises(RecipeError, match="certified with another sampling"):
        run(probe_app, "eval", "tiny/dler", probe, *cooler, "--out", tmp_path / "cool.jsonl")
    result = run(
        probe_app, "eval", "tiny/dler", probe, *cooler, "--out", tmp_path / "c.jsonl", "--uncertified", "--json"
    )
    assert result["certified"] is False
    again = run(probe_app, "eval", "tiny/dler", probe, *SMALL, "--out", tmp_path / "again.jsonl", "--json")
    assert again["certified"] is False
    assert again["warnings"][0].startswith("48 of 48 problems (p-")
    assert read_rows(tmp_path / "again.jsonl").header["certified"] is False
    higher = run(
        probe_app, "eval", "tiny/dler", probe, *test, "--threshold", "1", "--out", tmp_path / "n.jsonl", "--json"
    )
    assert (higher["exits"], higher["certified"]) == (0.0, True)
    with pytest.raises(RecipeError, match="below the certified"):
        run(probe_app, "eval", "tiny/dler", probe, *test, "--threshold", "0.1", "--out", tmp_path / "l.jsonl")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--risk", "0.02"], r"48 problems cannot bound the risk by 0.02 with confidence 0.9.* 114 are needed"),
        (
            ["--risk", "0.1", "eval.data.split=train", "eval.data.seed=0"],
            r"problems \(p-.*\) were used to fit the probe",
        ),
        (["--risk", "0.1", "model.path=tiny-random-llama"], "made with another model"),
        (["--risk", "0.1", "--shift", "4"], r"48 problems cannot bound the risk by 0.025 .* 91 are needed"),
        (["--loss", "regret"], "harm or disagreement"),
    ],
)
def test_probe_calibrate_refuses_what_would_not_hold(probe, changes, message):
    with pytest.raises(RecipeError, match=message):
        run(probe_app, "calibrate", "tiny/dler", probe, *SMALL, *changes, "--json")


def test_certificates_and_kept_traces_are_of_one_grading_one_thinking_and_these_problems(tmp_path):
    folder = find_content("eval/stopping/tiny-probe/probe.json").parent
    with open_setting(load_recipe("tiny/dler", SMALL).recipe) as setting:
        made = setting.open_probe(folder)
        problems, held = setting.eval_problems(), setting.conditions(*made)
    paths = {traces_path(tmp_path, held, (4,), problems, 1)}
    for change, name in (("answer.find=response", "grader"), ("model.end_think_token=null", "end_think")):
        with open_setting(load_recipe("tiny/dler", [*SMALL, change]).recipe) as setting:
            other = setting.conditions(*made)
            assert held.differences(other) == [name]
            paths.add(traces_path(tmp_path, other, (4,), problems, 1))
            if name == "end_think":
                with pytest.raises(
                    RecipeError, match=r"end_think_token: null, and the probe in .* was fitted with </think>"
                ):
                    setting.open_probe(folder)
    for change in ({"answer": "none"}, {"prompt": "1 + 1"}, {"level": 99}):
        paths.add(traces_path(tmp_path, held, (4,), [replace(problems[0], **change), *problems[1:]], 1))
    assert len(paths) == 6


def test_a_probe_scores_where_its_model_is(tmp_path, monkeypatch):
    shipped = find_content("eval/stopping/tiny-probe/probe.json").parent
    for name in ("probe.json", "probe.safetensors"):
        (tmp_path / name).write_bytes((shipped / name).read_bytes())
    with open_setting(load_recipe("tiny/dler", SMALL).recipe) as setting:
        held = setting.conditions(*setting.open_probe(tmp_path))
        guarantee = certify([float("-inf")] * 48, 0.1, 0.9)
        figures = {"bad_scores": []}
        save_certificate(tmp_path, Certificate(guarantee, held, (), figures, population(setting.eval_problems())))
        # Stands in for an accelerator: nothing can be computed there, but things can be put there.
        monkeypatch.setattr(Setting, "fingerprint", lambda self: held.fingerprint)
        setting.backend.model.to("meta")
        assert load_exit(setting, tmp_path).policy.rule.probe.weights[0].device.type == "meta"

        def under(self, policy):
            raise RunError(f"on {policy.rule.probe.weights[0].device}")

        monkeypatch.setattr(Setting, "under", under)
        with pytest.raises(RunError, match="on meta"):
            probe_overhead(setting, tmp_path, 2, 1, print)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cue", "hmm"], "cannot write 'hmm'"),
        (["--elicitor", "so"], "cannot write|holds </think> 0 times"),
        (["--elicitor", "</think> </think>"], "holds </think> 2 times"),
        (["--layer", "9"], "the model has layers 1 to 4"),
        (["--kind", "forest"], "logistic or mlp"),
        (["model.end_think_token=null"], "the tokenizer cannot write it"),
        (["model.end_think_token=null", "--elicitor", "<eos>"], "holds the end of a completion 1 times; never"),
        (["rollout.engine=vllm_server"], "vllm_server: this decodes with hf or vllm|rollout.server"),
    ],
)
def test_probe_fit_refuses_what_cannot_work(tmp_path, arguments, message):
    with pytest.raises(RecipeError, match=message):
        run(probe_app, "fit", "tiny/dler", *SMALL, "--problems", "6", "--out", tmp_path, *arguments)


def test_a_model_that_does_not_think_exits_with_an_answer_and_nothing_to_close(tmp_path):
    plain = [*SMALL, "model.end_think_token=null"]
    options = ["--every", "8", "--answer-tokens", "6", "--elicitor", "\\boxed{", "--target", "same"]
    run(probe_app, "fit", "tiny/dler", *plain, "--problems", "60", *options, "--out", tmp_path, "--json")
    assert len(json.loads((tmp_path / "probe.json").read_text())["elicitor"]["ids"]) == 1
    changed = ["--loss", "disagreement", "--risk", "0.2", "--json"]
    made = run(probe_app, "calibrate", "tiny/dler", tmp_path, *plain, *changed)
    assert "another answer than the full trace is at most 0.2" in made["statement"]
    assert made["on_calibration_problems"]["bad"]["share"] <= 0.2
    assert "answers changed" in (tmp_path / "certificate.html").read_text()
    test = [*plain, "eval.data.split=test"]
    assert run(probe_app, "check", "tiny/dler", tmp_path, *test, "--risk", "0.2", "--json")["loss"] == "disagreement"
    with open_setting(load_recipe("tiny/dler", plain).recipe) as setting:
        for stop in ("budget:8", "no_thinking"):
            with pytest.raises(RecipeError, match="this model does not think"):
                named_policy(stop, setting)
    with pytest.raises(RecipeError, match="most rules compared close thinking"):
        run(probe_app, "compare", "tiny/dler", tmp_path, *plain, "--out", tmp_path / "c.json")


@pytest.fixture(scope="module")
def certified(probe):
    run(probe_app, "calibrate", "tiny/dler", probe, *SMALL, "--risk", "0.1", "--json")
    return probe


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["fit", "--layer", "9", "--every", "12"], "the model has layers 1 to 4"),
        (["fit", "model.attn_implementation=flash_attention_2", "--every", "12"], "needs sdpa or eager"),
        (["calibrate", "--risk", "0.1", "--seed", "9"], "a graph shows no layers"),
        (["calibrate", "--risk", "1.5", "--shift", "4", "--seed", "9"], "risk 1.5 is not between 0 and 1"),
        (["validity", "--seed", "9"], "24 of 48 traces to calibrate on; 230 .* at risk 0.01; .*--risk"),
        (["check", "eval.data.split=test", "--risk", "1.5"], "risk 1.5 is not between 0 and 1"),
        (["compare", "--out", "c.json"], "needs sdpa or eager"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_sampled(certified, tmp_path, monkeypatch, command, message):
    load = setting_module.load_model

    def loaded(section, **options):
        # Flash attention itself is not installed everywhere.
        kind, section = section.attn_implementation, section.model_copy(update={"attn_implementation": "sdpa"})
        model = load(section, **options)
        model.config._attn_implementation = "flash_attention_2" if command[0] == "compare" else kind
        return model

    def refused(self, policy):
        raise RecipeError("a graph shows no layers")

    monkeypatch.setattr(setting_module, "load_model", loaded)
    monkeypatch.setattr(Setting, "under", refused)
    for backend in (HFBackend, StoppingBackend):
        monkeypatch.setattr(backend, "generate", lambda *_, **__: pytest.fail("sampled"))
    monkeypatch.chdir(tmp_path)
    name, *options = command
    given = ["--out", tmp_path] if name == "fit" else [certified]
    with pytest.raises(RecipeError, match=message):
        run(probe_app, name, "tiny/dler", *given, *SMALL, *options)


@pytest.mark.parametrize("module", ["reason_rl.stopping.commands", "reason_rl.stopping.conformal"])
def test_what_must_stay_light_loads_no_torch(module):
    code = f"import sys, {module}; print(bool({{'torch', 'transformers', 'scipy', 'matplotlib'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
