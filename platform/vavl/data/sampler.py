"""Which clips make up the global batch of a step: a pure function of the seed and the step.

No position is kept anywhere, so a resumed run, another number of workers or another split into
micro-batches continues with the same clips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from vavl.data.partitions import Partition
from vavl.store.arrays import pieces

FILLER = -1
_WINDOW_STEPS = 16
"""Clips are sorted by length within windows of this many steps: little padding, still well shuffled."""
_MOST_HELD = 2**16
"""A larger partition computes its permutations window by window; up to here one order (512 KB) is held, as it always
was, so that runs on the corpora of today repeat to the last digit."""
_ROUNDS = 8


@dataclass(frozen=True)
class Sampler:
    """Draws global batches of a fixed composition.

    Args:
        clips: manifest rows of each partition; may be mapped.
        rows_per_step: rows that each partition gives to a global batch.
        length_of: manifest rows -> frames, by which clips of like length are put together.
        seed: of the shuffles.
    """

    clips: Mapping[Partition, NDArray[np.integer]]
    rows_per_step: Mapping[Partition, int]
    length_of: Callable[[NDArray[np.integer]], NDArray[np.integer]]
    seed: int
    _orders: dict[Partition, tuple[tuple[int, int], NDArray[np.integer]]] = field(default_factory=dict, repr=False)

    @property
    def batch_size(self) -> int:
        """Clips of a global batch."""
        return sum(self.rows_per_step.values())

    def global_batch(self, step: int) -> NDArray[np.int64]:
        """Return the manifest rows of the global batch of ``step``, partition by partition.

        A partition that runs out starts over with a new shuffle, in the middle of a batch if need be.
        """
        return np.concatenate([self._rows(name, step) for name in self.rows_per_step]).astype(np.int64)

    def global_batches(self, first: int, end: int) -> Iterator[NDArray[np.int64]]:
        """Yield the global batches of steps ``first`` to ``end - 1``, while another thread draws from this sampler."""
        apart = replace(self, _orders={})  # it would drop the order that the other one is in the middle of
        yield from map(apart.global_batch, range(first, end))

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

    def _rows(self, partition: Partition, step: int) -> NDArray[np.integer]:
        rows, clips = self.rows_per_step[partition], len(self.clips[partition])
        first, held = step * rows, self._held(partition)
        parts: list[NDArray[np.integer]] = []
        while rows > 0:
            turn, place = divmod(first, clips)
            number, offset = divmod(place, held)
            part = self._order(partition, turn, number)[offset : offset + rows]
            parts.append(part)
            first, rows = first + len(part), rows - len(part)
        drawn = np.concatenate(parts)
        return drawn[np.argsort(self.length_of(drawn), kind="stable")]

    def _held(self, partition: Partition) -> int:
        """Return the clips of a pass whose order is in memory at once."""
        clips = len(self.clips[partition])
        return clips if clips <= _MOST_HELD else self.rows_per_step[partition] * _WINDOW_STEPS

    def _order(self, partition: Partition, turn: int, number: int) -> NDArray[np.integer]:
        """Order the ``number``-th part of the clips of one partition for its ``turn``-th pass; the latest is kept."""
        kept = self._orders.get(partition)
        if kept is None or kept[0] != (turn, number):
            kept = self._orders[partition] = ((turn, number), self._drawn(partition, turn, number))
        return kept[1]

    def _drawn(self, partition: Partition, turn: int, number: int) -> NDArray[np.integer]:
        """Shuffle; then put clips of like length into the same step, within windows whose steps come in any order."""
        clips, rows, held = self.clips[partition], self.rows_per_step[partition], self._held(partition)
        key = [self.seed, list(Partition).index(partition), turn]
        if held == len(clips):
            generator = np.random.default_rng(key)
            shuffled = generator.permutation(clips)
        else:
            positions = np.arange(number * held, min((number + 1) * held, len(clips)))
            generator = np.random.default_rng([*key, number, 1])
            shuffled = clips[permuted(positions, len(clips), key)]
        order: list[NDArray[np.integer]] = []
        for window in pieces(shuffled, rows * _WINDOW_STEPS):
            ordered = window[np.argsort(self.length_of(window), kind="stable")]
            whole = len(window) // rows * rows
            order.extend((generator.permutation(ordered[:whole].reshape(-1, rows)).reshape(-1), ordered[whole:]))
        return np.concatenate(order)


def permuted(positions: NDArray[np.int64], count: int, key: Sequence[int]) -> NDArray[np.int64]:
    """Return where the permutation of 0 .. ``count`` - 1 that belongs to ``key`` sends positions; nothing is held.

    A generalized Feistel network (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002): a position is
    two digits to a base of about the root of ``count``, each shifted in turn by a hash of the other. The few results
    that are not below ``count`` go through again (cycle walking), so it is a bijection.
    """
    low_base = math.isqrt(count - 1) + 1
    high_base = -(-count // low_base)
    keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)
    moved, waiting = positions.astype(np.uint64), np.arange(len(positions))
    while len(waiting):
        high, low = np.divmod(moved[waiting], np.uint64(low_base))
        for first, second in keys.reshape(-1, 2):
            high = (high + _mixed(low ^ first) % np.uint64(high_base)) % np.uint64(high_base)
            low = (low + _mixed(high ^ second) % np.uint64(low_base)) % np.uint64(low_base)
        moved[waiting] = high * np.uint64(low_base) + low
        waiting = waiting[moved[waiting] >= count]
    return moved.astype(np.int64)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash numbers: the last steps of SplitMix64 (Steele, Lea and Flood 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
