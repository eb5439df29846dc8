"""Pictures of the prior: what it looks like, what it does to attention, and what Guardian decides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason_rl.bench.jobs import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLACES = 64
MAP_SIDES = ("stock", "static", "content", "published")
PIXELS_AN_INCH = 90


def draw_pictures(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write the pictures that the results allow as PNG and return their files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [_prior(folder / "rpa_prior.png")]
    maps = {row["variant"]: row["attention"] for row in rows if "attention" in row}
    if all(side in maps for side in MAP_SIDES):
        drawn.append(_attention(maps, folder / "rpa_attention.png"))
    decided = [row for row in rows if "decisions" in row]
    if decided:
        drawn.append(_guardian(decided, folder / "guardian.png"))
    return drawn


def _figure(columns: int, height: float) -> tuple[Any, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, height), layout="constrained", dpi=PIXELS_AN_INCH)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)
    return figure, list(axes[0])


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, metadata={"Software": None})
    return path


def _prior(path: Path) -> Path:
    """Memberships, blocks, and the prior at two temperatures."""
    from reason_rl.attention.prior import Prior, static_memberships

    prior = Prior(static_memberships(PLACES, 4), 4)
    figure, axes = _figure(4, 2.6)
    for axis, values, title in (
        (axes[0], prior.memberships, "regimes of a query"),
        (axes[1], prior.keys, "blocks of a key"),
    ):
        axis.plot(values.numpy())
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("place", fontsize=8)
    for axis, tau in zip(axes[2:], (1.0, 0.6), strict=True):
        _map(axis, Prior(static_memberships(PLACES, 4), 4, tau=tau).log_prior.exp().numpy(), f"prior, tau {tau:g}")
    return _save(figure, path)


def _map(axis: Axes, values: Any, title: str) -> None:
    """Draw a square of queries and keys, each row relative to even attention so that late rows are not pale."""
    import numpy as np

    rows = np.asarray(values, dtype=float)
    even = rows * np.arange(1, len(rows) + 1)[:, None]
    axis.imshow(np.where(np.tri(len(rows), dtype=bool), even, np.nan), cmap="viridis", vmin=0, vmax=3)
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("key", fontsize=8)
    axis.set_ylabel("query", fontsize=8)
    axis.set_xticks([])
    axis.set_yticks([])


def _attention(maps: dict[str, Any], path: Path) -> Path:
    figure, axes = _figure(len(MAP_SIDES), 2.7)
    for axis, side in zip(axes, MAP_SIDES, strict=True):
        _map(axis, maps[side], side)
    return _save(figure, path)


def _guardian(rows: Sequence[Row], path: Path) -> Path:
    """Temperature and held-out cross-entropy over updates, a line a seed; dots are decisions that acted."""
    figure, axes = _figure(2, 2.6)
    for row in rows:
        steps = [one["step"] for one in row["decisions"]]
        for axis, name in zip(axes, ("guardian_tau", "cross_entropy"), strict=True):
            (line,) = axis.plot(
                steps, [one[name] for one in row["decisions"]], label=f"seed {row['seed']}", linewidth=1
            )
            acted = [one for one in row["decisions"] if one["guardian_acted"]]
            axis.plot(
                [one["step"] for one in acted], [one[name] for one in acted], ".", color=line.get_color(), markersize=4
            )
    for axis, title in zip(axes, ("temperature", "held-out cross-entropy, nats"), strict=True):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("update", fontsize=8)
    axes[0].legend(fontsize=8, frameon=False)
    return _save(figure, path)
