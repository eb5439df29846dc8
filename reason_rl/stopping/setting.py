"""What the stopping commands work on: a recipe's model, its thinking tokens, its problems and its grader."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason_rl.answer.verify import make_verifier
from reason_rl.errors import RecipeError
from reason_rl.models import context_tokens, load_model, load_tokenizer
from reason_rl.problem.prompt import check_context, render_prompts
from reason_rl.problem.record import Problem
from reason_rl.problem.sources import load_problems
from reason_rl.rollout.grading import Grader
from reason_rl.stopping.artefact import Conditions, Fingerprint, ProbeCard, fingerprint
from reason_rl.stopping.generate import StoppingBackend
from reason_rl.stopping.probe import Probe
from reason_rl.stopping.rule import Elicitor
from reason_rl.stopping.thinking import think_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from reason_rl.recipe.schema import EvalSection, Recipe

# Closes thinking and opens the answer's box; the end-of-think token of the recipe goes in front.
ANSWER_OPENING = "\n\n\\boxed{"


@dataclass(frozen=True)
class Setting:
    """An opened recipe."""

    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    backend: StoppingBackend
    grader: Grader

    @property
    def sampling(self) -> EvalSection:
        """How the recipe's evaluation samples."""
        assert self.recipe.eval is not None
        return self.recipe.eval

    def problems(self, data: Any, count: int | None = None, levels: Sequence[int] = ()) -> list[Problem]:
        """Return the problems of a data section, of some levels only where given, the first ``count`` of them.

        Raises:
            RecipeError: when none is of these levels.
        """
        problems = [p for p in load_problems(data) if not levels or p.level in levels]
        if not problems:
            raise RecipeError(f"--level {' '.join(map(str, levels))}: no problem of the data is of such a level")
        return problems[:count]

    def prompts(self, problems: Sequence[Problem]) -> list[tuple[int, ...]]:
        """Return their prompts as token ids.

        Raises:
            RecipeError: when one does not fit into the context with the cap.
        """
        prompts = render_prompts(problems, self.tokenizer, self.recipe.prompt)
        check_context(problems, prompts, self.sampling.max_tokens, context_tokens(self.backend.model))
        return prompts

    def fingerprint(self) -> Fingerprint:
        """Return the fingerprint of model and tokenizer."""
        return fingerprint(self.backend.model, self.tokenizer)

    def conditions(self, probe: Probe, card: ProbeCard) -> Conditions:
        """Return the conditions that a threshold certified now would hold under."""
        sampling = self.sampling
        names = ("temperature", "top_p", "top_k", "max_tokens")
        return Conditions(
            fingerprint=card.fingerprint,
            probe=probe.digest(),
            cues=card.cues.describe(),
            elicitor=asdict(card.elicitor),
            prompt=self.recipe.prompt.model_dump(),
            sampling={name: getattr(sampling, name) for name in names},
            grader=self.recipe.answer.verify,
        )


@contextlib.contextmanager
def open_setting(recipe: Recipe, folder: Path | None = None) -> Iterator[Setting]:
    """Load model, tokenizer and grader of a recipe while the block runs.

    Args:
        recipe: needs an ``eval`` section.
        folder: a trained model or adapter to take instead.

    Raises:
        RecipeError: without ``eval``, for a model that does not think, or when model or data cannot be used.
    """
    if recipe.eval is None:
        raise RecipeError("eval: is missing; it says which problems to calibrate on and how to sample")
    if recipe.rollout.engine != "hf":
        raise RecipeError(
            f"rollout.engine {recipe.rollout.engine}: stopping decodes with hf; override rollout.engine=hf"
        )
    tokenizer = load_tokenizer(recipe.model)
    model = load_model(recipe.model, folder=folder)
    tokens = think_tokens(model, tokenizer, recipe.model.end_think_token)
    backend = StoppingBackend(model, tokens, int(tokenizer.pad_token_id), max_batch_rows=recipe.rollout.max_batch_rows)
    with make_verifier(recipe.answer.verify, recipe.answer.timeout_seconds) as verifier:
        yield Setting(recipe, tokenizer, backend, Grader(tokenizer, verifier, tokens.end, recipe.answer.find))


def make_elicitor(setting: Setting, text: str | None, answer_tokens: int) -> Elicitor:
    r"""Return the elicitor of a text; by default the end-of-think token and ``\boxed{``.

    Raises:
        RecipeError: unless the text closes thinking exactly once and the tokenizer can write it.
    """
    end = setting.recipe.model.end_think_token
    written = text if text is not None else f"{end}{ANSWER_OPENING}"
    ids = tuple(setting.tokenizer(written, add_special_tokens=False).input_ids)
    tokens = setting.backend.tokens
    if ids.count(tokens.end) != 1:
        raise RecipeError(f"elicitor {written!r}: holds {end} {ids.count(tokens.end)} times; once is wanted")
    if setting.tokenizer.unk_token_id in ids and setting.tokenizer.unk_token_id is not None:
        raise RecipeError(f"elicitor {written!r}: the tokenizer cannot write it")
    return Elicitor(ids, answer_tokens, tokens.eos)


def check_disjoint(problems: Sequence[Problem], used: Sequence[str], what: str) -> None:
    """Raise RecipeError when calibration problems were used before: a guarantee would not hold for them.

    Raises:
        RecipeError: naming how many and one of them.
    """
    shared = sorted({problem.id for problem in problems} & set(used))
    if shared:
        raise RecipeError(
            f"calibration: {len(shared)} of {len(problems)} problems ({shared[0]} ...) were {what}; "
            "set eval.data to others, for instance eval.data.split=calibration"
        )
