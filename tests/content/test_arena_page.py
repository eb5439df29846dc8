"""The committed arena: its table follows from its cells, and what docs/arena.md says from its table."""

import json
from pathlib import Path

import pytest

from reason_rl.bench.arena import made_cells
from reason_rl.evaluate.arena import RESAMPLES, arena_table, side_of
from reason_rl.evaluate.estimate import estimate, resampled_means
from reason_rl.report.arena import arena_markdown
from reason_rl.report.tables import cut_parts, figure

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "eval" / "arena"
LEVELS = ("short", "medium", "long", "plain")
TABLE = json.loads((FOLDER / "table.json").read_text())


def rounded(value):
    """Return JSON with ten digits a number: the last bits depend on the processor."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return float(f"{value:.10g}") if isinstance(value, float) else value


def test_the_table_is_that_of_the_cells():
    assert rounded(json.loads(json.dumps(arena_table(made_cells(FOLDER))))) == rounded(TABLE)


def test_the_page_shows_every_method_as_the_table_has_it():
    assert arena_markdown(TABLE) in (ROOT / "docs" / "arena.md").read_text()


def test_the_methods_pages_show_their_rows():
    shown = [
        line
        for page in sorted((ROOT / "docs" / "methods").glob("*.md"))
        for table in page.read_text().split("| in the [arena](../arena.md) |")[1:]
        for line in table.split("\n\n")[0].splitlines()[2:]
    ]
    assert sorted(shown) == sorted(
        f"| `{name}` | {entry['seeds']} | {figure('accuracy', entry['accuracy_difference'], signed=True)} | "
        f"{cut_parts(entry['token_cut'])} |"
        for name, entry in TABLE["methods"].items()
    )


def test_the_page_names_the_methods_with_another_learning_rate():
    rates = {cell["method"]: cell["learning_rate"] for cell in made_cells(FOLDER) if "method" in cell}
    assert set(rates.values()) == {2e-4, 3e-4}
    named = (ROOT / "docs" / "arena.md").read_text().split("Learning rate 2e-4;")[1].split("from a sweep")[0]
    assert set(named.split("`")[1::2]) == {name for name, rate in rates.items() if rate == 3e-4}


@pytest.mark.parametrize("name", TABLE["methods"])
def test_all_methods_had_the_same_rollout_tokens(name):
    # The last rollout batch may go over, by one batch.
    assert 1 <= TABLE["methods"][name]["rollout_tokens"] / 245_760 < 1.2


def test_what_the_page_says_holds_does():
    held = {
        name
        for name, entry in TABLE["methods"].items()
        if entry["token_cut"]["mean"] >= 0.40 and entry["accuracy_difference"]["mean"] >= -0.01
    }
    assert held == {
        "dler",
        "dler_rpa",
        "dler_rpa_guardian",
        "pass_rate_band",
        "cispo",
        "rloo",
        "bnpo",
        "dr_grpo",
        "dapo",
        "siri",
        "reinforce_pp",
        "cures_cap80",
        "grpo_cap80",
    }
    assert TABLE["methods"]["grpo"]["token_cut"]["high"] < 0.10
    assert {name for name in held if TABLE["methods"][name]["accuracy_held"]} == {"pass_rate_band"}


def side(method):
    cells = [cell for cell in made_cells(FOLDER) if cell.get("method") == method]
    return side_of([cell["points"][-1] for cell in cells])


def difference(first, second):
    """Return the mean difference over problems, in points, with its 95 % interval, as pages write it."""
    paired = first - second
    draws = resampled_means(paired[:, None], RESAMPLES)[:, 0]
    return figure("accuracy", estimate(float(paired.mean()), draws, len(paired)), signed=True)


def right_within(method, cap):
    """Return the share of each problem's completions that are right and no longer than the cap, all seeds together."""
    found = side(method)
    return (found.correct * (found.tokens <= cap)).mean(axis=1)


@pytest.mark.parametrize(
    ("page", "method", "control"),
    [
        ("anytime_brpo", "anytime_brpo", "grpo_cap192"),
        ("cures", "cures_cap80", "grpo_cap80"),
    ],
)
def test_the_differences_within_caps_are_those_of_the_cells(page, method, control):
    caps = (48, 64, 80, 96, 128, 192, 384)
    row = " | ".join(difference(right_within(method, cap), right_within(control, cap)) for cap in caps)
    assert f"| {row} |" in (ROOT / "docs" / "methods" / f"{page}.md").read_text()


def test_choosing_problems_by_difficulty_is_ahead_of_dler_on_the_hardest_levels():
    band, dler = side("pass_rate_band"), side("dler")
    hard = band.levels >= 5
    shown = difference(band.correct.mean(axis=1)[hard], dler.correct.mean(axis=1)[hard])
    fewer = f"{dler.tokens.mean() - band.tokens.mean():.1f} tokens fewer"
    for page in ("arena.md", "methods/difficulty_budgets.md"):
        text = " ".join((ROOT / "docs" / page).read_text().split())
        assert shown.replace(" [", " points [") in text
        assert fewer in text


@pytest.mark.parametrize("name", ["da_dler", "laser_d", "budget_by_history", "budget_by_pass_rate"])
def test_what_budgets_by_difficulty_do_beside_uniform_caps_is_that_of_the_table(name):
    shown = figure("accuracy", TABLE["beside_uniform"][name]["difference"], signed=True)
    page = "difficulty_budgets" if name.startswith("budget_") else name
    for file in ("arena.md", f"methods/{page}.md"):
        assert shown in (ROOT / "docs" / file).read_text().replace(" points [", " [")


@pytest.mark.parametrize("cap", [192, 384])
def test_curves_in_the_wide_window_are_those_of_the_cells(cap):
    shown = difference(right_within("cures", cap), right_within("grpo_cap192", cap))
    for file in ("arena.md", "methods/cures.md"):
        assert shown in (ROOT / "docs" / file).read_text()


def test_the_levels_of_one_checkpoint_do_not_come_apart():
    for folder in ("arena", "arena_long"):
        asked = json.loads((ROOT / "eval" / folder / "table.json").read_text())["methods"]["tldr"]["asked"]
        tokens = [asked[level]["completion_tokens"]["mean"] for level in ("short", "medium", "long")]
        assert max(tokens) - min(tokens) < 3  # docs/arena.md says so


def test_the_levels_from_a_start_that_knows_them_are_those_of_the_results():
    lines = (ROOT / "results" / "tiny_tldr_levels.jsonl").read_text().splitlines()
    rows = {(row["seed"], row["asked"]): row for row in map(json.loads, lines)}
    page = " ".join((ROOT / "docs" / "methods" / "tldr.md").read_text().split())
    for seed in (None, 0, 1, 2):
        found = [rows[seed, level] for level in LEVELS if (seed, level) in rows]
        cells = [f"{row['completion_tokens']:.1f} ({100 * row['accuracy']:.1f} %)" for row in found]
        assert f"| {' | '.join(cells)} |" in page
    tokens = {key: row["completion_tokens"] for key, row in rows.items()}
    assert all(tokens[seed, "short"] < tokens[seed, "medium"] < tokens[seed, "long"] for seed in range(3))
    apart = [tokens[seed, "long"] - tokens[seed, "short"] for seed in (0, 1, 2, None)]
    first, second, third, start = (f"{distance:.1f}" for distance in apart)
    said = (
        f"{sum(apart[:3]) / 3:.1f} tokens in the mean ({first}, {second} and {third} in the three seeds) after {start}."
    )
    assert said in page
    lost = [f"{100 * (rows[None, 'medium']['accuracy'] - rows[seed, 'medium']['accuracy']):.1f}" for seed in range(3)]
    assert "Accuracy at medium falls by {}, {} and {} points".format(*lost) in page
    short, medium, long, plain = (f"{sum(tokens[seed, level] for seed in range(3)) / 3:.0f}" for level in LEVELS)
    means = f"({short}, {medium} and {long} tokens; without a level {plain})"
    assert means in (ROOT / "docs" / "arena.md").read_text()


def test_lengths_fall_in_every_half_cycle():
    kept = json.loads((ROOT / "eval" / "arena_long" / "table.json").read_text())["methods"]["siri"]["kept"]
    tokens = [kept[f"{end}-{cycle}"]["completion_tokens"] for cycle in range(1, 5) for end in ("low", "high")]
    assert tokens == sorted(tokens, reverse=True)
