"""Probe and certificate on disk: safetensors and JSON, bound by fingerprint to what they were made with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason_rl.errors import RecipeError
from reason_rl.stopping.conformal import Guarantee, check_levels, threshold_at
from reason_rl.stopping.cues import Cues
from reason_rl.stopping.probe import Probe, from_tensors, tensor_digest
from reason_rl.stopping.reuse import Population
from reason_rl.stopping.rule import Elicitor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reason_rl.stopping.traces import Target

FORMAT = 3
PROBE_FILE, CARD_FILE, CERTIFICATE_FILE = "probe.safetensors", "probe.json", "certificate.json"


@dataclass(frozen=True)
class Fingerprint:
    """Hashes of the model (weights and adapter, type of the weights included) and of the tokenizer with its chat template."""

    model: str
    tokenizer: str


@dataclass(frozen=True)
class ProbeCard:
    """What a probe reads and when: the layers, the cues, how answers are elicited, what it predicts, and its figures.

    ``end_think``: the end-of-think token that it was fitted with; None = the whole completion counts as thinking.
    """

    fingerprint: Fingerprint
    layers: tuple[int, ...]
    cues: Cues
    elicitor: Elicitor
    end_think: str | None
    figures: dict[str, Any]
    problems: tuple[str, ...]
    target: Target = "right"


def fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Fingerprint:
    """Return the fingerprint of a model and its tokenizer; reads every weight once."""
    words = json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer.chat_template], sort_keys=True)
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return Fingerprint(tensor_digest(state), hashlib.sha256(words.encode()).hexdigest()[:32])


def save_probe(folder: Path, probe: Probe, card: ProbeCard) -> None:
    """Write the probe into a folder."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(probe.tensors(), folder / PROBE_FILE)
    record = {
        "format": FORMAT,
        "kind": probe.kind,
        "probe": probe.digest(),
        "fingerprint": asdict(card.fingerprint),
        "layers": list(card.layers),
        "cues": card.cues.describe(),
        "elicitor": asdict(card.elicitor),
        "end_think": card.end_think,
        "target": card.target,
        "figures": card.figures,
        "problems": list(card.problems),
    }
    (folder / CARD_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def load_probe(folder: Path, made_with: Fingerprint) -> tuple[Probe, ProbeCard]:
    """Read a probe for the model and tokenizer at hand.

    Raises:
        RecipeError: when the folder holds no probe, was damaged, or belongs to another model or tokenizer.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    record = _read(folder / CARD_FILE)
    try:
        probe = from_tensors(load_file(folder / PROBE_FILE))
        cues, ask = record["cues"], record["elicitor"]
        card = ProbeCard(
            Fingerprint(**record["fingerprint"]),
            tuple(record["layers"]),
            Cues(frozenset(tuple(pattern) for pattern in cues["patterns"]), cues["every"]),
            Elicitor(tuple(ask["ids"]), ask["answer_tokens"], tuple(ask["eos"])),
            record["end_think"],
            record["figures"],
            tuple(record["problems"]),
            record["target"],
        )
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise RecipeError(f"{folder}: cannot be read as a probe ({error})") from error
    if probe.digest() != record.get("probe"):
        raise RecipeError(f"{folder}: {PROBE_FILE} is not the one that {CARD_FILE} describes")
    if card.fingerprint.model != made_with.model:
        known = ", ".join(str(card.figures[name]) for name in ("model", "revision", "dtype") if card.figures.get(name))
        raise RecipeError(
            f"{folder}: the probe was made with another model{known and f' ({known})'}, or with its weights in another type "
            "(dtype); its scores mean nothing here. Name that model and type, or fit a probe for this one"
        )
    if card.fingerprint.tokenizer != made_with.tokenizer:
        raise RecipeError(
            f"{folder}: the probe was made with another tokenizer; its scores mean nothing here. Fit a probe for this one"
        )
    return probe, card


@dataclass(frozen=True)
class Conditions:
    """Under what a threshold was certified; a threshold used under others is not certified.

    Args:
        fingerprint: of model and tokenizer.
        probe: hash of its parameters.
        cues, elicitor: as plain JSON.
        prompt: template and system message.
        sampling: temperature, top-p, top-k and token cap.
        grader: how answers are verified and where they stand.
        end_think: the token that ends thinking; None = the whole completion counts as thinking.
        engine: which code decodes.
    """

    fingerprint: Fingerprint
    probe: str
    cues: dict[str, Any]
    elicitor: dict[str, Any]
    prompt: dict[str, Any]
    sampling: dict[str, Any]
    grader: str
    end_think: str | None
    engine: str = "hf"

    def differences(self, other: Conditions) -> list[str]:
        """Return the names of the conditions that differ."""
        # Through JSON, as tuples come back from there as lists.
        mine, theirs = (json.loads(json.dumps(asdict(conditions))) for conditions in (self, other))
        return [name for name in mine if mine[name] != theirs[name]]


@dataclass(frozen=True)
class Certificate:
    """A guarantee, the conditions it holds under, and the calibration problems it rests on, with what kind they are of."""

    guarantee: Guarantee
    conditions: Conditions
    problems: tuple[str, ...]
    figures: dict[str, Any]
    population: Population

    def threshold_at(self, risk: float) -> float:
        """Return the threshold that the same calibration problems certify at another level; infinity when too few.

        Each level holds by itself; choose one before looking at what it does.

        Raises:
            RecipeError: for a risk that is none.
        """
        check_levels(risk, self.guarantee.confidence)
        numbers = list(self.figures["bad_scores"])
        numbers += [float("-inf")] * (self.guarantee.problems - len(numbers))
        return threshold_at(numbers, risk / self.guarantee.shift, self.guarantee.confidence)

    def threshold_for(self, conditions: Conditions, *, allow_uncertified: bool = False) -> tuple[float, bool]:
        """Return the threshold and whether its guarantee holds under these conditions.

        Raises:
            RecipeError: when it does not and that was not allowed.
        """
        changed = self.conditions.differences(conditions)
        if changed and not allow_uncertified:
            raise RecipeError(
                f"the threshold was certified with another {', '.join(changed)}; calibrate again, or allow an uncertified one"
            )
        return self.guarantee.threshold, not changed


def save_certificate(folder: Path, certificate: Certificate) -> None:
    """Write the certificate beside its probe."""
    record = {"format": FORMAT, "statement": certificate.guarantee.statement(), **asdict(certificate)}
    (folder / CERTIFICATE_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def load_certificate(folder: Path) -> Certificate:
    """Read the certificate of a probe.

    Raises:
        RecipeError: when there is none or it cannot be read.
    """
    record = _read(folder / CERTIFICATE_FILE)
    try:
        stored = dict(record["conditions"])
        conditions = Conditions(**{**stored, "fingerprint": Fingerprint(**stored["fingerprint"])})
        return Certificate(
            Guarantee(**record["guarantee"]),
            conditions,
            tuple(record["problems"]),
            record["figures"],
            record["population"],
        )
    except (KeyError, TypeError) as error:
        raise RecipeError(f"{folder}: cannot be read as a certificate ({error})") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; make it with reason-rl probe fit, then probe calibrate")
    try:
        record = dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{path}: not JSON ({error})") from error
    if record.get("format") != FORMAT:
        raise RecipeError(
            f"{path}: format {record.get('format')}; this version reads {FORMAT}. Make it again with reason-rl probe fit, "
            "then probe calibrate"
        )
    return record
