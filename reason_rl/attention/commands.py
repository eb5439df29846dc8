"""``reason-rl heads`` and ``reason-rl prune``; torch is imported inside a command."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from reason_rl.terminal import AsJson, Overrides, RecipeName, emit, say


class RankHeads(enum.StrEnum):
    """What heads are ranked by."""

    gates = "gates"
    norm = "norm"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(heads)
    app.command()(prune)


def heads(
    recipe: RecipeName,
    out: Annotated[Path, typer.Option(help="Where the model with its gates goes.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Teach the recipe's model to work at several head budgets (attention.heads), distilled from itself."""
    from reason_rl.attention.heads_run import teach_heads
    from reason_rl.recipe.load import load_recipe

    result = teach_heads(load_recipe(recipe, overrides or []).recipe, out, say)
    shares = ", ".join(f"{budget}: {share:.2f}" for budget, share in result["gates"].items())
    emit(result, as_json, f"{out}: mean gate by budget {shares}")


def prune(
    model: Annotated[str, typer.Argument(help="Folder or name of the model.", show_default=False)],
    budget: Annotated[float, typer.Option(help="Share of the attention heads to keep.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the smaller model goes; default: outputs/<model>-heads-<budget>.")
    ] = None,
    rank: Annotated[
        RankHeads, typer.Option(help="By the model's gates, or by the norms of weights.")
    ] = RankHeads.gates,
    tokens: Annotated[int | None, typer.Option(min=1, help="Prompt tokens for the speed; default: 2048.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measured passes of each model.")] = 5,
    recipe: Annotated[str | None, typer.Option(help="Also evaluate both on this recipe's eval problems.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="First so many eval problems only.")] = None,
    as_json: AsJson = False,
) -> None:
    """Cut heads out: a smaller model of the same architecture, and how much faster it is (a ratio in one run)."""
    from reason_rl.attention.prune_run import PruneOptions, prune_model

    named = Path(model).parent if Path(model).name == "model" else Path(model)  # a run keeps its model in <run>/model
    out = out or Path("outputs") / f"{named.name}-heads-{budget:g}"
    result = prune_model(model, out, PruneOptions(budget, rank.value, tokens, repeats))
    if recipe is not None:
        result["accuracy"] = _accuracy(recipe, model, out, limit)
    emit(result, as_json, _prune_text(result, out))


def _accuracy(recipe: str, model: str, out: Path, limit: int | None) -> dict[str, float]:
    """Evaluate the model before and after on a recipe's eval problems."""
    from reason_rl.evaluate.suites import EvalChanges, evaluate_recipe

    changes = EvalChanges(limit=limit)
    sides = {"before": None, "after": out}
    found = {
        side: evaluate_recipe(recipe, [f"model.path={model}"], folder, changes, out / "eval" / f"{side}.jsonl")
        for side, folder in sides.items()
    }
    return {side: summary["accuracy"] for side, summary in found.items()}


def _prune_text(result: dict[str, Any], out: Path) -> str:
    before, after = result["parameters"]["before"], result["parameters"]["after"]
    lines = [
        f"{out}: {result['kept']:.0%} of the heads of every layer kept ({result['asked']:.0%} asked for), "
        f"{before:,} -> {after:,} parameters",
        f"prefill of {result['prompt_tokens']} tokens: {result['speed_up']:.2f} times as fast; largest difference to the "
        f"masked model's logits {result['largest_logit_difference']:.1e}",
    ]
    if "accuracy" in result:
        lines.append(f"accuracy: {result['accuracy']['before']:.1%} -> {result['accuracy']['after']:.1%}")
    return "\n".join(lines)
