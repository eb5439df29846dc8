"""Ways of stopping by name, as ``reason-rl eval --stop`` and the recipe's ``eval.stop`` ask for them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from reason_rl.errors import RecipeError
from reason_rl.stopping.rule import Elicitor, StopPolicy
from reason_rl.stopping.rules.budget_forcing import BudgetForcing
from reason_rl.stopping.rules.no_thinking import NoThinking
from reason_rl.stopping.temperature import TemperatureStop
from reason_rl.stopping.workflow import load_exit

if TYPE_CHECKING:
    from reason_rl.stopping.setting import Setting


def named_policy(name: str, setting: Setting) -> StopPolicy:
    """Return the policy of a name.

    ``strength:X``: the stop token scaled by X. ``budget:TOKENS``: thinking closed after so many think tokens, then a greedy
    answer. ``no_thinking``: closed before it starts. ``probe:FOLDER``: certified exits of a probe, under the conditions of
    its certificate only.

    Raises:
        RecipeError: for a strength or probe that cannot be used here.
    """
    kind, _, value = name.partition(":")
    tokens = setting.backend.tokens
    if kind in ("budget", "no_thinking") and setting.recipe.model.end_think_token is None:
        raise RecipeError(
            f"eval.stop {name}: closes thinking, and model.end_think_token is null: this model does not think"
        )
    if kind == "strength":
        try:
            return StopPolicy(edit=TemperatureStop(float(value), tokens))
        except ValueError as error:
            raise RecipeError(f"eval.stop {name}: {error}") from None
    if kind == "budget":
        closing = Elicitor((tokens.end,), setting.sampling.max_tokens, tokens.eos)
        return StopPolicy(rule=BudgetForcing(tokens.end, closing, int(value)))
    if kind == "no_thinking":
        return StopPolicy(rule=NoThinking((tokens.end,), tokens.end))
    chosen = load_exit(setting, Path(value))
    for warning in chosen.warnings:
        print(f"reason-rl: NOT certified here: {warning}", file=sys.stderr)
    return chosen.policy
