"""Micro-batches of a rank, read ahead in a background thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vavl.data.batch import ClipBatch
from vavl.data.collection import ClipCollection, Normaliser, collate
from vavl.data.sampler import FILLER, Sampler

_READ_AHEAD = 3

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class RankPlace:
    """Where a process stands among those that share the global batch.

    Attributes:
        rank: 0 to world_size - 1.
        world_size: number of processes.
        micro_batches: micro-batches of a process per optimizer step.
    """

    rank: int = 0
    world_size: int = 1
    micro_batches: int = 1


@dataclass(frozen=True)
class StepLoader:
    """Loads what one rank sees of each step.

    Args:
        collection: the clips.
        sampler: decides the global batches.
        normaliser: by modality.
        place: of this rank.
    """

    collection: ClipCollection
    sampler: Sampler
    normaliser: Mapping[str, Normaliser]
    place: RankPlace

    def steps(self, first: int, end: int) -> Iterator[list[ClipBatch]]:
        """Yield the micro-batches of this rank for steps ``first`` to ``end - 1``."""
        return read_ahead(self.load, range(first, end))

    def load(self, step: int) -> list[ClipBatch]:
        """Load the micro-batches of one step."""
        slots = self.sampler.slots(step, self.place.world_size * self.place.micro_batches)
        return [
            collate(self.collection, slots[micro * self.place.world_size + self.place.rank], self.normaliser)
            for micro in range(self.place.micro_batches)
        ]


def evaluation_batches(
    collection: ClipCollection,
    rows: NDArray[np.int64],
    normaliser: Mapping[str, Normaliser],
    batch_size: int,
    place: RankPlace,
) -> Iterator[ClipBatch]:
    """Yield this rank's share of ``rows``, each clip once over all ranks, in batches of like length.

    Every rank gets the same number of batches of the same number of rows (fillers where clips run
    out): under ZeRO-3 each forward is collective.
    """
    ordered = rows[np.argsort(collection.lengths()[rows], kind="stable")]
    group = batch_size * place.world_size
    padded = np.full(-(-len(ordered) // group) * group, FILLER, dtype=np.int64)
    padded[: len(ordered)] = ordered
    shares = [chunk[place.rank :: place.world_size] for chunk in padded.reshape(-1, group)]
    return read_ahead(lambda share: collate(collection, share, normaliser), shares)


def read_ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """Yield ``make(item)`` in order, a few ahead of the reader in one background thread."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as reader:
        waiting: deque[Future[Made]] = deque()
        try:
            for item in items:
                waiting.append(reader.submit(make, item))
                if len(waiting) > _READ_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
