"""A frozen probe as a judge of finished traces: where would it have said that the answer is there?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reason_rl.content import find_content
from reason_rl.errors import RecipeError
from reason_rl.models import Dtype, load_model, load_tokenizer, to_accelerator
from reason_rl.recipe.schema import ModelSection
from reason_rl.rollout.batch import RolloutBatch
from reason_rl.rollout.hf import sampling_mode
from reason_rl.stopping.artefact import CARD_FILE, ProbeCard, fingerprint, load_probe
from reason_rl.stopping.label import cue_places
from reason_rl.stopping.probe import Probe
from reason_rl.stopping.states import tapped
from reason_rl.stopping.thinking import ThinkTokens, think_tokens, whole_completion

ROWS = 32  # read together


class Loaded(NamedTuple):
    """What reads a trace."""

    model: Any
    tokens: ThinkTokens
    probe: Probe
    card: ProbeCard


def share_kept(length: Int[Tensor, " rows"], sure: Float[Tensor, " rows"], weight: float) -> Float[Tensor, " rows"]:
    """Return ``1 - weight (T - t) / T``: what is left of a reward when tokens after ``sure`` cost.

    Args:
        length: completion tokens T.
        sure: completion tokens t at which the answer was there; nan = never, which costs nothing.
        weight: what a trace would lose that was sure at once.

    >>> share_kept(torch.tensor([20, 40]), torch.tensor([10.0, float("nan")]), 0.5).tolist()
    [0.75, 1.0]
    """
    return 1 - weight * ((length - sure) / length).nan_to_num(nan=0.0).clamp(0, 1)


@dataclass(frozen=True)
class ExitJudge:
    """Reads traces with the model that the probe was fitted on, which is not the one that is trained.

    A probe says nothing about other weights than its own, and those of a policy change at every update: so the traces are
    read again by the frozen model. Nothing is loaded before the first trace.

    Args:
        folder: of the probe; found like a reward file.
        model: the model that it was fitted on.
        dtype: of its weights then.
        revision: of the model on the hub.

    Raises:
        RecipeError: for a dtype that is none.
    """

    folder: str
    model: str
    dtype: Dtype = "float32"
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Dtype):
            raise RecipeError(f"dtype {self.dtype}: is none of {', '.join(get_args(Dtype))}")

    @cached_property
    def loaded(self) -> Loaded:
        """Load model and probe; the model goes to the accelerator, where there is one.

        Raises:
            RecipeError: for a probe of another model, or none.
        """
        section = ModelSection(path=self.model, dtype=self.dtype, revision=self.revision)
        model, tokenizer = load_model(section).eval(), load_tokenizer(section)
        found: Path = find_content(f"{self.folder}/{CARD_FILE}").parent
        probe, card = load_probe(found, fingerprint(model, tokenizer))
        end = card.end_think
        tokens = whole_completion(model, tokenizer) if end is None else think_tokens(model, tokenizer, end)
        return Loaded(to_accelerator(model), tokens, probe, card)

    def first_sure(self, batch: RolloutBatch, threshold: float) -> Float[Tensor, " rows"]:
        """Return the completion tokens before the first cue whose score is above ``threshold``; nan where none is.

        Args:
            batch: finished rollouts, of any policy with the same tokenizer.
            threshold: of the probe's score.
        """
        places = [
            cue_places(prompt, completion, self.loaded.tokens, self.loaded.card.cues)
            for prompt, completion in zip(batch.prompt_ids, batch.completion_ids, strict=True)
        ]
        found = torch.full((len(places),), torch.nan)
        order = sorted((row for row, cues in enumerate(places) if cues), key=lambda row: len(batch.completion_ids[row]))
        for start in range(0, len(order), ROWS):
            rows = order[start : start + ROWS]
            states = self._states([[*batch.prompt_ids[row], *batch.completion_ids[row]] for row in rows])
            for state, row in zip(states, rows, strict=True):
                at = torch.tensor(places[row]) + len(batch.prompt_ids[row]) - 1
                sure = (self.loaded.probe.score(state[at]) > threshold).nonzero().flatten()
                if len(sure):
                    found[row] = float(places[row][int(sure[0])])
        return found

    def _states(self, texts: list[list[int]]) -> Float[Tensor, "rows tokens width"]:
        """Return the states after each token of each text; those of padding, to the right, mean nothing."""
        width = max(map(len, texts))
        ids = torch.tensor([text + [text[-1]] * (width - len(text)) for text in texts], device=self.loaded.model.device)
        with (
            sampling_mode(self.loaded.model),
            tapped(self.loaded.model, self.loaded.card.layers, every_position=True) as tap,
        ):
            self.loaded.model(input_ids=ids, logits_to_keep=1)
            states = tap.features()
        assert states is not None
        return states.cpu()
