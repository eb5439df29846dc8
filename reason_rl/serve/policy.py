"""From the field ``stop`` of a request to a stop policy; a probe's threshold only as its certificate allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reason_rl.errors import RecipeError
from reason_rl.rollout.backend import SamplingOptions
from reason_rl.serve.errors import ApiError
from reason_rl.serve.schema import ProbeAsk, StopAsk
from reason_rl.stopping.artefact import (
    CERTIFICATE_FILE,
    Certificate,
    Fingerprint,
    ProbeCard,
    load_certificate,
    load_probe,
)
from reason_rl.stopping.conformal import Guarantee, problems_needed
from reason_rl.stopping.probe import Probe
from reason_rl.stopping.rule import Elicitor, StopPolicy
from reason_rl.stopping.rules.budget_forcing import BudgetForcing
from reason_rl.stopping.rules.probe_exit import ProbeExit
from reason_rl.stopping.temperature import TemperatureStop
from reason_rl.stopping.thinking import ThinkTokens
from reason_rl.stopping.workflow import MIN_THRESHOLD


@dataclass(frozen=True)
class Exits:
    """The server's probe and the hash of its parameters; without a certificate its exits are never certified."""

    probe: Probe
    card: ProbeCard
    certificate: Certificate | None
    digest: str


def open_exits(folder: Path, made_with: Fingerprint) -> Exits:
    """Read a probe, and the certificate when there is one.

    Raises:
        RecipeError: when either cannot be read, the probe belongs to another model or tokenizer, or the certificate to
            another end of thinking.
    """
    probe, card = load_probe(folder, made_with)
    certificate = load_certificate(folder) if (folder / CERTIFICATE_FILE).exists() else None
    if certificate is not None and certificate.conditions.end_think != card.end_think:
        ends = [end or "null" for end in (certificate.conditions.end_think, card.end_think)]
        raise RecipeError(
            f"{folder}: the threshold was certified with model.end_think_token {ends[0]}, the probe fitted with {ends[1]}; "
            "calibrate again"
        )
    return Exits(probe, card, certificate, probe.digest())


@dataclass(frozen=True)
class Asked:
    """What a request asks for beside its stop: cap, sampling, and its messages; None for a bare prompt."""

    max_tokens: int
    options: SamplingOptions
    messages: Sequence[Mapping[str, str]] | None


@dataclass(frozen=True)
class Chosen:
    """A policy, and what the reply says of it; None when nothing was asked for."""

    policy: StopPolicy
    says: dict[str, Any] | None = None


@dataclass(frozen=True)
class Policies:
    """Makes the policies of requests.

    Args:
        tokens: ids that open and close thinking and end a completion.
        thinks: whether the model closes its thinking with a token.
        exits: the server's probe.
    """

    tokens: ThinkTokens
    thinks: bool
    exits: Exits | None = None

    def choose(self, ask: StopAsk, asked: Asked) -> Chosen:
        """Return the policy of a request.

        Raises:
            ApiError: 400 for what this model, or this server's probe, cannot do.
        """
        if ask.probe is not None:
            return self._exit(ask.probe, asked)
        if ask.strength is None and ask.budget is None:
            return Chosen(StopPolicy())
        if not self.thinks:
            name = "stop.strength" if ask.strength is not None else "stop.budget"
            raise ApiError(400, f"{name}: this model has no token that ends its thinking; use max_tokens", name)
        edit = None if ask.strength is None else TemperatureStop(ask.strength, self.tokens)
        rule = None
        if ask.budget is not None:
            closing = Elicitor((self.tokens.end,), asked.max_tokens, self.tokens.eos)
            rule = BudgetForcing(self.tokens.end, closing, ask.budget)
        given = {"strength": ask.strength, "budget": ask.budget}
        return Chosen(StopPolicy(edit, rule), {name: value for name, value in given.items() if value is not None})

    def defaults(self, ask: StopAsk) -> dict[str, Any]:
        """Return the sampling of a request that does not say its own: with a certified probe the certificate's."""
        if ask.probe is None or self.exits is None or self.exits.certificate is None:
            return {}
        return dict(self.exits.certificate.conditions.sampling)

    def _exit(self, ask: ProbeAsk, asked: Asked) -> Chosen:
        if self.exits is None:
            raise ApiError(400, "stop.probe: this server has no probe; start it with --probe FOLDER", "stop.probe")
        guarantee, differs = self._guarantee(self.exits, ask, asked)
        threshold, certified = self._threshold(ask, guarantee, differs)
        card = self.exits.card
        rule = ProbeExit(self.exits.probe, card.layers, card.cues, card.elicitor, threshold)
        says: dict[str, Any] = {"threshold": threshold, "certified": certified}
        if certified:
            assert guarantee is not None
            says |= {"risk": guarantee.risk, "confidence": guarantee.confidence, "statement": guarantee.statement()}
        elif differs:
            says["differs"] = differs
        return Chosen(StopPolicy(rule=rule), {"probe": says})

    def _guarantee(self, exits: Exits, ask: ProbeAsk, asked: Asked) -> tuple[Guarantee | None, list[str]]:
        """Return the guarantee at the risk asked for, and the conditions under which the request differs from it."""
        certificate = exits.certificate
        if certificate is None:
            if not ask.uncertified or ask.threshold is None:
                hint = '{"probe": {"threshold": 0.9, "uncertified": true}}'
                raise ApiError(400, f"stop.probe: this server's probe is not calibrated; say {hint}", "stop.probe")
            return None, []
        guarantee = certificate.guarantee
        if ask.risk is not None:
            lowest = certificate.threshold_at(ask.risk)
            if lowest == float("inf"):
                needed = problems_needed(ask.risk / guarantee.shift, guarantee.confidence)
                raise ApiError(
                    400,
                    f"stop.probe.risk: {ask.risk:g} needs {needed} calibration problems, the certificate rests on "
                    f"{guarantee.problems}; ask for a larger risk, such as its own {guarantee.risk:g}",
                    "stop.probe.risk",
                )
            guarantee = replace(guarantee, risk=ask.risk, threshold=max(lowest, MIN_THRESHOLD))
        sampling = {**asdict(asked.options), "max_tokens": asked.max_tokens}
        held = certificate.conditions
        conditions = replace(
            held,
            fingerprint=exits.card.fingerprint,
            probe=exits.digest,
            cues=exits.card.cues.describe(),
            elicitor=asdict(exits.card.elicitor),
            end_think=exits.card.end_think,
            prompt=held.prompt if asked_as(held.prompt, asked.messages) else {},
            sampling={name: sampling.get(name) for name in held.sampling},
            engine="hf",
        )
        try:
            certificate.threshold_for(conditions, allow_uncertified=ask.uncertified)
        except RecipeError:
            changed = held.differences(conditions)
            raise ApiError(
                400,
                f"stop.probe: the threshold was certified with another {', '.join(changed)} "
                f"(certified: prompt {held.prompt.get('template')!r}, sampling {held.sampling}); ask so, or say "
                '{"probe": {"uncertified": true}}',
                "stop.probe",
                "uncertified",
            ) from None
        return guarantee, held.differences(conditions)

    def _threshold(self, ask: ProbeAsk, guarantee: Guarantee | None, differs: Sequence[str]) -> tuple[float, bool]:
        """Return the threshold and whether the guarantee holds for it; one's own may only be stricter."""
        if guarantee is None:
            assert ask.threshold is not None
            return ask.threshold, False
        value = guarantee.threshold if ask.threshold is None else ask.threshold
        if value < guarantee.threshold and not ask.uncertified:
            raise ApiError(
                400,
                f"stop.probe.threshold: {value:g} is below the certified {guarantee.threshold:g}; give a higher one, or say "
                '{"probe": {"uncertified": true}}',
                "stop.probe.threshold",
                "uncertified",
            )
        return value, not differs and value >= guarantee.threshold


def asked_as(prompt: Mapping[str, Any], messages: Sequence[Mapping[str, str]] | None) -> bool:
    """Tell whether messages are what a recipe's ``prompt`` makes of some problem: its system message and its template.

    Prompts that ask for a length, or come in variants, are not told apart and count as others.

    >>> boxed = {"template": "{prompt} Box it.", "system": None}
    >>> asked_as(boxed, [{"role": "user", "content": "2 + 2? Box it."}]), asked_as(boxed, [{"role": "user", "content": "Hi"}])
    (True, False)
    """
    if messages is None or prompt.get("target_tokens") or prompt.get("variants"):
        return False
    head, found, tail = str(prompt.get("template")).partition("{prompt}")
    system = [("system", prompt["system"])] if prompt.get("system") else []
    *before, last = [(message["role"], message["content"]) for message in messages]
    content = last[1]
    fits = content.startswith(head) and content.endswith(tail) and len(content) > len(head) + len(tail)
    return bool(found) and before == system and last[0] == "user" and fits
