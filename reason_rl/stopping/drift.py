"""Do probe scores in another engine agree with those that a threshold is calibrated on?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from reason_rl.errors import RecipeError
from reason_rl.rollout.backend import SamplingOptions, SamplingRequest
from reason_rl.rollout.hf import sampling_mode
from reason_rl.stopping.label import Text, try_exits
from reason_rl.stopping.rules.probe_exit import ProbeExit
from reason_rl.stopping.vllm_exit import VLLMExits

if TYPE_CHECKING:
    from reason_rl.stopping.setting import Setting

LARGEST = 1e-2  # our choice
TRACES = 16


def check_drift(setting: Setting, rule: ProbeExit, prompts: Sequence[Sequence[int]]) -> float:
    """Return the largest difference between the scores that vLLM computes while it decodes and those calibrated on.

    Labels and calibration scores come from one pass of the transformers model over traces that vLLM wrote. A threshold
    carries over only as far as both engines score alike.

    Args:
        setting: opened with engine vllm.
        rule: the probe, its cues and elicitor.
        prompts: the first of them are decoded.

    Raises:
        RecipeError: when a score differs by more than 0.01.
    """
    sampling = setting.sampling
    requests = [SamplingRequest(tuple(p), sampling.max_tokens, seed) for seed, p in enumerate(prompts[:TRACES])]
    options = SamplingOptions(sampling.temperature, sampling.top_p, sampling.top_k)
    backend = setting.backend
    watched = VLLMExits(setting.sampler, replace(rule, threshold=math.inf), backend.tokens, keep_scores=True)  # type: ignore[arg-type]
    written = watched.decode(requests, options)
    texts = [
        Text(request.prompt_ids, done.sample.token_ids, tuple(place for place, _ in done.state))
        for request, done in zip(requests, written, strict=True)
    ]
    with sampling_mode(backend.model):
        exits = try_exits(backend.model, texts, replace(rule.elicitor.ask(), max_tokens=1), rule.layers)
    worst = 0.0
    for done, tried in zip(written, exits, strict=True):
        for (_, theirs), ours in zip(done.state, rule.probe.score(tried.features).tolist(), strict=True):
            worst = max(worst, abs(theirs - ours))
    if worst > LARGEST:
        raise RecipeError(
            f"probe: scores in vLLM differ by up to {worst:.3f} from those of the model in transformers (at most {LARGEST} "
            "is allowed): a threshold would not carry over; use the same dtype in both, or rollout.engine=hf"
        )
    return worst
