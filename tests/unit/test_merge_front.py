"""The front of merges: a true quadratic is found again, and the front is that of all grid points."""

import json

import numpy as np
import pytest

from reason_rl.cli import app
from reason_rl.errors import RecipeError
from reason_rl.merge.front import fit, front, read_merges


def quadratic(weights, constant, linear, curvature):
    return constant + weights @ linear + np.einsum("pi,ij,pj->p", weights, curvature, weights) / 2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_true_quadratic_is_found_again(count):
    rng = np.random.default_rng(count)
    weights = rng.uniform(0, 1, (15, count))
    half = rng.normal(size=(count, count))
    truth = (0.3, rng.normal(size=count), half + half.T)
    found = fit(weights, quadratic(weights, *truth))
    np.testing.assert_allclose(found.constant, truth[0], atol=1e-8)
    np.testing.assert_allclose(found.linear, truth[1], atol=1e-8)
    np.testing.assert_allclose(found.curvature, truth[2], atol=1e-8)
    assert found.r_squared == pytest.approx(1.0)
    elsewhere = rng.uniform(0, 1, (5, count))
    np.testing.assert_allclose(found.at(elsewhere), quadratic(elsewhere, *truth), atol=1e-8)


@pytest.fixture
def merges():
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.2, 1.0, (9, 2))
    accuracy = quadratic(weights, 0.5, np.array([0.6, 0.1]), np.array([[-0.6, 0.1], [0.1, -0.4]]))
    tokens = quadratic(weights, 100.0, np.array([300.0, -80.0]), np.array([[50.0, 0.0], [0.0, 90.0]]))
    rows = zip(weights.tolist(), accuracy, tokens, strict=True)
    return [{"weights": w, "accuracy": float(a), "completion_tokens": float(t)} for w, a, t in rows]


def test_the_front_is_that_of_all_grid_points(merges):
    found = front(merges, 9)["front"]
    weights = np.array([row["weights"] for row in merges])
    axes = [np.linspace(weights[:, k].min(), weights[:, k].max(), 9) for k in range(2)]
    grid = np.array([(a, b) for a in axes[0] for b in axes[1]])
    accuracy = fit(weights, np.array([row["accuracy"] for row in merges])).at(grid)
    tokens = fit(weights, np.array([row["completion_tokens"] for row in merges])).at(grid)
    wanted = [
        i
        for i in range(len(grid))
        if not any(
            (tokens[j] <= tokens[i] and accuracy[j] >= accuracy[i])
            and (tokens[j], accuracy[j]) != (tokens[i], accuracy[i])
            for j in range(len(grid))
        )
    ]
    assert sorted(tuple(row["weights"]) for row in found) == sorted(tuple(grid[i]) for i in wanted)
    lengths = [row["completion_tokens"] for row in found]
    assert lengths == sorted(lengths)


def test_too_little_to_go_by(merges):
    with pytest.raises(RecipeError, match="5 merges do not determine 6 unknowns"):
        front(merges[:5], 5)
    with pytest.raises(RecipeError, match="9 merges do not determine 6 unknowns"):
        front([{**row, "weights": [0.5, row["weights"][1]]} for row in merges], 5)
    with pytest.raises(RecipeError, match=r"rows of \[1, 2\] weights"):
        front([*merges, {**merges[0], "weights": [0.5]}], 5)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"weights": 0.8}, "weights is no list"),
        ({"weights": ["a"]}, "a is no finite number"),
        ({"accuracy": None}, "None is no finite number"),
        ({"completion_tokens": float("inf")}, "inf is no finite number"),
    ],
)
def test_a_line_that_holds_no_numbers_is_named(merges, tmp_path, changed, why):
    file = tmp_path / "merges.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (merges[0], {**merges[1], **changed})))
    with pytest.raises(RecipeError, match=rf"merges.jsonl:2: needs weights, accuracy, completion_tokens \({why}\)"):
        read_merges(file)


def test_the_command(merges, tmp_path, capsys):
    file = tmp_path / "merges.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in merges))
    app(["merge-front", str(file), "--steps", "5", "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == front(merges, 5)
    app(["merge-front", str(file)], standalone_mode=False)
    assert "accuracy: R2 1.000 on the merges it was fitted to" in capsys.readouterr().out
    file.write_text('{"weights": [1]}\n')
    with pytest.raises(RecipeError, match=r"merges.jsonl:1: needs weights, accuracy, completion_tokens"):
        app(["merge-front", str(file)], standalone_mode=False)
