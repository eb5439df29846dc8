"""Rollouts that overlap with the update by one step: the next batch is sampled while the present one is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from reason_rl.rollout.backend import Sample
from reason_rl.trainer.seam import BackendSeam, RowPlan


@dataclass(frozen=True)
class Ahead:
    """Rollouts under way: their rows, plan and prompts, the policy version that samples them, and the samples to come."""

    rows: list[dict[str, Any]]
    plan: RowPlan
    prompt_ids: list[tuple[int, ...]]
    version: int
    samples: Future[list[Sample]]

    def to_json(self) -> dict[str, Any]:
        """Return what a resumed run needs to train on these rollouts as if nothing had happened; waits for them."""
        return {
            "problem_ids": [row["problem_id"] for row in self.rows],
            "budgets": list(self.plan.budgets),
            "seeds": list(self.plan.seeds),
            "prompt_ids": [list(ids) for ids in self.prompt_ids],
            "version": self.version,
            "samples": [asdict(sample) for sample in self.samples.result()],
        }


class Lag:
    """Samples one batch in the background, from weights that stand still while the trainer's move on.

    Args:
        seam: whose backend must hold weights of its own.
        meet: waits for the other processes, which may share the engine (a server).
    """

    def __init__(self, seam: BackendSeam, meet: Callable[[], None]) -> None:
        self.seam, self.meet = seam, meet
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
        self.ahead: Ahead | None = None

    def start(self, rows: list[dict[str, Any]], plan: RowPlan, prompts: Sequence[Sequence[int]]) -> None:
        """Begin to sample rows from the weights that the engine holds now."""
        prompt_ids = [tuple(prompt) for prompt in prompts]
        samples = self.pool.submit(self.seam.draw, prompt_ids, plan)
        self.ahead = Ahead(rows, plan, prompt_ids, self.seam.version, samples)

    def take(self) -> Ahead | None:
        """Return the rollouts begun last, once those of all processes are done; None when there are none.

        The engine is idle then, and can be given new weights.
        """
        ahead, self.ahead = self.ahead, None
        if ahead is not None:
            ahead.samples.result()
        self.meet()
        return ahead

    def restore(self, saved: dict[str, Any], rows: list[dict[str, Any]], plan: RowPlan) -> None:
        """Put back rollouts from a checkpoint, with their rows and plan made anew."""
        samples: Future[list[Sample]] = Future()
        samples.set_result([_sample(fields) for fields in saved["samples"]])
        self.ahead = Ahead(rows, plan, [tuple(ids) for ids in saved["prompt_ids"]], saved["version"], samples)


def _sample(fields: dict[str, Any]) -> Sample:
    ids, logps = tuple(fields["token_ids"]), tuple(fields["logps"])
    sampled = None if fields["sampled"] is None else tuple(fields["sampled"])
    return Sample(ids, logps, fields["finish_reason"], fields["forced"], sampled)
