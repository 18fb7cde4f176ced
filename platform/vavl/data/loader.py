"""Micro-batches of a rank: read, normalized, padded; ahead in a background thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from vavl.data.augmentation import AugmentationSettings, ViewMaker
from vavl.data.batch import GPU_MULTIPLE, ClipBatch, ModalityBatch, WeakView, pad_clips
from vavl.data.collection import ClipCollection, not_finite
from vavl.data.normalization import Normaliser
from vavl.data.sampler import FILLER, Sampler
from vavl.features import MODALITIES, Normalisation

_READ_AHEAD = 3
_STEPS_AHEAD = 1000
"""In whose order shards are copied; by then nearly every shard was needed."""

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class RankPlace:
    """Where a process stands among those that share the global batch."""

    rank: int = 0  # 0 to world_size - 1.
    world_size: int = 1  # number of processes.
    micro_batches: int = 1  # micro-batches of a process per optimizer step.


def collate(
    collection: ClipCollection,
    rows: NDArray[np.int64],
    normaliser: Mapping[str, Normaliser],
    views: ViewMaker | None = None,
    places: NDArray[np.int64] | None = None,
    multiple: int = 1,
) -> ClipBatch:
    """Read, normalize and pad the clips of one micro-batch.

    Frames that lie in the store as float16, and that no view changes, stay so: ``ClipBatch.to`` normalizes them.

    Args:
        collection: where the clips are.
        rows: manifest rows; ``FILLER`` rows become clips without modality and label.
        normaliser: by modality.
        views: changes the frames for training, or shows one modality of a pair; None takes clips as they are.
        places: of the rows in the global batch; by default their number in ``rows``.
        multiple: of which the frames are, where clips have to be padded.

    Raises:
        StoreError: the store was damaged or cut, or features are not finite; names the clip.
    """
    collection.check_uncut()
    real, safe = rows != FILLER, np.maximum(rows, 0)
    has = {modality: collection.has(modality, safe) & real for modality in MODALITIES}
    if views is not None:
        has = views.shown(has)

    def padded(modality: str) -> ModalityBatch:
        own, there = normaliser[modality], np.flatnonzero(has[modality]).tolist()
        is_half = collection.is_half(modality) and not (views is not None and views.changes(modality))
        clips, each = [], []
        for at in there:
            row, speaker = int(rows[at]), int(collection.speaker[rows[at]])
            each.append(own.of(speaker, row))
            frames = _finite_frames(collection, modality, row, None if is_half else each[-1])
            if views is not None and not is_half:
                frames = views.view(modality, at, views.exchanged(at, frames, speaker, own.speaker_means))
            clips.append(frames)
        batch = pad_clips(clips, there, collection.width(modality), multiple)
        if not there or not is_half:
            return batch
        mean, std = (np.stack([getattr(one, name) for one in each])[:, None] for name in ("mean", "std"))
        return replace(batch, mean=torch.from_numpy(mean), std=torch.from_numpy(std))

    return ClipBatch(
        audio=padded("audio"),
        video=padded("video"),
        index=torch.from_numpy(rows.copy()),
        target=torch.from_numpy(np.where(real[:, None], collection.target[safe], 0).astype(np.float32)),
        is_labelled=torch.from_numpy((collection.is_labelled[safe] & real).astype(np.float32)),
        has_audio=torch.from_numpy(has["audio"].astype(np.float32)),
        has_video=torch.from_numpy(has["video"].astype(np.float32)),
        place=torch.from_numpy(np.arange(len(rows)) if places is None else places),
    )


def _finite_frames(
    collection: ClipCollection, modality: str, row: int, normalisation: Normalisation | None
) -> NDArray[Any]:
    """Return the frames (time, channel) of a manifest row that has the modality, normalized in float32.

    Without a normalization they are raw, as they lie in a float16 store; none of these becomes infinite when it is
    normalized, for ``Normalisation`` divides by no less than 1e-8.

    Raises:
        StoreError: the store was damaged or cut, or they are not finite; names the clip.
    """
    frames = collection.frames(modality, row, as_stored=normalisation is None)
    found = frames if normalisation is None else normalisation.apply(frames)
    if not _is_finite(found):
        raise not_finite(collection, modality, row, frames)
    return found


def _is_finite(frames: NDArray[Any]) -> bool:
    if frames.dtype == np.float16:  # by their exponents, 16 times as fast as numpy's test of halves
        return bool((frames.view(np.uint16) & 0x7FFF).max() < 0x7C00)
    return bool(np.isfinite(frames).all())


@dataclass(frozen=True)
class StepLoader:
    """Loads what one rank sees of each step.

    Args:
        collection: the clips.
        sampler: decides the global batches.
        normaliser: by modality.
        place: of this rank.
        augmentation: views of the training clips.
        weak_view: of the unlabeled clips, when pseudo-labels are trained.
        device: a GPU that the micro-batches are copied to while it computes; None leaves them in main memory.
    """

    collection: ClipCollection
    sampler: Sampler
    normaliser: Mapping[str, Normaliser]
    place: RankPlace
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    weak_view: AugmentationSettings | None = None
    device: torch.device | None = None

    def steps(self, first: int, end: int) -> Iterator[list[ClipBatch]]:
        """Yield the micro-batches of this rank for steps ``first`` to ``end - 1``."""
        ahead = self.sampler.global_batches(first, min(end, first + _STEPS_AHEAD))
        with self.collection.copied_ahead(ahead):
            yield from read_ahead(self.load, range(first, end))

    def load(self, step: int) -> list[ClipBatch]:
        """Load the micro-batches of one step."""
        total = self.place.world_size * self.place.micro_batches
        slots = list(enumerate(self.sampler.slots(step, total)))
        own = slots[self.place.rank :: self.place.world_size]
        batches = [self._collate(rows, step, slot, total) for slot, rows in own]
        if self.device is None:
            return batches
        return [batch.sent(self.device, self._copies) for batch in batches]

    def filler(self) -> ClipBatch:
        """Return a batch of one row without modality and label: the whole graph runs on it, and nothing counts."""
        return collate(self.collection, np.full(1, FILLER), self.normaliser)

    @cached_property
    def _copies(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    @property
    def _multiple(self) -> int:
        return 1 if self.device is None else GPU_MULTIPLE

    def _collate(self, rows: NDArray[np.int64], step: int, slot: int, slots: int) -> ClipBatch:
        # The sampler deals in turn: row i of a slot stands at slot + i * slots of the global batch.
        places = slot + slots * np.arange(len(rows))
        views = ViewMaker(self.augmentation, self.sampler.seed, step, places)
        batch = collate(self.collection, rows, self.normaliser, views, places, self._multiple)
        if self.weak_view is None:
            return batch
        return replace(batch, weak=self._weak(rows, step, places, self.weak_view))

    def _weak(
        self, rows: NDArray[np.int64], step: int, places: NDArray[np.int64], settings: AugmentationSettings
    ) -> WeakView:
        clip = np.flatnonzero((rows != FILLER) & ~self.collection.is_labelled[np.maximum(rows, 0)])
        chosen = rows[clip]
        if not len(clip):
            clip, chosen = np.zeros(1, np.int64), np.full(1, FILLER)
        views = ViewMaker(settings, self.sampler.seed, step, places[clip], is_weak=True)
        batch = collate(self.collection, chosen, self.normaliser, views, places[clip], self._multiple)
        return WeakView(batch, torch.from_numpy(clip))


def evaluation_batches(
    collection: ClipCollection,
    rows: NDArray[np.int64],
    normaliser: Mapping[str, Normaliser],
    batch_size: int,
    place: RankPlace,
    pinned: bool = False,
) -> Iterator[ClipBatch]:
    """Yield this rank's share of ``rows``, each clip once over all ranks, in batches of like length.

    Every rank gets the same number of batches of the same number of rows (fillers where clips run
    out): under ZeRO-3 each forward is collective. ``pinned`` batches are for a GPU:
    in page-locked memory, with frames in multiples of 32.
    """
    ordered = rows[np.argsort(collection.lengths(rows), kind="stable")]
    group = batch_size * place.world_size
    padded = np.full(-(-len(ordered) // group) * group, FILLER, dtype=np.int64)
    padded[: len(ordered)] = ordered
    shares = [chunk[place.rank :: place.world_size] for chunk in padded.reshape(-1, group)]

    def load(share: NDArray[np.int64]) -> ClipBatch:
        batch = collate(collection, share, normaliser, multiple=GPU_MULTIPLE if pinned else 1)
        return batch.pinned() if pinned else batch

    with collection.copied_ahead(shares):
        yield from read_ahead(load, shares)


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
