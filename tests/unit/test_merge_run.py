"""Merging models on disk: shards, vocabularies, adapters, refusals, and what is written beside the weights."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from reason_rl.cli import app, main
from reason_rl.errors import RecipeError
from reason_rl.export import export
from reason_rl.merge.run import CARD, merge_models
from reason_rl.merge.source import INDEX, digest
from reason_rl.merge.spec import MergeSpec


@pytest.fixture
def put(tmp_path, make_llama, tiny_tokenizer):
    """Return a writer of random models into folders."""

    def write(name, seed, tokenizer=tiny_tokenizer, dtype=torch.float32, **fields):
        folder = tmp_path / name
        make_llama(seed, **fields).to(dtype).save_pretrained(folder, max_shard_size=fields.pop("shard", "5GB"))
        tokenizer.save_pretrained(folder)
        return folder

    return write


@pytest.fixture
def models(put):
    return {name: str(put(name, seed)) for seed, name in enumerate(("base", "long", "short"))}


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()


def merge(spec, out, **options):
    said = []
    return merge_models(spec, out, said.append, **options), said


def test_interpolation_of_whole_models(models, tmp_path):
    spec = MergeSpec("linear", (models["long"], models["short"]), (0.8, 0.2))
    merge(spec, tmp_path / "out")
    found, long, short = (weights(path) for path in (tmp_path / "out", models["long"], models["short"]))
    for name, value in found.items():
        torch.testing.assert_close(value, 0.8 * long[name] + 0.2 * short[name])
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.generation_config.eos_token_id == model.config.eos_token_id


def test_shards_hold_what_one_file_holds(models, tmp_path):
    spec = MergeSpec("dare_ties", (models["long"], models["short"]), base=models["base"], density=0.4)
    merge(spec, tmp_path / "one")
    merge(spec, tmp_path / "many", shard_bytes=20_000)
    assert not (tmp_path / "one" / INDEX).exists()
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 2
    assert max(sum(t.nbytes for t in load_file(file).values()) for file in files) <= 20_000
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_shards_are_read_too(put, tmp_path, models):
    sharded = put("sharded", 1, shard="20KB")
    merge(MergeSpec("task_arithmetic", (str(sharded),), base=models["base"], scale=1.0), tmp_path / "out")
    found, wanted = weights(tmp_path / "out"), weights(models["long"])
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_card_says_what_was_merged(models, tmp_path):
    spec = MergeSpec("ties", (models["long"], models["short"]), base=models["base"])
    merge(spec, tmp_path / "out")
    card = json.loads((tmp_path / "out" / CARD).read_text())
    assert card["merge"]["density"] == 0.2
    assert card["kept"] == models["long"]
    assert set(card["read"]) == set(models.values())
    for name, value in card["written"].items():
        assert digest(tmp_path / "out" / name) == value
    assert "model.safetensors" in card["written"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_tied_head_is_merged_once_whether_or_not_it_is_stored(put, tmp_path):
    first, second = (put(name, seed, tie_word_embeddings=True) for seed, name in enumerate(("a", "b")))
    stored = load_file(first / "model.safetensors")
    assert "lm_head.weight" not in stored
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
    save_file(stored, first / "model.safetensors", metadata={"format": "pt"})
    merge(MergeSpec("linear", (str(first), str(second))), tmp_path / "out")
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_tied_model_counts_with_its_embedding_as_head_where_the_kept_one_is_untied(put, tmp_path):
    base, long = str(put("base", 0, tie_word_embeddings=True)), str(put("long", 1))
    for folder, values in ((base, {"embed": 1.0}), (long, {"embed": 2.0, "lm_head": 5.0})):
        stored = load_file(f"{folder}/model.safetensors")
        for name, value in values.items():
            stored[next(key for key in stored if name in key)].fill_(value)
        save_file(stored, f"{folder}/model.safetensors", metadata={"format": "pt"})
    card, said = merge(MergeSpec("task_arithmetic", (long,), base=base, scale=0.5), tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found["model.embed_tokens.weight"].unique().tolist() == [1.0 + 0.5 * (2.0 - 1.0)]
    assert found["lm_head.weight"].unique().tolist() == [1.0 + 0.5 * (5.0 - 1.0)]
    assert "tie_word_embeddings" in card["config_differences"]
    assert said == [f"the configurations differ in tie_word_embeddings; {long}'s is kept"]
    assert not AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.tie_word_embeddings


def test_a_tied_model_cannot_keep_the_head_of_another(put, models, tmp_path):
    tied = str(put("tied", 1, tie_word_embeddings=True))
    with pytest.raises(RecipeError, match=rf"ties its head .* cannot keep the head of {models['long']}; name"):
        merge(MergeSpec("linear", (tied, models["long"])), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    merge(MergeSpec("linear", (tied, models["long"]), tokenizer=models["long"]), tmp_path / "out")


def test_adapters_are_merged_into_their_base_first(models, tmp_path, tiny_tokenizer):
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(models["base"])
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        adapted.save_pretrained(tmp_path / name)
        tiny_tokenizer.save_pretrained(tmp_path / name)
        export(tmp_path / name, tmp_path / f"{name}-plain")
    for suffix in ("", "-plain"):
        pair = tuple(str(tmp_path / f"{name}{suffix}") for name in ("one", "two"))
        merge(MergeSpec("linear", pair), tmp_path / f"out{suffix}")
    found, wanted = weights(tmp_path / "out"), weights(tmp_path / "out-plain")
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_types_names_and_excluded_tensors(put, tmp_path):
    long, short = (str(put(name, seed, dtype=torch.bfloat16)) for seed, name in enumerate(("a", "b")))
    merge(MergeSpec("linear", (long, short), exclude="norm|embed"), tmp_path / "kept")
    merge(MergeSpec("linear", (long, short), dtype="float32"), tmp_path / "wide")
    kept, wide = weights(tmp_path / "kept"), weights(tmp_path / "wide")
    assert {value.dtype for value in kept.values()} == {torch.bfloat16}
    assert {value.dtype for value in wide.values()} == {torch.float32}
    parents = [weights(path) for path in (long, short)]
    for name, value in kept.items():
        mean = (parents[0][name].float() + parents[1][name].float()) / 2
        assert torch.equal(wide[name], mean)
        assert torch.equal(value, parents[0][name] if "norm" in name or "embed" in name else mean.bfloat16())


def test_other_vocabularies_are_refused_unless_a_tokenizer_is_named(put, tmp_path, tiny_tokenizer):
    grown = AutoTokenizer.from_pretrained(put("plain", 0))
    rows = len(grown)
    grown.add_tokens(["<tool>"])
    long = str(put("long", 1, tokenizer=grown, vocab_size=rows + 4))
    short = str(put("short", 2))
    named = "name the model whose tokenizer is kept"
    with pytest.raises(RecipeError, match=rf"another vocabulary than .* \(<tool>\); {named}"):
        merge(MergeSpec("linear", (long, short)), tmp_path / "out")
    padded = str(put("padded", 3, vocab_size=rows + 4))
    with pytest.raises(RecipeError, match=rf"lm_head.weight is \[127, 32\] in .* \(2 such tensors\); {named}"):
        merge(MergeSpec("linear", (padded, short)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    merge(MergeSpec("linear", (long, short), tokenizer=long), tmp_path / "out")
    found, first, second = (weights(path) for path in (tmp_path / "out", long, short))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        torch.testing.assert_close(found[name][:rows], (first[name][:rows] + second[name]) / 2)
        assert torch.equal(found[name][rows:], first[name][rows:])
    merge(MergeSpec("linear", (long, short), tokenizer=short), tmp_path / "smaller")
    torch.testing.assert_close(weights(tmp_path / "smaller")["lm_head.weight"], found["lm_head.weight"][:rows])
    assert len(AutoTokenizer.from_pretrained(tmp_path / "smaller")) == rows


def test_rows_of_other_tokens_are_the_kept_models(put, tmp_path):
    tokenizers = [AutoTokenizer.from_pretrained(put("plain", 0)) for _ in range(2)]
    rows = len(tokenizers[0])
    for tokenizer, token in zip(tokenizers, ("<tool>", "<else>"), strict=True):
        tokenizer.add_tokens([token])
    first, second = (
        str(put(f"m{k}", k, tokenizer=tokenizer, vocab_size=rows + 1)) for k, tokenizer in enumerate(tokenizers)
    )
    merge(MergeSpec("linear", (first, second), tokenizer=second), tmp_path / "out")
    found, ours, theirs = (weights(path)["lm_head.weight"] for path in (tmp_path / "out", second, first))
    assert torch.equal(found[rows], ours[rows])
    torch.testing.assert_close(found[:rows], (ours[:rows] + theirs[:rows]) / 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"num_hidden_layers": 3},
            "have other tensors: model.layers.2.input_layernorm.weight, .* and 6 more only in one",
        ),
        (
            {"intermediate_size": 48},
            r"mlp.down_proj.weight is \[32, 64\] in .* and \[32, 48\] in .* \(6 such tensors\)",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused_before_anything_is_written(put, models, tmp_path, fields, message):
    other = str(put("other", 1, **fields))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RecipeError, match=message):
        merge(MergeSpec("linear", (models["long"], other)), tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_settings_that_differ_are_said_and_written_down(put, models, tmp_path):
    other = str(put("other", 1, rms_norm_eps=1e-5))
    card, said = merge(MergeSpec("linear", (models["long"], other)), tmp_path / "out")
    assert card["config_differences"] == {"rms_norm_eps": {models["long"]: 1e-6, other: 1e-5}}
    assert said == [f"the configurations differ in rms_norm_eps; {models['long']}'s is kept"]


def test_folders_that_cannot_be_read_or_written(models, tmp_path, tiny_tokenizer):
    spec = MergeSpec("linear", (models["long"], models["short"]))
    with pytest.raises(RecipeError, match="exists and is not empty"):
        merge(spec, tmp_path / "long")
    with pytest.raises(RecipeError, match="is a file; name a folder"):
        merge(spec, Path(__file__))
    bare = tmp_path / "bare"
    bare.mkdir()
    cases = {"no config.json": None, "no model.safetensors; only weights in safetensors": "config.json"}
    for message, file in cases.items():
        if file:
            (bare / file).write_text('{"model_type": "llama"}')
        with pytest.raises(RecipeError, match=message):
            merge(MergeSpec("linear", (models["long"], str(bare))), tmp_path / "out")
    (bare / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(RecipeError, match="bare: weights cannot be read"):
        merge(MergeSpec("linear", (models["long"], str(bare))), tmp_path / "out")


def test_quantised_weights_are_refused(models, tmp_path):
    folder, spec = Path(models["short"]), MergeSpec("linear", (models["long"], models["short"]))
    stored = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    eighth = {**stored, name: stored[name].to(torch.float8_e4m3fn), f"{name}_scale_inv": torch.ones(1)}
    save_file(eighth, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecipeError, match=rf"short: its weights are quantised \({name} is F8_E4M3\); merge those"):
        merge(spec, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(RecipeError, match=r"short: its weights are quantised \(quantization_config in config.json\)"):
        merge(spec, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_merge_that_breaks_leaves_nothing(models, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "reason_rl.merge.run.save_file", lambda *_args, **_kwargs: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        merge(MergeSpec("linear", (models["long"], models["short"])), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(models)


def test_the_command(models, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--base", models["base"], "--model", models["long"], "--model", models["short"], "--method", "ties"]
    app(
        ["merge", *arguments, "--weight", "1", "--weight", "0.5", "--lambda", "0.9", "--out", str(out), "--json"],
        standalone_mode=False,
    )
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / CARD).read_text())
    assert (printed["merge"]["weights"], printed["merge"]["scale"]) == ([1.0, 0.5], 0.9)


def test_the_command_refuses_in_one_line(monkeypatch, capsys, tmp_path):
    arguments = ["reason-rl", "merge", "--model", "a", "--method", "ties", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: merge: method ties needs a base, which differences are taken to\n"
