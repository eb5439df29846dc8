"""Probe as reward: r = c (1 - w (T - t) / T), t the tokens at which a frozen exit probe is sure, T all (completion tokens).

What is written after the probe's first score above the threshold costs up to the share w of a right answer; a trace that it
is never sure of (t = T) costs nothing. The probe reads each trace with the frozen model that it was fitted on.

Source: our choice; the probe is that of LYNX (arXiv 2512.05325).

>>> from reason_rl.rollout.batch import example_batch
>>> reward()(example_batch(correct=[1, 1, 0], length=[20, 64, 30], budget=64)).tolist()  # no text, so never sure
[1.0, 1.0, 0.0]
"""

from reason_rl.algorithm.reward import Reward
from reason_rl.models import Dtype
from reason_rl.stopping.judge import ExitJudge, share_kept


def reward(
    *,
    probe: str = "eval/stopping/tiny-probe",
    model: str = "tiny-reasoner",
    dtype: Dtype = "float32",
    revision: str | None = None,
    threshold: float = 0.9,
    weight: float = 0.5,
) -> Reward:
    """Return correctness, less up to ``weight`` of it for what is written after the probe's score passes ``threshold``."""
    judge = ExitJudge(probe, model, dtype, revision)
    return lambda batch: batch.correct * share_kept(batch.length, judge.first_sure(batch, threshold), weight)
