"""What a report leaves beside its page: drawings as files, a model card, and a page that a browser draws."""

import json
import re
import shutil
import subprocess

import httpx
import huggingface_hub
import pytest
import yaml
from huggingface_hub.errors import HfHubHTTPError

from reason_rl import cli
from reason_rl.errors import RunError
from reason_rl.report.card import card, publish
from reason_rl.report.figure_files import write_figures
from reason_rl.run_folder import RunFolder

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"))), None
)
PNG = b"\x89PNG\r\n"
SIDE = {"mean": 0.8, "low": 0.7, "high": 0.9}
SUMMARY = {
    "problems": 40,
    "samples": 2,
    "accuracy_margin": 0.01,
    "accuracy_held": True,
    "sampling": {"max_tokens": 512, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 1},
    "metrics": {
        "accuracy": {"before": SIDE, "after": SIDE, "difference": {"mean": 0.0, "low": -0.005, "high": 0.005}},
        "completion_tokens": {
            "before": {"mean": 100.0, "low": 90.0, "high": 110.0},
            "after": {"mean": 40.0, "low": 35.0, "high": 45.0},
            "difference": {"mean": -60.0, "low": -70.0, "high": -50.0},
        },
    },
}
RECIPE = {
    "model": {"path": "base/model"},
    "about": {"method": "DLER"},
    "eval": {"data": {"use": "hub", "name": "openai/gsm8k"}},
}


@pytest.fixture
def page(tmp_path):
    inner = '<g id="lengths-a"><rect width="40" height="20" fill="var(--after)"/></g>'
    drawing = f'<svg role="img" aria-label="d" viewBox="0 0 40 20">{inner}</svg>'
    path = tmp_path / "page.html"
    path.write_text(
        f"<!doctype html><title>t</title><body>{drawing}<p>between</p>{drawing.replace('lengths', 'curves')}</body>"
    )
    return path


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.model.mkdir(parents=True)
    run.summary.write_text(json.dumps(SUMMARY))
    run.resolved.write_text(yaml.safe_dump(RECIPE))
    return run


def test_each_drawing_is_a_file_of_its_own(page, tmp_path):
    files = write_figures(page, tmp_path / "figures")
    assert [file.name for file in files] == ["1-lengths.svg", "1-lengths.png", "2-curves.svg", "2-curves.png"]
    assert "var(--" not in files[0].read_text()
    assert files[1].read_bytes().startswith(PNG)


def test_a_page_without_drawings_is_an_error(tmp_path):
    (tmp_path / "page.html").write_text("<p>nothing</p>")
    with pytest.raises(RunError, match="has no drawings"):
        write_figures(tmp_path / "page.html", tmp_path)
    with pytest.raises(RunError, match="no such page"):
        write_figures(tmp_path / "none.html", tmp_path)


def test_the_card_holds_the_results_where_the_hub_reads_them(run):
    path = publish(run, "me/short-thinker", dry_run=True)
    metadata = yaml.safe_load(path.read_text().split("---")[1])
    assert metadata["base_model"] == "base/model"
    result = metadata["model-index"][0]["results"][0]
    assert result["dataset"]["name"] == "openai/gsm8k"
    assert {m["type"]: m["value"] for m in result["metrics"]} == {"accuracy": 0.8, "completion_tokens": 40.0}
    assert (run.model / "recipe.yaml").read_text() == run.resolved.read_text()
    text = card(SUMMARY, RECIPE, "me/short-thinker")
    assert "# short-thinker" in text
    assert "| mean completion tokens | 100.0 [90.0, 110.0] | 40.0 [35.0, 45.0] | -60.0 [-70.0, -50.0] |" in text
    assert "40 held-out problems x 2 samples of `openai/gsm8k`; cap 512" in text
    own = {**RECIPE, "eval": {"data": {"use": "jsonl", "path": "data/mine.jsonl"}}}
    assert "2 samples of `mine`; cap 512" in card(SUMMARY, own, "me/short-thinker")


def test_an_unfinished_run_has_no_card(run):
    run.summary.unlink()
    with pytest.raises(RunError, match="finish the run first"):
        publish(run, "me/m", dry_run=True)


def fails(run, repository, said):
    with pytest.raises(RunError, match=rf"--push {repository}: {said}[^\n]*; the card is in [^\n]*$"):
        publish(run, repository, dry_run=False)
    assert (run.model / "README.md").is_file()


def test_a_push_that_the_hub_refuses_or_that_has_no_network_keeps_the_card(run, monkeypatch):
    refused = HfHubHTTPError("401: no\ntoken", response=httpx.Response(401, request=httpx.Request("POST", "http://x")))
    # What the client lets through: no OSError, so that it needs a test of its own.
    for error in (httpx.ConnectError("Name or service not known"), httpx.ReadTimeout(""), refused):

        def create(*_args, raised=error, **_options):
            raise raised

        monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
        fails(run, "me/m", re.escape(str(error).split("\n")[0]) or "ReadTimeout")


def test_a_push_to_what_is_no_name_keeps_the_card(run):
    fails(run, "me/m/x", "Repo id must be in the form")


def test_a_report_of_an_unfinished_run_says_what_there_is(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "accuracy": 0.5, "completion_tokens": 30.0}) + "\n")
    cli.app(["report", str(tmp_path), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "report.html")}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium-headless-shell")
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_draws_the_page(tmp_path, dark):
    (tmp_path / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"step": i, "accuracy": 0.5 + i / 50, "completion_tokens": 60.0 - i}) + "\n" for i in range(1, 9)
        )
    )
    cli.app(["report", str(tmp_path)], standalone_mode=False)
    shot = tmp_path / "page.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,1400", f"--screenshot={shot}"]
    if dark:
        options.append("--blink-settings=preferredColorScheme=0")
    subprocess.run(
        [CHROMIUM, *options, (tmp_path / "report.html").as_uri()], check=True, capture_output=True, timeout=120
    )
    dom = subprocess.run(
        [CHROMIUM, *options[:3], "--dump-dom", (tmp_path / "report.html").as_uri()],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    assert "<svg" in dom
    assert shot.read_bytes().startswith(PNG)
    # A blank page of this size has a fifth of that.
    assert shot.stat().st_size > 20_000
