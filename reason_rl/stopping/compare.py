"""All stopping rules side by side on the same problems: accuracy, tokens net of what a rule spends on the side, savings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from reason_rl.errors import RunError
from reason_rl.evaluate.estimate import Estimate, estimate, no_estimate, resampled_means, t_estimate
from reason_rl.evaluate.savings import Curve, paired_saving, tokens_at
from reason_rl.problem.record import Problem
from reason_rl.rollout.backend import SamplingOptions, SamplingRequest, sampling_seed
from reason_rl.stopping.contenders import Decoded, Kit, Played
from reason_rl.stopping.play import Outcome, exits_at, harmless_places, outcome, record
from reason_rl.stopping.strength import gain_at_equal_tokens

Say = Callable[[str], None]
Table = Float[np.ndarray, "problems samples"]
YARDSTICK = "budget forcing (s1)"
FULL, BOUND = "full traces", "no rule: earliest exit that spoils nothing"
CHUNK_TRACES = 48
ACCURACY_LOSS = 0.01  # our choice: savings are compared where a rule is one point less accurate than full traces


@dataclass(frozen=True)
class Run:
    """One rule at one setting: whether each trace is right, and its tokens and net tokens, problems by samples."""

    rule: str
    setting: str
    right: Table
    tokens: Table
    net_tokens: Table
    exits: float

    @property
    def key(self) -> str:
        """Name among the results."""
        return f"{self.rule} | {self.setting}"


@dataclass(frozen=True)
class Traces:
    """The problems of a comparison, each with its samples' requests."""

    problems: tuple[Problem, ...]
    requests: tuple[SamplingRequest, ...]
    samples: int


def traces_of(kit: Kit, problems: Sequence[Problem]) -> Traces:
    """Return what is sampled, with the seeds of an evaluation."""
    sampling = kit.setting.sampling
    requests, owners = [], []
    for problem, prompt in zip(problems, kit.setting.prompts(problems), strict=True):
        for sample in range(sampling.samples):
            seed = sampling_seed(sampling.seed, problem.id, sample)
            requests.append(SamplingRequest(prompt, sampling.max_tokens, seed))
            owners.append(problem)
    return Traces(tuple(owners), tuple(requests), sampling.samples)


def play_all(kit: Kit, rules: Sequence[Played], traces: Traces, say: Say) -> list[Run]:
    """Record the traces in chunks and play every rule over them; the first two runs are full traces and the bound."""
    setting, ask = kit.setting, kit.card.elicitor
    sampling, cap = setting.sampling, setting.sampling.max_tokens
    options = SamplingOptions(sampling.temperature, sampling.top_p, sampling.top_k)
    parts: list[list[Outcome]] = [[] for _ in range(len(rules) + 2)]
    for start in range(0, len(traces.requests), CHUNK_TRACES):
        chosen = slice(start, start + CHUNK_TRACES)
        recorded = record(
            setting.backend,
            setting.grader,
            traces.problems[chosen],
            traces.requests[chosen],
            options,
            ask,
            kit.card.layers,
        )
        never: list[int | None] = [None] * len(recorded)
        bound = harmless_places(recorded, ask, setting.grader, cap)
        parts[0].append(exits_at(never, recorded, ask, setting.grader, cap))
        parts[1].append(exits_at(bound, recorded, ask, setting.grader, cap))
        for part, rule in zip(parts[2:], rules, strict=True):
            part.append(outcome(rule.of, recorded, ask, setting.grader, cap))
        say(f"{min(chosen.stop, len(traces.requests))} of {len(traces.requests)} traces played")
    names = [(FULL, ""), (BOUND, ""), *((rule.rule, rule.setting) for rule in rules)]
    return [_joined(*name, part, traces.samples) for name, part in zip(names, parts, strict=True)]


def decode_one(kit: Kit, contender: Decoded, traces: Traces) -> Run:
    """Decode the traces under a rule that changes what is written."""
    setting = kit.setting
    sampling = setting.sampling
    options = SamplingOptions(sampling.temperature, sampling.top_p, sampling.top_k)
    with contender.around():
        stopped = setting.backend.under(contender.policy).decode(traces.requests, options)
    answers = [setting.grader.extracted(done.sample.token_ids) for done in stopped]
    verdicts = setting.grader.verifier.verify(answers, [problem.answer for problem in traces.problems])
    whole = np.array(
        [
            [verdict and done.sample.finish_reason != "length", len(done.sample.token_ids), done.net_tokens]
            for verdict, done in zip(verdicts, stopped, strict=True)
        ]
    ).astype(float)
    right, tokens, net = (whole[:, i].reshape(-1, traces.samples) for i in range(3))
    exits = float(np.mean([done.exit_at is not None for done in stopped]))
    return Run(contender.rule, contender.setting, right, tokens, net, exits)


def figures(run: Run, full: Run) -> dict[str, Any]:
    """Return a run's figures, paired with the full traces; 95 % intervals over problems."""
    change = run.right.mean(axis=1) - full.right.mean(axis=1)
    return {
        "rule": run.rule,
        "setting": run.setting,
        "accuracy": float(run.right.mean()),
        "accuracy_change": t_estimate(change),
        "completion_tokens": float(run.tokens.mean()),
        "net_tokens": float(run.net_tokens.mean()),
        "net_saved": paired_saving(full.tokens, run.net_tokens),
        "exits": run.exits,
    }


def saving_at_accuracy(runs: Sequence[Run], full: Run, loss: float = ACCURACY_LOSS) -> Estimate:
    """Return the net tokens that a rule saves where it is ``loss`` less accurate than full traces, between its settings.

    The rule's settings and the full traces, by rising net tokens, make its curve; it is read with
    :func:`reason_rl.evaluate.savings.tokens_at`, in each bootstrap resample of the problems anew. Nothing is saved by a
    setting that costs more net tokens than full traces.
    """
    ordered = [*sorted(runs, key=lambda run: float(run.net_tokens.mean())), full]
    columns = [run.right.mean(axis=1) for run in ordered] + [run.net_tokens.mean(axis=1) for run in ordered]

    def saved(means: Float[np.ndarray, "*draws columns"]) -> Float[np.ndarray, "*draws"]:
        accuracy, tokens = np.split(means, 2, axis=-1)
        order = np.argsort(tokens, axis=-1)
        curve = Curve(np.take_along_axis(tokens, order, -1), np.take_along_axis(accuracy, order, -1))
        needed = tokens_at(curve, accuracy[..., -1] - loss)
        # The cheapest setting may be accurate enough already.
        needed = np.where(np.isnan(needed), curve.tokens[..., 0], needed)
        return np.asarray(np.maximum(0.0, 1 - needed / tokens[..., -1]))

    table = np.stack(columns, axis=1)
    value = float(saved(table.mean(axis=0)))
    if not np.isfinite(value):
        return no_estimate()
    return estimate(value, saved(resampled_means(table, 2000)), len(table))


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the figures of every run, savings at matched accuracy, the best first, and accuracy above budget forcing."""
    full = next(run for run in runs if run.rule == FULL)
    rules = dict.fromkeys(run.rule for run in runs if run.rule != FULL)
    matched = {rule: saving_at_accuracy([run for run in runs if run.rule == rule], full) for rule in rules}
    ranked = sorted(matched.items(), key=lambda item: -(item[1]["mean"] or 0.0))
    cuts = [(run.right, run.net_tokens) for run in runs if run.rule in (YARDSTICK, FULL)]
    above = {
        run.key: gain_at_equal_tokens((run.right, run.net_tokens), cuts)
        for run in runs
        if run.rule not in (YARDSTICK, FULL, BOUND)
    }
    return {
        "runs": [figures(run, full) for run in runs],
        "saved_at_one_point_less": dict(ranked),
        "accuracy_above_budget_forcing_at_equal_net_tokens": above if len(cuts) > 1 else {},
    }


def start(path: Path, header: dict[str, Any]) -> dict[str, Run]:
    """Return the runs of an interrupted comparison with the same header; write the header when there is none.

    A last line without its end, as a kill leaves it, is taken off.

    Raises:
        RunError: when the file belongs to another comparison, or a line is no JSON.
    """
    header = json.loads(json.dumps(header))
    lines = _whole_lines(path) if path.is_file() else []
    if not lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(header) + "\n", encoding="utf-8")
        return {}
    known, *runs = (_record(path, number, line) for number, line in enumerate(lines, start=1))
    if known != header:
        raise RunError(f"{path}: holds another comparison; remove it, or give another --out")
    return {run.key: run for run in map(_run, runs)}


def _whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a file, whose end is cut where it is in the middle of one."""
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if whole != raw:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return whole.splitlines()


def keep(path: Path, run: Run) -> None:
    """Append a run."""
    record = {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in asdict(run).items()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _record(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise RunError(f"{path}:{number}: is no JSON ({error}); remove the file, or give another --out") from None


def _run(record: dict[str, Any]) -> Run:
    right, tokens, net = (np.array(record[name], dtype=float) for name in ("right", "tokens", "net_tokens"))
    return Run(record["rule"], record["setting"], right, tokens, net, record["exits"])


def _joined(rule: str, setting: str, parts: Sequence[Outcome], samples: int) -> Run:
    right, tokens, side, exits = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("right", "tokens", "side_tokens", "exits")
    )
    correct, whole, net = (column.astype(float).reshape(-1, samples) for column in (right, tokens, tokens + side))
    return Run(rule, setting, correct, whole, net, float(exits.mean()))
