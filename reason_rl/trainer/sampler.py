"""Prompt order: grouped as TRL wants it, derived from (seed, epoch), and a second stream for refills."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from trl.trainer.utils import RepeatSampler


class GroupSampler(RepeatSampler):
    """TRL's RepeatSampler whose order is a function of (seed, epoch), so that a resumed epoch continues its own order.

    The first epoch equals stock TRL's. Stock replays the first epoch's order when a run is resumed in a later one.
    """

    def set_epoch(self, epoch: int) -> None:
        """Derive the next permutation from the seed and the epoch; accelerate calls this before each epoch."""
        if self.shuffle:
            self.generator.manual_seed(self.seed + epoch)


class RefillStream:
    """An endless, seeded stream of dataset rows for refill rounds, disjoint between ranks; its position is its state."""

    def __init__(self, rows: int, seed: int, rank: int, world_size: int) -> None:
        if rows < world_size:
            raise ValueError(f"{rows} problems cannot be divided among {world_size} processes")
        self.rows, self.seed, self.rank, self.world_size = rows, seed, rank, world_size
        self.position = 0

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(1_000_003 * (self.seed + 1) + epoch)
        order = torch.randperm(self.rows, generator=generator).tolist()
        return order[self.rank :: self.world_size][: self.rows // self.world_size]

    def take(self, count: int) -> Iterator[int]:
        """Yield the next ``count`` dataset indices of this rank."""
        share = self.rows // self.world_size
        order, epoch = [], -1
        for _ in range(count):
            if self.position // share != epoch:
                epoch = self.position // share
                order = self._order(epoch)
            yield order[self.position % share]
            self.position += 1
