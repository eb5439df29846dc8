"""The folder of one run: what was asked, what it ran on, what came out."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

from reason_rl.errors import RecipeError

PACKAGES = ("reason_rl", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "math-verify", "numpy")
ASKED = ("resolved.yaml", "environment.json")  # written before anything is made


class RunFolder:
    """Paths of a run, and atomic writing into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.resolved = path / "resolved.yaml"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.eval = path / "eval"
        self.summary = path / "summary.json"
        self.report = path / "report.html"
        self.trained = path / "trained.json"
        self.marker = path / "finished.json"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.marker.is_file()

    def started(self) -> bool:
        """Tell whether anything of a run was made; what was asked is not, nor an evaluation that has no row yet."""
        return any(self._made(path) for path in self.path.rglob("*"))

    def _made(self, path: Path) -> bool:
        if not path.is_file() or (path.parent == self.path and path.name.removesuffix(".part") in ASKED):
            return False
        if path.suffix == ".part":
            with path.open("rb") as file:
                return len(list(islice(file, 2))) == 2
        return path.stat().st_size > 0

    def training(self) -> dict[str, Any] | None:
        """Return steps and seconds of a training that came to its end, else None."""
        done: dict[str, Any] | None = json.loads(self.trained.read_text()) if self.trained.is_file() else None
        return done

    def check_recipe(self, resolved: str) -> None:
        """Raise RecipeError when the folder holds a run of another recipe."""
        if self.resolved.is_file() and self.resolved.read_text() != resolved:
            raise RecipeError(
                f"output: {self.path} holds a run of another recipe (see {self.resolved.name}); name another output="
            )

    def prepare(self, resolved: str, *, resume: bool) -> None:
        """Create the folder and write the resolved recipe and the environment.

        A run that was refused before it made anything does not stand in the way of another.

        Raises:
            RecipeError: when the folder cannot be written, holds an unfinished run that is not to be resumed, or holds a
                run of another recipe.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".probe"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise RecipeError(f"output: cannot write to {self.path} ({error.strerror})") from error
        if self.resolved.is_file() and self.started():
            if not resume:
                raise RecipeError(f"output: {self.path} holds an unfinished run; use --resume, or name another output=")
            self.check_recipe(resolved)
        write_text(self.resolved, resolved)
        self.write_json("environment.json", environment())

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file that appears whole or not at all."""
        write_text(self.path / name, json.dumps(value, indent=2, sort_keys=True) + "\n")

    def finish(self) -> None:
        """Mark the run as finished."""
        self.write_json(self.marker.name, {"finished": True})


def refuse_used(folder: Path) -> None:
    """Refuse a place for a model that is a file, or a folder with anything in it.

    Raises:
        RecipeError: naming it.
    """
    if folder.is_file():
        raise RecipeError(f"{folder} is a file; name a folder")
    if folder.exists() and any(folder.iterdir()):
        raise RecipeError(f"{folder} exists and is not empty; name another folder")


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that decide a result."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def environment() -> dict[str, Any]:
    """Return versions, platform, git commit and command line."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "packages": package_versions(),
        "git": git_commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def git_commit() -> str | None:
    """Return the commit of the working folder, with + when it has changes; None outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        status = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")
