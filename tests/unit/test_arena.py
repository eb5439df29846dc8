"""The arena's table and page, from cells made up by hand."""

import json

import numpy as np
import pytest

from reason_rl.bench.arena import averages, command_of, made_cells, make_cells, measured, methods_of
from reason_rl.cli import app
from reason_rl.errors import RecipeError
from reason_rl.evaluate.arena import alike, arena_table, beside_mixture, side_of
from reason_rl.report.arena import arena_cells, kept_cells, level_cells, write_arena

LEVELS = [1, 1, 2, 2]


def problems(correct, tokens):
    """Return problems of two samples each; levels 1, 1, 2, 2."""
    return {
        "problems": {
            f"p{i}": {"level": level, "correct": list(c), "tokens": list(t), "thought": [1, int(level == 2)]}
            for i, (level, c, t) in enumerate(zip(LEVELS, correct, tokens, strict=True))
        }
    }


def cell(method, seed, correct, tokens, spent=1000):
    means = {"accuracy": float(np.mean(correct)), "completion_tokens": float(np.mean(tokens))}
    last = problems(correct, tokens) | means
    early = {
        "point": 0.5,
        "step": 8,
        "rollout_tokens": spent // 2,
        "seconds": 5.0,
        "accuracy": 0.5,
        "completion_tokens": 150.0,
    }
    final = {"point": 1.0, "step": 16, "rollout_tokens": spent, "seconds": 10.0, **last}
    return {"key": f"{method}-seed{seed}", "method": method, "seed": seed, "points": [early, final], "asked": {}}


START = problems([(1, 1), (1, 0), (1, 0), (0, 0)], [(100, 100), (100, 100), (200, 200), (200, 200)])
START_TOKENS = [(100, 100), (100, 100), (200, 200), (200, 200)]
SHORT = [(50, 50), (50, 50), (100, 100), (100, 100)]
RIGHT = [(1, 1), (1, 1), (1, 0), (1, 0)]
ROWS = [
    {"key": "start", "point": 0.0, **START},
    cell("better", 0, RIGHT, SHORT),
    cell("better", 1, RIGHT, [(25, 25), (25, 25), (50, 50), (50, 50)]),
    cell("same", 0, [(1, 1), (1, 0), (1, 0), (0, 0)], [(100, 100), (100, 100), (200, 200), (200, 200)]),
]


def test_the_table_says_what_was_worked_out_by_hand():
    table = arena_table(ROWS)
    better = table["methods"]["better"]
    assert table["start"]["accuracy"]["mean"] == 0.5
    assert table["start"]["completion_tokens"]["mean"] == 150
    assert better["seeds"] == 2
    assert better["accuracy"]["mean"] == 0.75
    assert better["accuracy_difference"]["mean"] == 0.25
    assert better["token_cut"]["mean"] == pytest.approx(1 - 56.25 / 150)
    assert (better["token_cut"]["low_seed"], better["token_cut"]["high_seed"]) == (0.5, 0.75)
    # AES: 1 * tokens saved + 3 * relative gain.
    assert better["aes"]["mean"] == pytest.approx(0.625 + 3 * 0.5)
    assert better["levels"] == {
        "1": {"accuracy": 1.0, "completion_tokens": 37.5, "no_think": 0.5},
        "2": {"accuracy": 0.5, "completion_tokens": 75.0, "no_think": 0.0},
    }
    assert (better["rollout_tokens"], better["seconds"]) == (1000, 10)
    assert [point["point"] for point in better["path"]] == [0.5, 1.0]
    assert [point["completion_tokens"] for point in better["path"]] == [150, 56.25]
    assert table["frontier"] == ["better"]
    assert table["methods"]["same"]["token_cut"]["mean"] == 0
    assert table["indistinguishable"] == []


def test_what_differs_in_nothing_is_indistinguishable():
    rows = [*ROWS, cell("twin", 0, [(1, 1), (0, 1), (0, 1), (0, 0)], [(100, 100), (100, 100), (200, 200), (200, 200)])]
    assert arena_table(rows)["indistinguishable"] == [("same", "twin")]


def test_a_method_is_like_itself_and_unlike_a_shorter_one():
    start, short = side_of([START]), side_of([problems([(1, 1), (1, 0), (1, 0), (0, 0)], SHORT)])
    assert alike(start, start)
    assert not alike(start, short)


def test_variants_that_were_asked_for_have_their_own_row(tmp_path):
    rows = [ROWS[0], ROWS[3] | {"asked": {"short": problems(RIGHT, SHORT)}}]
    table = arena_table(rows)
    assert table["methods"]["same"]["asked"]["short"]["completion_tokens"]["mean"] == 75
    assert [row[0] for row in level_cells(table)] == ["start", "same", "same, asked short"]
    assert level_cells(table)[2][1] == "100 % / 50 (50 %)"


def test_models_kept_on_a_schedule_are_shown_in_their_order(tmp_path):
    kept = {
        name: {"accuracy": 0.5, "completion_tokens": tokens} for name, tokens in (("low-1", 40.0), ("high-1", 60.0))
    }
    other = {name: {"accuracy": 0.7, "completion_tokens": 50.0} for name in ("low-1", "high-1", "low-2")}
    table = arena_table([ROWS[0], ROWS[1] | {"kept": kept}, ROWS[2] | {"kept": other}])
    assert kept_cells(table) == {"better": ["low-1: 60.0 % / 45", "high-1: 60.0 % / 55"]}
    write_arena(table, tmp_path, "x")
    assert "high-1: 60.0 % / 55" in (tmp_path / "arena.html").read_text()


def test_different_problems_are_refused():
    other = {"problems": {"q": START["problems"]["p0"]}}
    with pytest.raises(ValueError, match="different problems"):
        side_of([START, other])
    with pytest.raises(ValueError, match="start is missing"):
        arena_table(ROWS[1:])


def test_the_page_stands_alone_and_has_every_method(tmp_path):
    table = arena_table(ROWS)
    write_arena(table, tmp_path, "reason-rl arena --out here")
    page = (tmp_path / "arena.html").read_text()
    assert all(text in page for text in ("better", "same", "reason-rl arena --out here", "62.5 %", "<svg"))
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")
    picture = (tmp_path / "pareto.svg").read_text()
    assert picture.startswith("<svg")
    assert "var(--" not in picture
    assert json.loads((tmp_path / "table.json").read_text())["frontier"] == ["better"]
    assert [row[0] for row in arena_cells(table)] == ["start", "better *", "same"]
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0].endswith("| levels 1 / 2 |")
    assert lines[2] == "| start |  | 50.0 % |  | 150.0 |  | 75 / 25 % |"
    assert lines[3].startswith("| better * | 2 | 75.0 % | +25.0 [")


def hard_case(correct, tokens):
    """Two problems at each of three levels, one sample; only the two hardest levels may count."""
    return {
        f"p{i}": {"level": 1 + i // 2, "correct": [c], "tokens": [tokens], "thought": [1]}
        for i, c in enumerate(correct)
    }


def test_a_uniform_cut_at_equal_tokens_is_a_mixture_of_two_caps():
    tight, wide = hard_case([1, 1, 1, 0, 0, 0], 80), hard_case([1, 1, 1, 1, 1, 0], 120)
    method = hard_case([0, 0, 1, 1, 1, 1], 110)
    found = beside_mixture(*(side_of([{"problems": rows}]) for rows in (method, tight, wide)))
    # 1/4 right under the tight cap, 3/4 under the wide one, three quarters of the way: 5/8; the easy level does not count.
    assert found["share"] == 0.75
    assert found["difference"]["mean"] == pytest.approx(1 - 5 / 8)
    with pytest.raises(ValueError, match=r"130.0 tokens do not lie between 80.0 and 120.0"):
        beside_mixture(*(side_of([{"problems": rows}]) for rows in (hard_case([1] * 6, 130), tight, wide)))


def test_methods_between_the_uniform_cuts_are_compared_with_them(tmp_path):
    rows = [
        ROWS[0],
        cell("dler", 0, [(1, 1), (1, 0), (0, 0), (0, 0)], SHORT),
        cell("dler_cap112", 0, [(1, 1), (1, 1), (1, 0), (0, 0)], START_TOKENS),
        cell("better", 0, RIGHT, [(60, 60), (60, 60), (120, 120), (120, 120)]),
        cell("longer", 0, RIGHT, [(200, 200)] * 4),
    ]
    table = arena_table(rows)
    assert list(table["beside_uniform"]) == ["better"]
    assert table["beside_uniform"]["better"]["share"] == pytest.approx(0.2)
    assert arena_table(ROWS)["beside_uniform"] == {}
    wide = cell("dler_cap160", 0, RIGHT, [(400, 400)] * 4)
    three = arena_table([*rows, wide])["beside_uniform"]
    assert list(three) == ["better", "longer"]
    assert three["better"] == table["beside_uniform"]["better"]  # the two cuts nearest to it count
    write_arena(table, tmp_path, "x")
    assert "Beside a uniform cut" in (tmp_path / "arena.html").read_text()


def test_the_page_is_written_again_from_the_cells_alone(tmp_path, capsys):
    rows = [row | {"allowance_tokens": 2560, "versions": {"trl": "1.16.0"}} if "method" in row else row for row in ROWS]
    (tmp_path / "cells.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    app(["arena", "--out", str(tmp_path), "--only-report", "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "table.json").read_text())
    page = (tmp_path / "arena.html").read_text()
    assert f"reason-rl arena --out {tmp_path} --budget-updates 1 --seeds 2 --methods better,same" in page
    assert "trl 1.16.0" in page
    assert command_of([{"key": "start"}], tmp_path).startswith("reason-rl arena --out")


def test_a_report_without_cells_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"cells.jsonl: no cell named start; run reason-rl arena --out .* without"):
        made_cells(tmp_path)


def test_methods_are_the_tiny_recipes_that_train():
    known = methods_of(None)
    assert {"dler", "grpo", "dapo"} <= set(known)
    assert not {"base", "pretrain", "dler_vllm"} & set(known)
    with pytest.raises(RecipeError, match=r"--methods drel: no such method; there are .*dler"):
        methods_of("dler,drel")


def test_cells_of_another_allowance_are_not_mixed(tmp_path):
    (tmp_path / "cells.jsonl").write_text(json.dumps({"key": "dler-seed0", "allowance_tokens": 5}) + "\n")
    with pytest.raises(RecipeError, match="dler-seed0 was made with 5 rollout tokens, not 2,560"):
        make_cells(["dler"], 1, 1, tmp_path, 1, print)


def test_samples_are_kept_by_problem():
    from reason_rl.evaluate.records import EvalRow

    fields = dict.fromkeys(EvalRow.__dataclass_fields__)
    rows = [
        EvalRow(**{**fields, "problem_id": "p", "level": 3, "correct": c, "completion_tokens": t, "think_tokens": w})
        for c, t, w in ((True, 7, 1), (False, 9, 2))
    ]
    assert averages(rows) == {"accuracy": 0.5, "completion_tokens": 8.0}
    assert measured(rows) == {"problems": {"p": {"level": 3, "correct": [1, 0], "tokens": [7, 9], "thought": [0, 1]}}}
