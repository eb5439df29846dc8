"""The rules that are compared side by side: each with the settings that trace its accuracy-token curve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial

from torch import Tensor

from reason_rl.problem.record import Problem
from reason_rl.stopping.artefact import Certificate, ProbeCard
from reason_rl.stopping.cues import Cues, word_cues
from reason_rl.stopping.probe import Probe
from reason_rl.stopping.rule import ExitRule, StopPolicy
from reason_rl.stopping.rules.budget_forcing import BudgetForcing
from reason_rl.stopping.rules.concise_hint import ConciseHint
from reason_rl.stopping.rules.consistency import DYNASOR, AnswerConsistency
from reason_rl.stopping.rules.deer import Deer
from reason_rl.stopping.rules.diff_adapt import DiffAdapt, DifficultyProbe, shares_of
from reason_rl.stopping.rules.entropy import EntropyAfterThink
from reason_rl.stopping.rules.no_thinking import NoThinking
from reason_rl.stopping.rules.patience import patient
from reason_rl.stopping.rules.plan_budget import WORDS_BY_LEVEL
from reason_rl.stopping.rules.probe_exit import ProbeExit, QExit
from reason_rl.stopping.setting import Setting
from reason_rl.stopping.steering import middle_layer, steered
from reason_rl.stopping.temperature import TemperatureStop
from reason_rl.stopping.workflow import MIN_THRESHOLD

RISKS = (0.01, 0.05, 0.1, 0.2)
# Settings are our choice: the published ones are for traces a hundred times as long.
STRENGTHS = (1.5, 2.0, 3.0, 6.0)
BUDGETS = (16, 32, 64, 128, 192, 256)
CONFIDENCES = (0.5, 0.8, 0.95, 0.99, 0.999)
AGREEMENTS = (2, 3, 4, 6)
VARIANCES = (0.3, 0.1, 0.03, 0.01, 0.003)
QUANTILES = (0.5, 0.9, 0.99, 0.999, 0.9999)
SHARES = (0.2, 0.4, 0.8)
LARGEST_BUDGETS = (48, 96, 192, 320)
INTERVALS = (24, 64, 128)
PUSHES = (0.1, 0.3, 0.6, 1.0)


@dataclass(frozen=True)
class Contender:
    """A rule at one setting."""

    rule: str
    setting: str

    @property
    def key(self) -> str:
        """Name among the results."""
        return f"{self.rule} | {self.setting}"


@dataclass(frozen=True)
class Played(Contender):
    """A rule that only exits: it is played over recorded traces."""

    of: Callable[[Problem], ExitRule]


@dataclass(frozen=True)
class Decoded(Contender):
    """A rule that changes what is written: it is decoded, inside the context ``around``."""

    policy: StopPolicy
    around: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True)
class Kit:
    """What the contenders are made from: the opened recipe, the probe with its card and certificate, and a cue word.

    ``learn_from``: training problems that teach difficulty and steering; 0 = neither is there.
    """

    setting: Setting
    probe: Probe
    card: ProbeCard
    certificate: Certificate
    word: str
    hint: str
    learn_from: int = 0
    difficulty: DifficultyProbe | None = None
    steering: Tensor | None = None

    def written(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text."""
        return tuple(self.setting.tokenizer(text, add_special_tokens=False).input_ids)

    @cached_property
    def forms(self) -> frozenset[tuple[int, ...]]:
        """The word as token ids: in small letters, capitalised and in capitals, after nothing, a space or new lines.

        Raises:
            RecipeError: for a word that the tokenizer cannot write.
        """
        return word_cues(self.setting.tokenizer, [self.word]).patterns

    @property
    def drawn_forms(self) -> frozenset[int]:
        """The forms of the word that are one token: DEER looks at the one that is drawn next."""
        return frozenset(form[0] for form in self.forms if len(form) == 1)


def played(kit: Kit) -> Iterator[Played]:
    """Return the rules that only exit."""
    ask, end = kit.card.elicitor, kit.setting.backend.tokens.end
    answer_of = kit.setting.grader.extracted
    for risk in RISKS:
        threshold = max(kit.certificate.threshold_at(risk), MIN_THRESHOLD)
        exits = ProbeExit(kit.probe, kit.card.layers, kit.card.cues, ask, threshold)
        yield _same("probe, certified per trace", f"risk {risk:g}", exits)
    for quantile in QUANTILES:
        adding = QExit(kit.probe, kit.card.layers, kit.card.cues, ask, quantile)
        yield _same("Q-exit (PALBERT)", f"quantile {quantile:g}", adding)
    for budget in BUDGETS:
        yield _same("budget forcing (s1)", f"{budget} think tokens", BudgetForcing(end, ask, budget))
    for sure in CONFIDENCES:
        deer = Deer(kit.drawn_forms, ask.ids, ask.eos, ask, sure, trial_tokens=ask.answer_tokens)
        yield _same("DEER", f"confidence {sure:g}", deer)
    for agree in AGREEMENTS:
        rule = AnswerConsistency(Cues(frozenset(), every=8), ask, answer_of, agree)
        yield _same("answer consistency", f"{agree} in a row, every 8", rule)
    for name, effort in DYNASOR.items():
        # Chunks are a quarter of the published ones, as the traces are short.
        rule = AnswerConsistency(Cues(frozenset(), every=effort.every // 4), ask, answer_of, effort.agree)
        yield _same("probing in the middle (Certaindex)", name, rule)
    for patience in AGREEMENTS:
        rule = patient(patience, Cues(kit.forms, every=16), ask, answer_of)
        yield _same("patience (PABEE)", f"{patience}, at {kit.word} and every 16", rule)
    for variance in VARIANCES:
        settled = EntropyAfterThink(Cues(frozenset(), every=8), ask.ids, ask, variance, min_looks=5)
        yield _same("entropy after thinking (EAT)", f"variance {variance:g}", settled)
    for largest in LARGEST_BUDGETS:
        yield Played("budget by level (Plan-and-Budget)", f"{largest} at the hardest", _by_level(kit, largest))
    if kit.difficulty is not None:
        for share in SHARES:
            caps = shares_of(kit.setting.sampling.max_tokens, easy=share, hard=min(1.0, 1.25 * share))
            yield _same(
                "DiffAdapt", f"easy {share:g} of the cap", DiffAdapt(kit.difficulty, (kit.card.layers[-1],), caps, ask)
            )


def decoded(kit: Kit) -> Iterator[Decoded]:
    """Return the rules that change what is written."""
    tokens = kit.setting.backend.tokens
    for strength in STRENGTHS:
        yield Decoded("scaled stop (TS)", f"strength {strength:g}", StopPolicy(edit=TemperatureStop(strength, tokens)))
    yield Decoded("NoThinking", "", StopPolicy(rule=NoThinking((tokens.end,), tokens.end)))
    for first in INTERVALS:
        rule = ConciseHint(kit.written(kit.hint), first=first)
        yield Decoded("ConciseHint", f"{kit.hint!r} from {first} tokens on", StopPolicy(rule=rule))
    if kit.steering is not None:
        model = kit.setting.backend.model
        for alpha in PUSHES:
            around = partial(steered, model, middle_layer(model), alpha * kit.steering)
            yield Decoded("efficiency steering", f"push {alpha:g}", StopPolicy(), around)


def _same(rule: str, setting: str, exits: ExitRule) -> Played:
    return Played(rule, setting, lambda problem: exits)


def _by_level(kit: Kit, largest: int) -> Callable[[Problem], ExitRule]:
    """Return budgets in the proportions of Plan-and-Budget's levels; a problem's level is given, not judged by the model."""
    top = max(WORDS_BY_LEVEL)
    rule = BudgetForcing(kit.setting.backend.tokens.end, kit.card.elicitor, largest)

    def of(problem: Problem) -> ExitRule:
        level = min(problem.level or top, top)
        return replace(rule, max_think_tokens=round(largest * WORDS_BY_LEVEL[level] / WORDS_BY_LEVEL[top]))

    return of
