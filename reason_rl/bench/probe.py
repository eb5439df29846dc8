"""What an exit probe costs a token: the same completions decoded with it and without it, in turn, as a ratio of one run."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from reason_rl.errors import RunError
from reason_rl.rollout.backend import Backend, SamplingOptions, SamplingRequest, sampling_seed
from reason_rl.stopping.rule import StopPolicy
from reason_rl.stopping.rules.probe_exit import ProbeExit
from reason_rl.stopping.setting import Setting


def probe_overhead(
    setting: Setting, folder: Path, rows: int, repeats: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Time decoding under a probe that never exits against decoding without it; nothing else differs.

    Args:
        setting: the opened recipe; its eval problems are decoded with its engine.
        folder: of the probe.
        rows: completions decoded together.
        repeats: of each side, in turn; their medians count, after one unmeasured pass of each.
        say: told the progress.

    Returns:
        Seconds of both sides, completion tokens, and ``overhead``: the share that the probe adds a token.

    Raises:
        RecipeError: for a probe of another model.
        RunError: when the two sides write different tokens.
    """
    probe, card = setting.open_probe(folder)
    prompts = setting.prompts(setting.eval_problems())
    requests = [
        SamplingRequest(prompts[i % len(prompts)], setting.sampling.max_tokens, sampling_seed(setting.sampling.seed, i))
        for i in range(rows)
    ]
    options = SamplingOptions(setting.sampling.temperature, setting.sampling.top_p, setting.sampling.top_k)
    # In hf both sides are the reference loop, so that the policy is all that differs.
    setting = replace(setting, backend=replace(setting.backend, max_batch_rows=rows))
    engine = setting.recipe.rollout.engine
    plain = setting.backend if engine == "hf" else setting.sampler
    here = probe.to(setting.backend.model.device)
    watched = setting.under(StopPolicy(rule=ProbeExit(here, card.layers, card.cues, card.elicitor, math.inf)))
    seconds: dict[str, list[float]] = {"plain": [], "probe": []}
    written = {}
    for number in range(repeats + 1):
        for name, backend in (("plain", plain), ("probe", watched)):
            written[name], taken = _timed(backend, requests, options)
            if number:
                seconds[name].append(taken)
        if written["plain"] != written["probe"]:
            raise RunError("bench probe: watching changed what was written")
        say(f"pass {number} of {repeats}")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "engine": engine,
        "rows": rows,
        "completion_tokens": sum(map(len, written["plain"])),
        "cues": card.cues.describe(),
        "layers": list(card.layers),
        "probe": probe.kind,
        "seconds": medians,
        "overhead": medians["probe"] / medians["plain"] - 1,
    }


def _timed(
    backend: Backend, requests: list[SamplingRequest], options: SamplingOptions
) -> tuple[list[tuple[int, ...]], float]:
    start = time.perf_counter()
    samples = backend.generate(requests, options)
    return [sample.token_ids for sample in samples], time.perf_counter() - start
