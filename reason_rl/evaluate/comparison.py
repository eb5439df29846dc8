"""One start model against several runs on the same problems: everything `compare` prints, as plain JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from reason_rl.errors import RecipeError
from reason_rl.evaluate.accuracy import average_at_k, majority_at_k, pass_at_k, pass_at_tokens
from reason_rl.evaluate.anytime import area_under, cap_curve, cap_grid, overthinking_area
from reason_rl.evaluate.cost import H100, ModelShape, mean_decode_seconds, sequence_flops, shape_of
from reason_rl.evaluate.efficiency import aes_estimate, cost_of_pass, e3, frontier_cost_of_pass
from reason_rl.evaluate.estimate import share_estimate
from reason_rl.evaluate.grid import Grid, Samples, to_grid
from reason_rl.evaluate.noninferiority import MARGIN, holm, mcnemar, noninferiority, sign_flip
from reason_rl.evaluate.overthinking import reflection
from reason_rl.evaluate.pairing import make_pair, only
from reason_rl.evaluate.pareto import frontier, hypervolume_estimate
from reason_rl.evaluate.records import EvalRows, read_rows
from reason_rl.evaluate.savings import MATCHED_RESAMPLES, MATCHED_SHARES, matched_saving
from reason_rl.evaluate.statistics import paired_summary
from reason_rl.evaluate.tokens import by_difficulty, length_gap

BATCHES = (1, 64)
Caps: TypeAlias = Float[np.ndarray, " caps"]


def compare_files(
    base: Path, runs: Sequence[Path], *, model_config: Path | None = None, prompt_tokens: int = 200, **options: Any
) -> dict[str, Any]:
    """Compare evaluations by their files; with the models' config.json, the idealised cost of each as well.

    Args:
        base: JSONL of the start model.
        runs: JSONL of the others; each is named after its file, or after its whole path where names are equal.
        model_config: config.json of the models.
        prompt_tokens: for the idealised cost.
        options: of `comparison`.

    Raises:
        RecipeError: when the files are no pairs, or there is no such config.json.
    """
    stems = [path.stem for path in runs]
    names = [path.stem if stems.count(path.stem) == 1 else str(path) for path in runs]
    if len(set(names)) < len(names):
        raise RecipeError(f"{next(name for name in names if names.count(name) > 1)}: is given more than once")
    start, sides = read_rows(base), {name: read_rows(path) for name, path in zip(names, runs, strict=True)}
    result = comparison(start, sides, **options)
    if model_config is not None:
        shape = _read_shape(model_config)
        start, sides = on_common_problems(start, sides)
        for entry, side in zip(result["runs"], sides.values(), strict=True):
            entry["ideal_cost"] = ideal_cost(start, side, shape, prompt_tokens)
    return result


def on_common_problems(
    base: EvalRows, runs: Mapping[str, EvalRows], allow_different: bool = True
) -> tuple[EvalRows, dict[str, EvalRows]]:
    """Return the rows of the problems that all evaluations have.

    Raises:
        RecipeError: when a run is no pair of the start model, or there is no such problem.
    """
    pairs = [make_pair(base, run, allow_different) for run in runs.values()]
    common = set.intersection(*({row.problem_id for row in pair.before.rows} for pair in pairs))
    if not common:
        raise RecipeError("not comparable: no problem is common to all evaluations")
    return only(base, common), {name: only(run, common) for name, run in runs.items()}


def _read_shape(path: Path) -> ModelShape:
    file = path / "config.json" if path.is_dir() else path
    try:
        return shape_of(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RecipeError(f"--model-config: {file} cannot be read ({error})") from error
    except KeyError as error:
        raise RecipeError(f"--model-config: {file} is no decoder's configuration: it lacks {error}") from error


def comparison(
    base: EvalRows,
    runs: Mapping[str, EvalRows],
    *,
    allow_different: bool = False,
    margin: float = MARGIN,
    dollars_per_million_tokens: float | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare each run with the start model, and all of them as points of one Pareto picture.

    Args:
        base: rows of the start model.
        runs: rows of the others, by the name they are printed under.
        allow_different: reduce everything to the problems common to all, and compare different caps or samplings.
        margin: loss of accuracy that counts as none, a share.
        dollars_per_million_tokens: price of completion tokens; None = the price in each run's header, if there is one.
        resamples: of each bootstrap.
        seed: of each bootstrap.

    Raises:
        RecipeError: when a run is no pair of the start model, naming all that differs.
    """
    differences = {name: list(make_pair(base, run, allow_different).differences) for name, run in runs.items()}
    start, sides = on_common_problems(base, runs, allow_different)
    # One grid of caps for all, or the areas would not compare.
    caps = cap_grid(*(to_grid(rows.rows).completion_tokens for rows in (start, *sides.values())))
    entries = []
    for name, side in sides.items():
        summary = paired_summary(start, side, resamples=resamples, seed=seed, allow_different=allow_different)
        before, after = to_grid(start.rows), to_grid(side.rows)
        prices = [
            rows.header.get("dollars_per_million_tokens")
            if dollars_per_million_tokens is None
            else dollars_per_million_tokens
            for rows in (start, side)
        ]
        entries.append(
            {
                "name": name,
                **summary,
                "differences": differences[name],
                "start": {**describe(before, start, caps, prices[0]), "thinking": thinking(before, start, before)},
                "run": {**describe(after, side, caps, prices[1]), "thinking": thinking(after, side, before)},
                "trade": trade(before, after, margin, resamples, seed),
            }
        )
    corrected = holm([entry["trade"]["p_value"] for entry in entries])
    for entry, p_value in zip(entries, corrected, strict=True):
        entry["trade"]["p_value_holm"] = p_value
    return {"runs": entries, "pareto": pareto(start, sides, seed)}


def describe(grid: Grid, rows: EvalRows, caps: Caps, dollars_per_million_tokens: float | None) -> dict[str, Any]:
    """Return what one evaluation says by itself: accuracies, lengths of right and wrong answers, cost, doubt."""
    k = grid.samples
    votes = majority_at_k(grid.answers, grid.correct, grid.completion_tokens, k)
    # Of all problems together: problem by problem it is infinite as soon as one is never solved.
    pooled = cost_of_pass(grid.correct.reshape(1, -1), grid.completion_tokens.reshape(1, -1))[0]
    tokens_per_pass = float(pooled) if np.isfinite(pooled) else None
    area = None
    if caps[0] < caps[-1]:
        area = area_under(caps, cap_curve(grid.correct, grid.completion_tokens, caps).accuracy.mean(axis=0))._asdict()
    dollars = None
    if tokens_per_pass is not None and dollars_per_million_tokens is not None:
        dollars = tokens_per_pass * dollars_per_million_tokens / 1e6
    return {
        "model": rows.header.get("model"),
        "k": k,
        "average_at_k": average_at_k(grid.correct),
        "pass_at_k": share_estimate(pass_at_k(grid.correct, k)),
        "majority_at_k": {**share_estimate(votes.accuracy), "tokens": float(votes.tokens.mean())},
        "e3": e3(100 * float(grid.correct.mean()), float(grid.completion_tokens.mean())),
        "tokens_per_pass": tokens_per_pass,
        "dollars_per_pass": dollars,
        "never_solved": float((grid.correct.sum(axis=1) == 0).mean()),
        "anytime": area,
        "length_gap": length_gap(grid.correct, grid.completion_tokens),
        "reflection": reflection(
            [row.completion for row in rows.rows], [row.completion_tokens for row in rows.rows]
        )._asdict(),
    }


def thinking(grid: Grid, rows: EvalRows, start: Grid) -> dict[str, Any]:
    """Return what rows alone say of thinking too much: the overthinking area, and the chance of a right answer for so many
    tokens as the start model spends on one completion, its mean over all problems."""
    budget = float(start.completion_tokens.mean())
    right = pass_at_tokens(grid.correct, grid.completion_tokens, budget)
    return {
        "overthinking_area": overthinking_area(grid.correct, grid.think_tokens, int(rows.header["max_tokens"])),
        "pass_at_tokens": {**share_estimate(right), "budget_tokens": budget},
    }


def trade(before: Grid, after: Grid, margin: float, resamples: int, seed: int) -> dict[str, Any]:
    """Return what the pair says: AES, tokens saved at matched accuracy, whether accuracy held, and by difficulty."""
    caps = cap_grid(before.completion_tokens, after.completion_tokens)
    first, second = (cap_curve(side.correct, side.completion_tokens, caps) for side in (before, after))
    sides = before.correct, before.completion_tokens, after.correct, after.completion_tokens
    return {
        "aes": aes_estimate(*sides, resamples=resamples, seed=seed),
        "matched_saving": {
            str(share): matched_saving(first, second, share, min(resamples, MATCHED_RESAMPLES), seed)
            for share in MATCHED_SHARES
        },
        "noninferiority": noninferiority(before.correct, after.correct, margin)._asdict(),
        "p_value": p_value(before.correct, after.correct, seed),
        "by_difficulty": {
            side: by_difficulty(before.correct, grid.correct, grid.completion_tokens)
            for side, grid in (("start", before), ("run", after))
        },
    }


def p_value(base_correct: Samples, correct: Samples, seed: int = 0) -> float:
    """Return the two-sided p-value of a change of accuracy: McNemar for one sample a problem, sign flips for more."""
    difference = correct.mean(axis=1) - base_correct.mean(axis=1)
    if base_correct.shape[1] == correct.shape[1] == 1:
        return mcnemar(int((difference > 0).sum()), int((difference < 0).sum()))
    return sign_flip(difference, seed=seed)


def pareto(base: EvalRows, runs: Mapping[str, EvalRows], seed: int = 0) -> dict[str, Any]:
    """Return the points (tokens, accuracy), which of them are on the frontier, the hypervolume, the frontier cost-of-pass.

    The reference is the start model's cap and accuracy 0: what thinks up to the cap and is never right. The frontier
    cost-of-pass is in completion tokens, without an expert; None when some problem is solved by nobody.
    """
    names = ["start", *runs]
    grids = [to_grid(rows.rows) for rows in (base, *runs.values())]
    tokens = np.stack([grid.completion_tokens.mean(axis=1) for grid in grids], axis=1)
    accuracy = np.stack([grid.correct.mean(axis=1) for grid in grids], axis=1)
    points = np.stack([tokens.mean(axis=0), accuracy.mean(axis=0)], axis=1)
    costs = np.stack([cost_of_pass(grid.correct, grid.completion_tokens) for grid in grids], axis=1)
    unsolved = float(np.isinf(costs).all(axis=1).mean())
    reference = (float(base.header["max_tokens"]), 0.0)
    return {
        "points": [
            {"name": name, "tokens": t, "accuracy": a} for name, (t, a) in zip(names, points.tolist(), strict=True)
        ],
        "frontier": [names[i] for i in frontier(points)],
        "reference": {"tokens": reference[0], "accuracy": reference[1]},
        "hypervolume": hypervolume_estimate(tokens, accuracy, reference, seed=seed),
        "frontier_tokens_per_pass": None if unsolved else frontier_cost_of_pass(costs),
        "solved_by_none": unsolved,
    }


def ideal_cost(base: EvalRows, run: EvalRows, shape: ModelShape, prompt_tokens: int) -> dict[str, Any]:
    """Return FLOPs a sequence and ideal decoding seconds of both sides, and the share saved, at several batch sizes.

    Args:
        base: rows of the start model.
        run: rows of the other, of the same shape.
        shape: of both models.
        prompt_tokens: of each prompt.
    """
    lengths = [to_grid(rows.rows).completion_tokens for rows in (base, run)]
    flops = [float(np.mean(sequence_flops(shape, prompt_tokens, side))) for side in lengths]
    costs: dict[str, Any] = {"device": H100.name, "prompt_tokens": prompt_tokens, "flops": _saved(*flops)}
    for batch in BATCHES:
        seconds = [mean_decode_seconds(shape, prompt_tokens, side, batch) for side in lengths]
        costs[f"seconds_batch_{batch}"] = _saved(*seconds)
    return costs


def _saved(before: float, after: float) -> dict[str, float]:
    return {"start": before, "run": after, "saved": 1 - after / before}
