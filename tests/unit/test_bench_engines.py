"""Measurements of speed: both sides run, what was measured is not measured again, and ratios are of what they say."""

import json

import pytest

from reason_rl.bench.engines import (
    ENGINES,
    LONGEST_TOKENS,
    MODELS,
    TEN_MILLION,
    EngineJob,
    compare_engines,
    measure_engine,
    prepared,
)
from reason_rl.bench.speed import Workload, measure
from reason_rl.bench.stock import RECIPE, SHORTER, goal, time_to_goal
from reason_rl.evaluate import run as evaluation
from reason_rl.evaluate.records import EvalRow, write_rows
from reason_rl.models import TINY_REASONER
from reason_rl.recipe.load import load_recipe
from reason_rl.run_folder import RunFolder


def test_pairs_found_are_kept_and_the_ratio_is_of_tokens_a_second(tmp_path):
    out = tmp_path / "engines.jsonl"
    rows = []
    for model in MODELS:
        for engine in ENGINES:
            key = EngineJob(engine, model, 64, 3).key
            rows.append(
                {"key": key, "engine": engine, "model": model, "tokens_per_second": 50.0 + 100 * (engine == "hf")}
            )
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = out.read_bytes()
    table = compare_engines(out, 64, 3, pytest.fail)
    assert list(table) == list(MODELS)
    assert [entry["vllm_to_hf"] for entry in table.values()] == pytest.approx([1 / 3] * 3)
    assert out.read_bytes() == before


def test_the_hf_engine_is_measured():
    row = measure_engine(EngineJob("hf", TINY_REASONER, 16, 1))
    assert 16 <= row["tokens"] <= 16 * LONGEST_TOKENS
    assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])


def test_the_random_model_has_ten_million_parameters(tmp_path):
    from reason_rl.models import load_model, load_tokenizer
    from reason_rl.recipe.schema import ModelSection

    spec = ModelSection(path=prepared(TEN_MILLION, tmp_path))
    model = load_model(spec)
    assert 10_000_000 < sum(p.numel() for p in model.parameters()) < 12_000_000
    assert len(load_tokenizer(spec)) == model.config.vocab_size


@pytest.mark.parametrize("side", ["stock", "ours"])
@pytest.mark.parametrize("part", ["rollout", "update", "step"])
def test_both_sides_of_the_speed_comparison_run(side, part):
    row = measure(side, part, Workload(rows=16, updates=2, median_tokens=4, p99_tokens=8, repeats=1))
    assert row["seconds"] > 0
    assert row["peak_memory_mb"] > 0
    assert ("share_of_matmul_flops" in row) == (part == "update")


@pytest.mark.parametrize(
    ("ours", "overlong", "cosine", "best", "ratio"),
    [
        (20, 80, 60, "cosine", 3.0),
        (20, 80, None, "soft_overlong", 4.0),
        (20, None, None, None, None),
        (None, 9, 9, "soft_overlong", None),
    ],
)
def test_time_to_goal_is_against_the_faster_length_reward_that_gets_there(ours, overlong, cosine, best, ratio):
    values = {"dler": ours, "soft_overlong": overlong, "cosine": cosine}
    table = {k: {"seconds_to_goal": {"mean": v, "missing": int(v is None)}} for k, v in values.items()}
    found = time_to_goal(table)
    assert (found["best_stock"], found["ratio_vs_trl"]) == (best, ratio)


def eval_rows(right, tokens, samples=2):
    """Return rows of ten problems: the share that is right, and the tokens of each."""
    return [
        EvalRow(f"p{i}", 1, None, k, 0, "", "", "1", "1", i < 10 * right, tokens, tokens - 1, 1, "stop")
        for i in range(10)
        for k in range(samples)
    ]


@pytest.mark.parametrize(
    ("third", "reached", "looked_at"),
    [((0.8, 50), 30.0, 3), ((0.7, 50), 40.0, 4), ((0.8, 51), 40.0, 4)],
)
def test_the_goal_is_half_the_tokens_at_the_accuracy_of_the_start(tmp_path, monkeypatch, third, reached, looked_at):
    """Sample 2 of the start is another model's: a checkpoint is compared on the samples that it has."""
    run, recipe = RunFolder(tmp_path), load_recipe(RECIPE, SHORTER).recipe
    measured = {16: (0.9, 90), 32: (0.6, 40), 48: third, 64: (0.8, 40), 128: (0.8, 40)}
    for step in measured:
        (run.checkpoints / f"checkpoint-{step}").mkdir(parents=True)
    header = dict.fromkeys(("model", "max_tokens", "temperature", "top_p", "top_k", "samples", "seed"), 1)
    others = [row for row in eval_rows(0.0, 9, samples=4) if row.sample > 1]
    write_rows(tmp_path / "before.jsonl", header, [*eval_rows(0.8, 100), *others])

    def evaluate(asked, folder, out):
        assert asked.eval.samples == 2
        return eval_rows(*measured[int(folder.name.split("-")[1])])

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    history = [{"step": step, "seconds": step / 1.6} for step in range(8, 136, 8)]
    found = goal(recipe, run, history, tmp_path / "before.jsonl")
    assert found["seconds_to_goal"] == reached
    assert [point["step"] for point in found["goal_points"]] == list(measured)[:looked_at]
    assert found["goal_points"][0] == {"step": 16, "seconds": 10.0, "accuracy": 0.9, "completion_tokens": 90.0}
