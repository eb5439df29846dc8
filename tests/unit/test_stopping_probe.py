"""Cues, the probe, its fit and its files."""

import itertools
import json
import math

import pytest
import torch
from torch import nn

from reason_rl.errors import RecipeError
from reason_rl.stopping.artefact import (
    CARD_FILE,
    CERTIFICATE_FILE,
    PROBE_FILE,
    Certificate,
    Conditions,
    Fingerprint,
    ProbeCard,
    fingerprint,
    load_certificate,
    load_probe,
    save_certificate,
    save_probe,
)
from reason_rl.stopping.conformal import certify
from reason_rl.stopping.cues import Cues, find_events, recall, word_cues
from reason_rl.stopping.fit import FitOptions, auc, fit_probe, split_problems
from reason_rl.stopping.probe import Probe, fold, from_tensors
from reason_rl.stopping.rule import Elicitor

ELICITOR = Elicitor((6, 7), 8, (1,))
CUES = Cues(frozenset({(21,)}))


def cue_data(problems=60, cues=6, width=8, seed=0):
    """Return features whose first coordinate says whether the cue is right, with noise, and a scale far from 1."""
    generator = torch.Generator().manual_seed(seed)
    right = torch.rand(problems * cues, generator=generator) < 0.7
    features = torch.randn(problems * cues, width, generator=generator)
    features[:, 0] += 2.0 * right
    names = [f"p{i // cues}" for i in range(problems * cues)]
    return features * 50 + 300, right, names


@pytest.fixture
def saved(make_llama, tiny_tokenizer, tmp_path):
    model = make_llama()
    probe = Probe((torch.randn(1, 32, generator=torch.Generator().manual_seed(0)),), (torch.zeros(1),))
    made_with = fingerprint(model, tiny_tokenizer)
    save_probe(tmp_path, probe, ProbeCard(made_with, (2,), CUES, ELICITOR, "</think>", {"auc": 0.9}, ("p1", "p2")))
    return tmp_path, probe, made_with


def conditions(made_with=None, **fields):
    values = {
        "fingerprint": made_with or Fingerprint("m", "t"),
        "probe": "p",
        "cues": CUES.describe(),
        "elicitor": {"ids": [6, 7]},
        "prompt": {"template": "{prompt}", "system": None},
        "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 384},
        "grader": "exact/box",
        "end_think": "</think>",
    }
    return Conditions(**{**values, **fields})


def test_cue_words_end_where_their_last_token_ends_however_the_text_is_cut():
    pieces = ["Wait", ",", " so", " x", "=", "4", ".", " Hm", "m", ",", " await", "ing"]
    events = find_events(pieces, ["hmm", "wait", "alternatively"], whole_words=False)
    assert [tuple(e) for e in events] == [("wait", 1), ("hmm", 9), ("wait", 11)]
    joined = [*pieces[:7], " Hmm", *pieces[9:]]
    assert [tuple(e) for e in find_events(joined, ["hmm"])] == [("hmm", 8)]


def test_word_cues_of_a_tokenizer_and_their_recall(tiny_tokenizer):
    cues = word_cues(tiny_tokenizer, ["wait"])
    ids = tiny_tokenizer("7 + 12 = 19 no wait 7 + 30 = 37 yes wait again 3").input_ids
    assert cues.patterns == {(tiny_tokenizer.convert_tokens_to_ids("wait"),)}
    assert [n for n in range(len(ids) + 1) if cues.at(ids[:n], n)] == [7, 14]
    assert recall(cues, tiny_tokenizer, [ids], ["wait"]) == 1.0
    assert recall(cues, tiny_tokenizer, [ids], ["wait", "again"]) == pytest.approx(2 / 3)
    # A cue at every token finds no words.
    assert recall(word_cues(tiny_tokenizer, ["wait"], every=1), tiny_tokenizer, [ids], ["wait", "again"]) < 0.7
    with pytest.raises(RecipeError, match="cannot write 'hmm'"):
        word_cues(tiny_tokenizer, ["hmm"])


@pytest.mark.parametrize(("patterns", "every"), [((), None), (((),), None), ((), 0)])
def test_cues_that_never_or_always_come_are_refused(patterns, every):
    with pytest.raises(ValueError, match="cues:"):
        Cues(frozenset(patterns), every)


@pytest.mark.parametrize(("width", "parameters"), [(4608, 1_196_417), (16384, 4_211_073), (20480, 5_259_649)])
def test_the_mlp_has_the_size_of_the_published_one(width, parameters):
    sizes = [(256, width), (64, 256), (1, 64)]
    probe = Probe(tuple(torch.zeros(s) for s in sizes), tuple(torch.zeros(s[0]) for s in sizes))
    assert sum(t.numel() for t in probe.tensors().values()) == parameters
    assert probe.kind == "mlp"
    assert probe.width == width


@pytest.mark.parametrize("hidden", [(), (16, 8)])
def test_folding_the_standardiser_changes_nothing(hidden):
    torch.manual_seed(0)
    features = torch.randn(100, 12) * torch.linspace(0.5, 3, 12) + 2
    mean, std = features.mean(dim=0), features.std(dim=0)
    sizes = [12, *hidden, 1]
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    probe = Probe(tuple(x.weight.detach() for x in layers), tuple(x.bias.detach() for x in layers))
    assert torch.allclose(fold(probe, mean, std).score(features), probe.score((features - mean) / std), atol=1e-5)


@pytest.mark.parametrize("kind", ["logistic", "mlp"])
def test_a_probe_learns_what_there_is_to_learn_and_the_same_each_time(kind):
    data = cue_data()
    fit = fit_probe(*data, FitOptions(kind=kind))
    # Two normal classes two standard deviations apart: the best AUC is Phi(sqrt(2)) = 0.921.
    assert 0.85 < fit.auc < 0.97
    assert fit.accuracy > 0.75
    assert fit.probe.kind == kind
    again = fit_probe(*data, FitOptions(kind=kind))
    assert again.probe.digest() == fit.probe.digest()
    assert fit_probe(*data, FitOptions(kind=kind, seed=1)).probe.digest() != fit.probe.digest()


def test_shuffled_labels_leave_nothing_to_learn():
    features, right, names = cue_data(problems=200)
    shuffled = right[torch.randperm(len(right), generator=torch.Generator().manual_seed(1))]
    assert abs(fit_probe(features, shuffled, names, FitOptions()).auc - 0.5) < 0.12


def test_cues_of_a_problem_are_on_one_side_of_the_split():
    # Each problem has its own label and signature: a split by cue would look perfect, one by problem is blind.
    generator = torch.Generator().manual_seed(0)
    label = torch.rand(80, generator=generator) < 0.5
    features = torch.randn(80, 64, generator=generator).repeat_interleave(10, dim=0)
    fit = fit_probe(features, label.repeat_interleave(10), [f"p{i // 10}" for i in range(800)], FitOptions(kind="mlp"))
    assert abs(fit.auc - 0.5) < 0.35
    kept, away = split_problems(["a", "a", "b", "c", "d", "e"], 0.2, 0)
    assert len(away) == 1
    assert sorted(kept + away) == ["a", "b", "c", "d", "e"]


def test_data_that_cannot_teach_are_refused():
    features, right, names = cue_data(problems=4)
    with pytest.raises(RecipeError, match="are all right"):
        fit_probe(features, torch.ones_like(right), names, FitOptions())
    with pytest.raises(RecipeError, match="1 problems with cues are too few"):
        fit_probe(features, right, ["p"] * len(names), FitOptions())
    features[3, 2] = torch.nan
    with pytest.raises(RecipeError, match="not finite"):
        fit_probe(features, right, names, FitOptions())


def test_auc_counts_ties_half_and_needs_both_kinds():
    assert auc([0.5, 0.5], [True, False]) == 0.5
    assert auc([0.1, 0.9], [True, False]) == 0.0
    assert math.isnan(auc([0.1], [True]))


def test_a_saved_probe_comes_back_for_the_same_model_only(saved, make_llama, tiny_tokenizer):
    folder, probe, made_with = saved
    loaded, card = load_probe(folder, made_with)
    assert all(torch.equal(*pair) for pair in zip(loaded.weights, probe.weights, strict=True))
    assert all(torch.equal(*pair) for pair in zip(loaded.biases, probe.biases, strict=True))
    assert (card.layers, card.cues, card.elicitor, card.problems) == ((2,), CUES, ELICITOR, ("p1", "p2"))
    assert card.end_think == "</think>"
    with pytest.raises(RecipeError, match="made with another model"):
        load_probe(folder, fingerprint(make_llama(seed=1), tiny_tokenizer))
    nudged = make_llama()
    with torch.no_grad():
        nudged.lm_head.weight[0, 0] += 1e-6
    with pytest.raises(RecipeError, match="made with another model"):
        load_probe(folder, fingerprint(nudged, tiny_tokenizer))
    with pytest.raises(RecipeError, match="made with another tokenizer"):
        load_probe(folder, Fingerprint(made_with.model, "other"))


def test_another_chat_template_is_another_tokenizer(make_llama, tiny_tokenizer):
    model, template = make_llama(), tiny_tokenizer.chat_template
    before = fingerprint(model, tiny_tokenizer)
    try:
        tiny_tokenizer.chat_template = template + " "
        assert fingerprint(model, tiny_tokenizer).tokenizer != before.tokenizer
    finally:
        tiny_tokenizer.chat_template = template


def test_an_adapter_is_another_model(make_llama, tiny_tokenizer):
    from peft import LoraConfig, get_peft_model

    before = fingerprint(make_llama(), tiny_tokenizer)
    adapted = get_peft_model(make_llama(), LoraConfig(r=2, target_modules=["q_proj"]))
    assert fingerprint(adapted, tiny_tokenizer).model != before.model


def test_files_that_were_changed_are_refused(saved):
    folder, probe, made_with = saved
    other = Probe((probe.weights[0] + 1,), probe.biases)
    save_probe(folder / "other", other, ProbeCard(made_with, (2,), CUES, ELICITOR, None, {}, ()))
    (folder / PROBE_FILE).write_bytes((folder / "other" / PROBE_FILE).read_bytes())
    with pytest.raises(RecipeError, match="not the one that"):
        load_probe(folder, made_with)
    (folder / PROBE_FILE).write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(RecipeError, match="cannot be read as a probe"):
        load_probe(folder, made_with)
    card = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps({**card, "format": 99}))
    with pytest.raises(RecipeError, match=r"format 99; this version reads \d\. Make it again with reason-rl probe fit"):
        load_probe(folder, made_with)
    with pytest.raises(RecipeError, match="no such file"):
        load_probe(folder / "nowhere", made_with)


def test_tensors_that_are_no_probe_are_refused():
    with pytest.raises(ValueError, match="not the parameters of a probe"):
        from_tensors({"0.weight": torch.zeros(1, 2)})


def test_a_certificate_holds_under_its_conditions_alone(tmp_path):
    guarantee = certify([0.9, 0.8] + [float("-inf")] * 198, 0.05, 0.9)
    certificate = Certificate(guarantee, conditions(), ("p1",), {"exits": 0.8}, {"sources": ["world"], "levels": [1]})
    save_certificate(tmp_path, certificate)
    loaded = load_certificate(tmp_path)
    assert loaded == certificate
    assert json.loads((tmp_path / CERTIFICATE_FILE).read_text())["statement"] == guarantee.statement()
    assert loaded.threshold_for(conditions()) == (0.5, True)
    cooler = conditions(sampling={**conditions().sampling, "temperature": 0.6}, grader="math/box")
    with pytest.raises(RecipeError, match="another sampling, grader"):
        loaded.threshold_for(cooler)
    assert loaded.threshold_for(cooler, allow_uncertified=True) == (0.5, False)
