"""What the stopping commands work on: a recipe's model, its thinking tokens, its problems and its grader."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason_rl.answer.verify import make_verifier
from reason_rl.errors import RecipeError
from reason_rl.models import context_tokens, end_think_id, load_model, load_tokenizer, to_accelerator
from reason_rl.problem.prompt import check_context, render_prompts
from reason_rl.problem.record import Problem
from reason_rl.problem.sources import load_problems
from reason_rl.rollout.backend import Backend
from reason_rl.rollout.engines import make_backend
from reason_rl.rollout.grading import Grader
from reason_rl.stopping.artefact import Conditions, Fingerprint, ProbeCard, fingerprint, load_probe
from reason_rl.stopping.generate import StoppingBackend
from reason_rl.stopping.probe import Probe
from reason_rl.stopping.rule import Elicitor, StopPolicy
from reason_rl.stopping.rules.probe_exit import ProbeExit
from reason_rl.stopping.thinking import think_tokens, whole_completion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from reason_rl.recipe.schema import EvalSection, Recipe

# Closes thinking and opens the answer's box; the end-of-think token of the recipe goes in front.
ANSWER_OPENING = "\n\n\\boxed{"
PLAIN_OPENING = "\n\nThe final answer is \\boxed{"  # of a model that does not think
ENGINES = ("hf", "vllm")  # that exits by a probe are there for


@dataclass(frozen=True)
class Setting:
    """An opened recipe; ``sampler`` writes full traces with the recipe's engine, ``backend`` decodes under any rule."""

    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    backend: StoppingBackend
    sampler: Backend
    grader: Grader

    @property
    def sampling(self) -> EvalSection:
        """How the recipe's evaluation samples."""
        assert self.recipe.eval is not None
        return self.recipe.eval

    def eval_problems(self, levels: Sequence[int] = ()) -> list[Problem]:
        """Return the problems of the recipe's evaluation, of some levels only where given.

        Raises:
            RecipeError: when none is of these levels.
        """
        return self.problems(self.sampling.data, self.sampling.limit, levels)

    def under(self, policy: StopPolicy) -> Backend:
        """Return what decodes under a policy with the recipe's engine; vllm knows exits by a probe only."""
        if self.recipe.rollout.engine == "hf":
            return self.backend.under(policy)
        from reason_rl.stopping.vllm_exit import VLLMExits

        assert isinstance(policy.rule, ProbeExit)
        return VLLMExits(self.sampler, policy.rule, self.backend.tokens)  # type: ignore[arg-type]

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

    def open_probe(self, folder: Path) -> tuple[Probe, ProbeCard]:
        """Read a probe that was made with this model.

        Raises:
            RecipeError: for a probe of another model or tokenizer, or one that was fitted with another end of thinking.
        """
        probe, card = load_probe(folder, self.fingerprint())
        end = self.recipe.model.end_think_token
        if card.end_think != end:
            raise RecipeError(
                f"model.end_think_token: {end or 'null'}, and the probe in {folder} was fitted with "
                f"{card.end_think or 'null'}; set it so, or fit a probe for this one"
            )
        return probe, card

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
            grader=f"{self.recipe.answer.verify}/{self.recipe.answer.find}",
            end_think=self.recipe.model.end_think_token,
            engine=self.recipe.rollout.engine,
        )


@contextlib.contextmanager
def open_setting(recipe: Recipe, folder: Path | None = None, engines: Sequence[str] = ("hf",)) -> Iterator[Setting]:
    """Load model, tokenizer, grader and engine of a recipe while the block runs.

    Args:
        recipe: needs an ``eval`` section.
        folder: a trained model or adapter to take instead.
        engines: that what follows can work with.

    Raises:
        RecipeError: without ``eval``, for an engine that cannot do it, or when model or data cannot be used.
    """
    if recipe.eval is None:
        raise RecipeError("eval: is missing; it says which problems to calibrate on and how to sample")
    if recipe.rollout.engine not in engines:
        raise RecipeError(
            f"rollout.engine {recipe.rollout.engine}: this decodes with {' or '.join(engines)}; override rollout.engine=hf"
        )
    tokenizer = load_tokenizer(recipe.model)
    model = load_model(recipe.model, folder=folder)
    if recipe.rollout.engine == "hf":
        model = to_accelerator(model)
    closing = end_think_id(tokenizer, recipe.model.end_think_token)
    if closing is None:
        tokens = whole_completion(model, tokenizer)
    else:
        tokens = think_tokens(model, tokenizer, recipe.model.end_think_token)
    backend = StoppingBackend(model, tokens, int(tokenizer.pad_token_id), max_batch_rows=recipe.rollout.max_batch_rows)
    sampler = make_backend(recipe, model, tokenizer)
    sampler.sync_weights(0)
    with make_verifier(recipe.answer.verify, recipe.answer.timeout_seconds) as verifier:
        yield Setting(recipe, tokenizer, backend, sampler, Grader(tokenizer, verifier, closing, recipe.answer.find))


def make_elicitor(setting: Setting, text: str | None, answer_tokens: int) -> Elicitor:
    r"""Return the elicitor of a text; by default the end-of-think token and ``\boxed{``.

    A model that does not think has nothing to close: its elicitor only opens the answer, and must not end the completion.

    Raises:
        RecipeError: unless the text closes thinking exactly once, where there is thinking, and the tokenizer can write it.
    """
    end = setting.recipe.model.end_think_token
    default = PLAIN_OPENING if end is None else f"{end}{ANSWER_OPENING}"
    written = text if text is not None else default
    ids = tuple(setting.tokenizer(written, add_special_tokens=False).input_ids)
    tokens = setting.backend.tokens
    wanted = ("never", 0) if end is None else ("once", 1)
    if ids.count(tokens.end) != wanted[1]:
        name = end or "the end of a completion"
        raise RecipeError(f"elicitor {written!r}: holds {name} {ids.count(tokens.end)} times; {wanted[0]} is wanted")
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
