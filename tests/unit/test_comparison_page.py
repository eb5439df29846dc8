"""The page of `compare`: offline, readable regressions, published points of the same model and benchmark in grey."""

import dataclasses
import re
import shutil
import subprocess

import matplotlib.image
import numpy as np
import pytest

from reason_rl import cli
from reason_rl.errors import RunError
from reason_rl.evaluate.records import EvalRow, write_rows
from reason_rl.recipe.suite import load_suite
from reason_rl.report.comparison_page import REGRESSIONS, regressions, suite_of
from reason_rl.report.published import BENCHMARKS, marked, published

CHROMIUM = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
MODEL = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
HEADER = {
    "model": MODEL,
    "data": {"use": "hub", "name": "HuggingFaceH4/MATH-500", "local": "math500"},
    "max_tokens": 32768,
    "temperature": 0.6,
    "top_p": 0.95,
    "top_k": 0,
    "seed": 1,
    "samples": 2,
}


def row(problem, sample, tokens, right, text="so"):
    return EvalRow(
        problem_id=f"p{problem:02}",
        level=None,
        family=None,
        sample=sample,
        seed=0,
        prompt="Is 1 < 2 & <b>why</b>?",
        completion=f"{text} </think> 1",
        answer="1",
        extracted="1" if right else "2",
        correct=right,
        completion_tokens=tokens,
        think_tokens=tokens - 5,
        answer_tokens=5,
        finish_reason="stop",
    )


def side(seed, scale, share):
    rng = np.random.default_rng(seed)
    return [row(i, s, int(scale * (400 + 90 * i)), bool(rng.random() < share)) for i in range(24) for s in range(2)]


@pytest.fixture
def page(tmp_path, capsys):
    paths = []
    for name, rows in (("base", side(0, 9, 0.85)), ("short", side(1, 4, 0.8)), ("shorter", side(2, 2, 0.5))):
        paths.append(tmp_path / f"{name}.jsonl")
        write_rows(paths[-1], HEADER, rows)
    out = tmp_path / "page.html"
    cli.app(["compare", *map(str, paths), "--html", str(out)], standalone_mode=False)
    capsys.readouterr()
    return out.read_text()


def test_the_page_holds_all_parts_and_needs_nothing_else(page):
    for heading in ("Accuracy and tokens", "short", "shorter", "Settings"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("Worst regressions") == 2
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "default-src 'none'" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)
    assert "<b>why</b>" not in page
    assert "&lt;b&gt;why&lt;/b&gt;" in page


def test_published_points_say_where_they_are_from_and_what_differs(page):
    points = published(MODEL, "math500")
    assert f"{len(points)} published points" in page
    assert page.count('<g id="pareto-published') == len(points)
    titles = re.findall(r'<g id="pareto-published\d+"><title>([^<]+)</title>', page)
    assert len(titles) == len(points)
    assert any("DOT README" in title and title.endswith("(32 samples)") for title in titles)
    assert any("SIRI Table 1" in title and title.endswith("(cap 16,384, 64 samples)") for title in titles)
    assert "None" not in page.replace("None before", "")


def test_published_figures_are_of_the_same_model_and_benchmark_only():
    assert published("somebody/else", "math500") == []
    assert published(MODEL, "smoke") == []
    points = published(f"models/{MODEL.split('/')[1]}/", "gsm8k")
    assert points
    assert all(0 < point.accuracy <= 1 and point.tokens > 0 and point.source for point in points)
    notes = {note for _, note in marked(points, 16384, 4)}
    assert notes == {"samples not stated", "cap not stated, samples not stated"}


def test_what_was_sampled_as_often_under_the_same_cap_is_not_marked():
    points = published(MODEL, "aime24")
    stated = {(point.cap, point.samples) for point in points}
    assert {(16384, 16), (32768, 16), (32768, 32), (None, None)} <= stated
    for point, note in marked(points, 32768, 32):
        assert (note == "") == ((point.cap, point.samples) == (32768, 32))


def test_the_drawings_of_a_comparison_are_files(page, tmp_path, capsys):
    paths = [str(tmp_path / f"{name}.jsonl") for name in ("base", "short")]
    cli.app(["compare", *paths, "--figures", str(tmp_path / "figures")], standalone_mode=False)
    names = ["1-pareto.png", "1-pareto.svg", "2-lengths.png", "2-lengths.svg"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == names
    assert "2-lengths.svg" in capsys.readouterr().err
    for option in ("--html", "--figures"):
        with pytest.raises(RunError, match=f"{option} .*base.jsonl/in.* cannot be written \\("):
            cli.app(["compare", *paths, option, f"{paths[0]}/in"], standalone_mode=False)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_suite_is_known_by_its_data(name):
    assert suite_of({"data": load_suite(name).suite.eval.data.model_dump(exclude_none=True)}) == name


def test_the_suite_of_other_data_is_none():
    assert suite_of({"data": {"use": "world", "split": "test"}}) == suite_of({}) == ""


def test_regressions_show_the_problems_that_lost_most_once_each():
    before = [row(i, s, 100 + 10 * s, True) for i in range(8) for s in range(2)]
    after = [
        dataclasses.replace(one, correct=one.problem_id == "p00" or (one.problem_id > "p04" and one.sample == 0))
        for one in before
    ]
    pairs = regressions(before, after)
    assert [first.problem_id for first, _ in pairs] == ["p01", "p02", "p03", "p04", "p05"]
    assert len(pairs) == REGRESSIONS
    assert all(first.correct and not second.correct and first.sample == 1 for first, second in pairs)
    gained = [dataclasses.replace(one, correct=one.sample == 0) for one in before[:2]]
    assert regressions(gained, [dataclasses.replace(one, correct=not one.correct) for one in gained]) == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium-headless-shell")
def test_a_browser_draws_the_page_in_light_and_dark_and_prints_it(page, tmp_path):
    def draw(*options):
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,3400", *options]
        subprocess.run([*command, (tmp_path / "page.html").as_uri()], check=True, capture_output=True, timeout=120)

    draw(f"--screenshot={tmp_path / 'light.png'}")
    draw(f"--screenshot={tmp_path / 'dark.png'}", "--blink-settings=preferredColorScheme=0")
    draw(f"--print-to-pdf={tmp_path / 'page.pdf'}")
    light, dark = (matplotlib.image.imread(tmp_path / f"{name}.png")[..., :3] for name in ("light", "dark"))
    assert light.shape == dark.shape == (3400, 1000, 3)
    assert light.mean() > 0.85 > 0.35 > dark.mean()
    for shot in (light, dark):  # something is drawn in every part of the page, and bars and points in colour
        assert all(part.std() > 0.01 for part in np.split(shot, 4))
        assert (np.ptp(shot, axis=2) > 0.3).mean() > 0.002
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
