"""Which clips make up the global batch of a step: a pure function of the seed and the step.

No position is kept anywhere, so a resumed run, another number of workers or another split into
micro-batches continues with the same clips.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vavl.data.partitions import Partition

FILLER = -1
_WINDOW_STEPS = 16
"""Clips are sorted by length within windows of this many steps: little padding, still well shuffled."""


@dataclass(frozen=True)
class Sampler:
    """Draws global batches of a fixed composition.

    Args:
        clips: manifest rows of each partition.
        rows_per_step: rows that each partition gives to a global batch.
        length: (clips of the manifest,), frames by which clips of like length are put together.
        seed: of the shuffles.
    """

    clips: dict[Partition, NDArray[np.int64]]
    rows_per_step: dict[Partition, int]
    length: NDArray[np.int32]
    seed: int
    _orders: dict[Partition, tuple[int, NDArray[np.int64]]] = field(default_factory=dict, repr=False)

    @property
    def batch_size(self) -> int:
        """Clips of a global batch."""
        return sum(self.rows_per_step.values())

    def global_batch(self, step: int) -> NDArray[np.int64]:
        """Return the manifest rows of the global batch of ``step``, partition by partition.

        A partition that runs out starts over with a new shuffle, in the middle of a batch if need be.
        """
        return np.concatenate([self._rows(name, step) for name in self.rows_per_step])

    def slots(self, step: int, slots: int) -> list[NDArray[np.int64]]:
        """Deal the global batch to ``slots`` (ranks x micro-batches) in equal row counts.

        Rows are dealt in turn from the order (partition, length), so that every slot gets nearly the
        same composition and work; what does not divide evenly is filled up with ``FILLER``.
        """
        dealt = self.global_batch(step)
        rows = -(-len(dealt) // slots)
        padded = np.full(rows * slots, FILLER, dtype=np.int64)
        padded[: len(dealt)] = dealt
        return [padded[slot::slots] for slot in range(slots)]

    def _rows(self, partition: Partition, step: int) -> NDArray[np.int64]:
        rows, clips = self.rows_per_step[partition], len(self.clips[partition])
        first = step * rows
        parts: list[NDArray[np.int64]] = []
        while rows > 0:
            turn, offset = divmod(first, clips)
            part = self._order(partition, turn)[offset : offset + rows]
            parts.append(part)
            first, rows = first + len(part), rows - len(part)
        drawn = np.concatenate(parts)
        return drawn[np.argsort(self.length[drawn], kind="stable")]

    def _order(self, partition: Partition, turn: int) -> NDArray[np.int64]:
        """Order the clips of one partition for its ``turn``-th pass; the latest order is kept."""
        kept = self._orders.get(partition)
        if kept is None or kept[0] != turn:
            kept = (turn, self._shuffle(partition, turn))
            self._orders[partition] = kept
        return kept[1]

    def _shuffle(self, partition: Partition, turn: int) -> NDArray[np.int64]:
        place = list(Partition).index(partition)
        generator = np.random.default_rng([self.seed, place, turn])
        shuffled = generator.permutation(self.clips[partition])
        rows = self.rows_per_step[partition]
        order: list[NDArray[np.int64]] = []
        for start in range(0, len(shuffled), rows * _WINDOW_STEPS):
            window = shuffled[start : start + rows * _WINDOW_STEPS]
            window = window[np.argsort(self.length[window], kind="stable")]
            whole = len(window) // rows * rows
            groups = window[:whole].reshape(-1, rows)
            order.extend((generator.permutation(groups).reshape(-1), window[whole:]))
        return np.concatenate(order)
