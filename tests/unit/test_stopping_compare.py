"""Rules side by side: savings at matched accuracy by hand, restarts, and the commands on the tiny reasoner."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from reason_rl.bench.commands import bench_app
from reason_rl.errors import RecipeError, RunError
from reason_rl.recipe.load import load_recipe
from reason_rl.rollout.backend import SamplingOptions, SamplingRequest
from reason_rl.stopping import compare, workflow
from reason_rl.stopping.commands import probe_app
from reason_rl.stopping.compare import BOUND, FULL, Run, saving_at_accuracy, summary
from reason_rl.stopping.contenders import played
from reason_rl.stopping.generate import StoppingBackend
from reason_rl.stopping.rule import GO, StopPolicy
from reason_rl.stopping.setting import open_setting
from reason_rl.stopping.side_by_side import first_states, header_of, make_kit
from reason_rl.stopping.thinking import think_tokens

SMALL = ["data.count=400", "eval.data.count=60", "eval.max_tokens=96", "eval.samples=1"]
CALIBRATION = [*SMALL, "eval.data.split=calibration"]


def invoke(app, *arguments):
    """Run a command and return what it printed as JSON; errors come through."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def run(rule, setting, accuracy, net, problems=100, spent=0):
    """Return a run whose first problems are right, one sample each."""
    right = (np.arange(problems) < accuracy * problems).astype(float)[:, None]
    tokens = np.full((problems, 1), float(net))
    return Run(rule, setting, right, tokens - spent, tokens, 0.5)


FULLY = run(FULL, "", 0.8, 100)


def test_savings_are_read_one_point_below_full_traces():
    # The curve goes through 0.79 in the middle of 60 and 80 tokens, geometrically.
    runs = [run("r", "a", 0.78, 60), run("r", "b", 0.80, 80)]
    assert saving_at_accuracy(runs, FULLY)["mean"] == pytest.approx(1 - np.sqrt(60 * 80) / 100)


def test_a_rule_that_keeps_accuracy_with_its_cheapest_setting_is_given_that():
    assert saving_at_accuracy([run("r", "a", 0.80, 40)], FULLY)["mean"] == pytest.approx(0.6)


def test_what_is_spent_on_the_side_counts():
    assert saving_at_accuracy([run("r", "a", 0.80, 140, spent=100)], FULLY)["mean"] == 0.0
    figures = summary([FULLY, run("r", "a", 0.80, 140, spent=100)])["runs"][1]
    assert (figures["completion_tokens"], figures["net_tokens"]) == (40, 140)
    assert figures["net_saved"]["mean"] == pytest.approx(-0.4)


def test_a_rule_that_loses_too_much_saves_little():
    assert saving_at_accuracy([run("r", "a", 0.3, 10)], FULLY)["mean"] < 0.1


def test_rules_are_ranked_by_what_they_save():
    result = summary([FULLY, run("b", "", 0.8, 70), run("a", "1", 0.8, 50), run("a", "2", 0.5, 20)])
    assert list(result["saved_at_one_point_less"]) == ["a", "b"]


def test_runs_are_kept_and_belong_to_one_comparison(tmp_path):
    path = tmp_path / "runs.jsonl"
    assert compare.start(path, {"seed": 1}) == {}
    compare.keep(path, FULLY)
    (found,) = compare.start(path, {"seed": 1}).values()
    assert found.key == FULLY.key
    assert np.array_equal(found.right, FULLY.right)
    with pytest.raises(RunError, match="another comparison"):
        compare.start(path, {"seed": 2})
    whole = path.read_text()
    path.write_text(whole + '{"rule": "half a li')
    assert list(compare.start(path, {"seed": 1})) == [FULLY.key]
    assert path.read_text() == whole
    path.write_text(whole + "half a line\n")
    with pytest.raises(RunError, match=r"runs\.jsonl:3: is no JSON .*; remove the file"):
        compare.start(path, {"seed": 1})
    path.write_text('{"se')
    assert compare.start(path, {"seed": 1}) == {}
    assert path.read_text() == '{"seed": 1}\n'


def test_runs_of_other_problems_prompts_grading_levels_or_words_are_of_another_comparison(probe):
    asked = {"word": "wait", "hint": "yes", "learn_from": 0}
    given = [*SMALL, "eval.data.count=4"]

    def header(*changes, folder=probe, answer=None, **fields):
        with open_setting(load_recipe("tiny/dler", [*given, *changes]).recipe) as setting:
            problems = setting.eval_problems()
            if answer:
                problems[0] = replace(problems[0], answer=answer)
            return header_of(make_kit(setting, folder, **{**asked, **fields}), problems)

    headers = [
        header(),
        header(answer="none"),
        header("eval.data.seed=5"),
        header('prompt.template="{prompt} ."'),
        header("answer.find=response"),
        header(word="no"),
        header(hint="wait"),
        header(learn_from=4),
        header("data.seed=5", learn_from=4),
    ]
    known = [json.dumps(value) for value in headers]
    assert len(set(known)) == len(known)
    assert header() == headers[0]
    json.loads(known[0], parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize("opened", [True, False])
def test_difficulty_is_learned_from_the_state_that_it_is_read_from(make_llama, tiny_tokenizer, opened):
    model = make_llama()
    tokens = think_tokens(model, tiny_tokenizer)
    backend = StoppingBackend(model, tokens, int(tiny_tokenizer.pad_token_id))
    prompts = [[20, 21, tokens.start, 22], [23, 24, 25, tokens.start]] if opened else [[20, 21, 22], [23, 24, 25, 26]]
    seen = []

    class First:
        layers = (1,)

        def start(self):
            return None

        def decide(self, state, look):
            if state is None:
                seen.append(look.features)
            return True, GO

    def opens(step):
        step.logits[:, tokens.start] += 1e4 * (step.think_tokens == 0) * ~step.thinking
        return step.logits

    requests = [SamplingRequest(tuple(prompt), 4, 0) for prompt in prompts]
    for request in requests:
        backend.under(StopPolicy(opens, First())).decode([request], SamplingOptions())
    assert torch.allclose(torch.stack(seen), first_states(backend, 1, prompts), atol=1e-5)


def test_a_reconsidering_word_is_looked_for_in_all_its_forms(probe):
    with open_setting(load_recipe("tiny/dler", SMALL).recipe) as setting:
        kit = make_kit(setting, probe, "wait", "yes", 0)
        (tiny,) = kit.written("wait")
        assert (kit.forms, kit.drawn_forms) == ({(tiny,)}, {tiny})
        ids = {"wait": [4], " wait": [5], "Wait": [6], " Wait": [7], "WAIT": [8, 9], "again": [1, 2]}

        class Pieces:
            unk_token_id = None

            def __call__(self, text, **_):
                return SimpleNamespace(input_ids=ids.get(text, []))

        kit = replace(kit, setting=replace(setting, tokenizer=Pieces()))
        deer = next(rule.of(None) for rule in played(kit) if rule.rule == "DEER")
        patience = next(rule.of(None) for rule in played(kit) if rule.rule.startswith("patience"))
        assert deer.words == {4, 5, 6, 7}
        assert patience.cues.patterns == {(4,), (5,), (6,), (7,), (8, 9)}
        assert replace(kit, word="again").drawn_forms == frozenset()


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    options = [
        "--problems",
        "80",
        "--every",
        "12",
        "--cue",
        "wait",
        "--layer",
        "2",
        "--layer",
        "4",
        "--answer-tokens",
        "6",
    ]
    assert invoke(probe_app, "fit", "tiny/dler", *SMALL, *options, "--out", folder, "--json")["auc"] > 0.55
    figures = json.loads((folder / "probe.json").read_text())["figures"]
    assert (figures["model"], figures["cue_recall"]) == ("tiny-reasoner", 1.0)
    invoke(probe_app, "calibrate", "tiny/dler", folder, *CALIBRATION, "--risk", "0.2", "--json")
    return folder


def test_calibrating_again_samples_nothing_again(probe, monkeypatch):
    monkeypatch.setattr(workflow, "collect", lambda *_: pytest.fail("sampled again"))
    first = json.loads((probe / "certificate.json").read_text())
    lower = invoke(probe_app, "calibrate", "tiny/dler", probe, *CALIBRATION, "--risk", "0.1", "--json")
    assert lower["threshold"] >= first["guarantee"]["threshold"]
    again = invoke(probe_app, "calibrate", "tiny/dler", probe, *CALIBRATION, "--risk", "0.2", "--json")
    assert again["threshold"] == first["guarantee"]["threshold"]
    (kept,) = probe.glob("traces-*.jsonl")
    kept.write_text("{}\n" + kept.read_text())
    try:
        with pytest.raises(RecipeError, match="cannot be read as scored traces"):
            invoke(probe_app, "calibrate", "tiny/dler", probe, *CALIBRATION, "--risk", "0.2", "--json")
    finally:
        kept.write_text(kept.read_text()[3:])


def test_the_problems_of_a_level_are_the_same_whatever_traces_are_kept(probe):
    limited = [*SMALL, "eval.limit=20"]
    first = invoke(probe_app, "check", "tiny/dler", probe, *limited, "--risk", "0.2", "--json")
    assert first["traces"] == 20
    hard = invoke(probe_app, "check", "tiny/dler", probe, *limited, "--level", "6", "--risk", "0.2", "--json")
    with open_setting(load_recipe("tiny/dler", limited).recipe) as setting:
        among = sum(problem.level == 6 for problem in setting.eval_problems())
        wanted = len(setting.eval_problems([6]))
    assert hard["traces"] == wanted > among


def test_check_tells_what_happens_under_other_conditions(probe):
    same = invoke(probe_app, "check", "tiny/dler", probe, *SMALL, "--risk", "0.2", "--json")
    assert (same["other_conditions"], same["other_problems"]) == ([], [])
    assert same["traces"] == 60
    assert [row["risk"] for row in same["risks"]] == [0.2]
    hard = invoke(probe_app, "check", "tiny/dler", probe, *SMALL, "--level", "6", "--risk", "0.2", "--json")
    assert hard["levels"] == [6]
    assert 0 < hard["traces"] < 20
    assert hard["other_problems"] == ["levels 6; calibrated on levels 1, 2, 3, 4, 5, 6"]
    few = invoke(probe_app, "check", "tiny/dler", probe, *SMALL, "--risk", "0.001", "--json")
    assert [(row["threshold"], row["exits"]["share"]) for row in few["risks"]] == [(None, 0.0)]
    assert "no exits" in (probe / "check.html").read_text()
    invoke(probe_app, "check", "tiny/dler", probe, *SMALL, "--level", "6", "--risk", "0.2", "--json")
    page = (probe / "check.html").read_text()
    assert "nothing is promised for them: levels 6" in page
    assert page.count("<svg") == 1
    cooler = invoke(probe_app, "check", "tiny/dler", probe, *SMALL, "eval.temperature=0.6", "--risk", "0.2", "--json")
    assert cooler["other_conditions"] == ["sampling"]
    with pytest.raises(RecipeError, match="were used to calibrate it"):
        invoke(probe_app, "check", "tiny/dler", probe, *CALIBRATION, "--json")
    with pytest.raises(RecipeError, match="--level 9: no problem"):
        invoke(probe_app, "check", "tiny/dler", probe, *SMALL, "--level", "9", "--json")


def test_compare_judges_all_rules_and_goes_on_where_it_was(probe, tmp_path):
    out = tmp_path / "compare.json"
    few = ["data.count=400", "eval.data.count=12", "eval.max_tokens=48", "eval.samples=1"]
    command = ["compare", "tiny/dler", probe, *few, "--learn-from", "24", "--out", out, "--json"]
    result = invoke(probe_app, *command)
    rules = {row["rule"] for row in result["runs"]}
    assert len(rules) >= 14
    full, bound = (next(row for row in result["runs"] if row["rule"] == name) for name in (FULL, BOUND))
    assert bound["accuracy"] >= full["accuracy"]
    assert bound["completion_tokens"] < full["completion_tokens"]
    costly = [row for row in result["runs"] if row["rule"].startswith("answer consistency")]
    assert all(row["net_tokens"] > row["completion_tokens"] for row in costly)
    free = [row for row in result["runs"] if row["rule"].startswith(("budget forcing", "probe", "scaled stop"))]
    assert all(row["net_tokens"] == row["completion_tokens"] for row in free)
    assert json.loads(out.read_text()) == result
    page = out.with_suffix(".html").read_text()
    assert "Accuracy against net tokens" in page
    assert all(rule.split(" (")[0] in page for rule in rules)
    kept = out.with_suffix(".runs.jsonl")
    lines = kept.read_text().splitlines()
    # All but the last two runs are there: only those are made again.
    kept.write_text("\n".join(lines[:-2]) + "\n")
    assert invoke(probe_app, *command) == result
    assert kept.read_text().splitlines() == lines


def test_the_price_of_watching_is_a_ratio_of_one_run(probe, tmp_path):
    out = tmp_path / "overhead.json"
    result = invoke(bench_app, "probe", "tiny/dler", probe, "--rows", "4", "--repeats", "1", "--out", out, "--json")
    assert result["overhead"] == result["seconds"]["probe"] / result["seconds"]["plain"] - 1
    assert result["completion_tokens"] > 4
    assert json.loads(out.read_text()) == result
