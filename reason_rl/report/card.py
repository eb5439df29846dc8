"""A model card with the results of a run, for the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from reason_rl.errors import RunError
from reason_rl.hub import first_line, hub_errors, quiet_hub
from reason_rl.models import kept_in
from reason_rl.run_folder import RunFolder, write_text

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

# Metric of a summary, and what the hub calls it.
METRICS = {"accuracy": "accuracy", "completion_tokens": "mean completion tokens"}
CARD = """---
{metadata}
---

# {name}

{method} on `{base}`, trained with reason_rl. {verdict}

| | before | after | paired difference |
|---|---:|---:|---:|
{rows}

{problems} held-out problems x {samples} samples of `{data}`; cap {max_tokens} completion tokens, temperature {temperature},
top-p {top_p}; cut answers count as wrong; 95 % intervals over problems. Recipe: `recipe.yaml`.
"""


def publish(run: RunFolder, repository: str, *, dry_run: bool) -> Path:
    """Write the card and the recipe beside the trained model, and push the model's folder unless it is a dry run.

    Args:
        run: a finished run.
        repository: name on the hub, ``user/model``.
        dry_run: write only.

    Raises:
        RunError: when the run has no model or no results, its attention is no standard one, or the hub refuses it.
    """
    if not run.model.is_dir() or not run.summary.is_file():
        raise RunError(f"{run.path}: a card needs a trained model and summary.json; finish the run first")
    if (kept := kept_in(run.model)) is not None and not dry_run:
        raise RunError(f"--push: the model's attention keeps {kept}, which code on the hub does not know; not pushed")
    resolved = run.resolved.read_text()
    text = card(json.loads(run.summary.read_text()), YAML(typ="safe").load(resolved), repository)
    write_text(run.model / "README.md", text)
    write_text(run.model / "recipe.yaml", resolved)
    if not dry_run:
        _upload(run.model, repository)
    return run.model / "README.md"


def card(summary: dict[str, Any], recipe: dict[str, Any], repository: str) -> str:
    """Return the card: metadata with one result a metric, and the table of the run."""
    from huggingface_hub import ModelCardData

    from reason_rl.report.page import verdict
    from reason_rl.report.tables import figure

    base = recipe["model"]["path"]
    data = dataset_of(recipe["eval"]["data"])
    metadata = ModelCardData(
        model_name=repository.split("/")[-1],
        base_model=base,
        library_name="transformers",
        tags=["reason_rl", "efficient-reasoning"],
        eval_results=results(summary, data),
    )
    sampling = summary["sampling"]
    rows = "\n".join(
        f"| {name} | "
        + " | ".join(
            figure(metric, summary["metrics"][metric][side], signed=side == "difference")
            for side in ("before", "after", "difference")
        )
        + " |"
        for metric, name in METRICS.items()
    )
    return CARD.format(
        metadata=metadata.to_yaml().strip(),
        name=repository.split("/")[-1],
        method=(recipe.get("about") or {}).get("method", "RL fine-tuning"),
        base=base,
        verdict=verdict(summary),
        rows=rows,
        problems=summary["problems"],
        samples=summary["samples"],
        data=data,
        **{key: sampling[key] for key in ("max_tokens", "temperature", "top_p")},
    )


def results(summary: dict[str, Any], data: str) -> list[EvalResult]:
    """Return the metrics after training as the hub's evaluation results."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=data,
            dataset_name=data,
            metric_type=metric,
            metric_name=name,
            metric_value=round(summary["metrics"][metric]["after"]["mean"], 4),
        )
        for metric, name in METRICS.items()
    ]


def dataset_of(data: dict[str, Any]) -> str:
    """Return what the evaluation's problems are called.

    >>> dataset_of({"use": "hub", "name": "openai/gsm8k"}), dataset_of({"use": "world", "split": "test"})
    ('openai/gsm8k', 'world')
    >>> dataset_of({"use": "jsonl", "path": "data/olympiadbench.jsonl"})
    'olympiadbench'
    """
    named = data.get("name") or data.get("task") or data.get("puzzle") or Path(data.get("path") or "").stem
    return str(named or data["use"])


def _upload(folder: Path, repository: str) -> None:
    from huggingface_hub import HfApi

    try:
        with quiet_hub():
            api = HfApi()
            api.create_repo(repository, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder)
    except hub_errors() as error:
        raise RunError(f"--push {repository}: {first_line(error)}; the card is in {folder}") from error
