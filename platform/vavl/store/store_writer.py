"""Write a feature store from record batches that are already in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vavl.config.files import make_folder, sha256_of_file, write_json
from vavl.errors import StoreError
from vavl.features import MODALITIES, ChannelSums, ModalityInfo
from vavl.store.rows import CHECKS_SCHEMA, ROW_SCHEMA, checks_file, checks_of, written_stream
from vavl.store.store import FORMAT_VERSION, SUMS_SCHEMA, content_hash

# Large enough that 200,000 clips need few batches, which a reader pays for; small enough that a writer holds some.
_ROWS_PER_BATCH = 2000
_VALUES_PER_BATCH = 2_000_000
# A whole batch in float64, and squared, would take ten times the memory of anything else in an extraction.
_CLIPS_IN_FLOAT64 = 16


@dataclass(frozen=True)
class ClipFeatures:
    """Features of one modality of one clip.

    Attributes:
        values: (time, channel), float32.
        frame_times: (time,), float32, seconds, center of each frame.
    """

    clip_id: str
    speaker: str
    values: NDArray[np.float32]
    frame_times: NDArray[np.float32]


def row_batch(corpus: str, width: int, clips: Sequence[ClipFeatures]) -> pa.RecordBatch:
    """Put clips into rows of ``ROW_SCHEMA``."""
    frames = np.array([len(clip.values) for clip in clips], dtype=np.int32)
    values = [clip.values.astype(np.float32, copy=False).reshape(-1) for clip in clips]
    times = [clip.frame_times.astype(np.float32, copy=False) for clip in clips]
    columns = [
        pa.array([clip.clip_id for clip in clips], pa.string()),
        pa.array([corpus] * len(clips), pa.string()),
        pa.array([clip.speaker for clip in clips], pa.string()),
        pa.array(frames, pa.int32()),
        pa.array(np.full(len(clips), width), pa.int32()),
        pa.array(["float32"] * len(clips), pa.string()),
        _lists(values),
        _lists(times),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=ROW_SCHEMA)


class StoreWriter:
    """Writes the files of a store; the directory is a store only after ``finish``.

    Args:
        directory: of the store; an older store.json in it is removed, for its files are about to change.
        corpus: name.
        card_hash: of the card that the clips were found with.

    Raises:
        InputError: the directory cannot be written.
    """

    def __init__(self, directory: Path, corpus: str, card_hash: str) -> None:
        self.directory, self.corpus, self.card_hash = make_folder(directory), corpus, card_hash
        (directory / "store.json").unlink(missing_ok=True)
        self._modalities: dict[str, dict[str, Any]] = {}

    def write_modality(
        self,
        modality: str,
        info: ModalityInfo,
        batches: Iterable[pa.RecordBatch],
        known_sums: Mapping[str, ChannelSums] | None = None,
    ) -> None:
        """Write the rows of one modality and the sums of its speakers; without any row, nothing.

        Args:
            modality: "audio" or "video".
            info: provenance; its counts are filled in here.
            batches: of ``ROW_SCHEMA``, sorted by clip id over all of them.
            known_sums: by speaker, of all these rows; None adds them up from the rows.

        Raises:
            StoreError: a value is not finite, a width differs, the clips are out of order, or the known sums
                are over other frames.
        """
        assert modality in MODALITIES
        path, sums_path = self.directory / f"{modality}.arrow", self.directory / f"{modality}_sums.arrow"
        batches = _rebatched(batches)
        first = next(batches, None)
        if first is None:
            self.leave_out(modality)
            return
        sums = _SpeakerSums(info.width, known_sums)
        clips, last_id = 0, ""
        batches = chain([first], batches)
        del first  # one batch is in memory, not the first as well, nor the last while the next is made
        with (
            written_stream(path, ROW_SCHEMA) as writer,
            written_stream(self.directory / checks_file(modality), CHECKS_SCHEMA) as checks,
        ):
            for batch in batches:
                last_id = _check_order(path, batch, last_id)
                sums.add(path, batch)
                writer.write_batch(batch)
                checks.write_batch(checks_of(batch))
                clips += batch.num_rows
                del batch
        sums.check(sums_path)
        with written_stream(sums_path, SUMS_SCHEMA) as writer:
            writer.write_batch(sums.batch())
        self._modalities[modality] = self._entry(modality, replace(info, clips=clips, frames=sums.total_frames()))

    def leave_out(self, modality: str) -> None:
        """Remove files of ``modality`` that an older store in the directory may have had."""
        for name in (f"{modality}.arrow", f"{modality}_sums.arrow", checks_file(modality)):
            (self.directory / name).unlink(missing_ok=True)

    def finish(self, counts: Mapping[str, int], sources: Sequence[Mapping[str, Any]] | None = None) -> str:
        """Write store.json and return the store's hash.

        Args:
            counts: of clips and quarantine, for the reader; they do not enter the hash.
            sources: of a merged store, what is known of each store in it; likewise.
        """
        content: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "corpus": self.corpus,
            "card_hash": self.card_hash,
            "modalities": self._modalities,
            "counts": dict(counts),
            "files": self._other_files(),
        }
        if sources is not None:
            content["sources"] = [dict(source) for source in sources]
        content["store_hash"] = content_hash(content)
        write_json(self.directory / "store.json", content)
        return str(content["store_hash"])

    def _other_files(self) -> dict[str, Any]:
        """Size and hash of the other files, so that a copy can be checked; the store's hash has the card."""
        checks = map(checks_file, self._modalities)
        paths = [self.directory / name for name in ("manifest.arrow", "facts.arrow", *checks)]
        return {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)} for path in paths if path.exists()
        }

    def _entry(self, modality: str, info: ModalityInfo) -> dict[str, Any]:
        path = self.directory / f"{modality}.arrow"
        return {
            **vars(info),
            "settings": dict(info.settings),
            "channels": list(info.channels),
            "bytes": path.stat().st_size,
            "sha256": sha256_of_file(path),
            "sums_sha256": sha256_of_file(self.directory / f"{modality}_sums.arrow"),
        }


class _SpeakerSums:
    """Adds up frames per speaker, one record batch after the other; known sums are taken as they are."""

    def __init__(self, width: int, known: Mapping[str, ChannelSums] | None = None) -> None:
        self.width = width
        self._sums: dict[str, ChannelSums] = dict(known or {})
        self._is_known, self._frames = known is not None, 0

    def add(self, path: Path, batch: pa.RecordBatch) -> None:
        frames = batch.column("frames").to_numpy()
        values = batch.column("values").flatten().to_numpy()
        fix = "repair the extractor: each clip needs at least one frame of finite values"
        if len(values) != int(frames.sum()) * self.width or (frames < 1).any():
            raise StoreError(str(path), "values", f"sizes do not fit {self.width} channels a frame", fix)
        if not np.isfinite(values).all():
            raise StoreError(str(path), "values", "features hold NaN or infinite values", fix)
        self._frames += int(frames.sum())
        if self._is_known:
            return
        by_clip, squares_by_clip = _sums_by_clip(values.reshape(-1, self.width), frames)
        coded = batch.column("speaker").dictionary_encode()
        codes = coded.indices.to_numpy()
        for code, speaker in enumerate(coded.dictionary.to_pylist()):
            own = codes == code
            more = ChannelSums(int(frames[own].sum()), by_clip[own].sum(axis=0), squares_by_clip[own].sum(axis=0))
            self._sums[speaker] = self._sums[speaker] + more if speaker in self._sums else more

    def total_frames(self) -> int:
        return sum(sums.count for sums in self._sums.values())

    def check(self, path: Path) -> None:
        if self.total_frames() != self._frames:
            problem = f"sums over {self.total_frames()} frames, the rows have {self._frames}"
            fix = "give the sums of all rows"
            raise StoreError(str(path), "count", problem, fix)

    def batch(self) -> pa.RecordBatch:
        speakers = sorted(self._sums)
        columns = [
            pa.array(speakers, pa.string()),
            pa.array([self._sums[name].count for name in speakers], pa.int64()),
            _lists([self._sums[name].sum for name in speakers]),
            _lists([self._sums[name].sum_of_squares for name in speakers]),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=SUMS_SCHEMA)


def _sums_by_clip(
    values: NDArray[np.float32], frames: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sum and sum of squares (clip, channel) of each clip's frames, which follow each other in ``values``."""
    ends = np.cumsum(frames)
    starts = ends - frames
    sums, squares = [], []
    for first in range(0, len(frames), _CLIPS_IN_FLOAT64):
        last = min(first + _CLIPS_IN_FLOAT64, len(frames))
        exact = values[starts[first] : ends[last - 1]].astype(np.float64)
        own = starts[first:last] - starts[first]
        sums.append(np.add.reduceat(exact, own, axis=0))
        squares.append(np.add.reduceat(np.square(exact), own, axis=0))
    return np.concatenate(sums), np.concatenate(squares)


def _lists(arrays: Sequence[NDArray[Any]]) -> pa.ListArray:
    """Return a list column from one-dimensional arrays without a Python object per value."""
    offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int32)
    flat = np.concatenate(arrays) if arrays else np.zeros(0, np.float32)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat))


def _rebatched(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Cut rows into batches by their sizes alone, so that the file does not depend on how the rows come."""
    waiting: list[pa.RecordBatch] = []
    rows = values = 0
    for batch in batches:
        start = 0
        for row, size in enumerate(batch.column("values").value_lengths().to_pylist(), start=1):
            rows, values = rows + 1, values + size
            if rows >= _ROWS_PER_BATCH or values >= _VALUES_PER_BATCH:
                waiting.append(batch.slice(start, row - start))
                waiting, joined = [], pa.concat_batches(waiting)
                yield joined
                del joined
                rows, values, start = 0, 0, row
        if start < batch.num_rows:
            waiting.append(batch.slice(start))
    if waiting:
        yield pa.concat_batches(waiting)


def _check_order(path: Path, batch: pa.RecordBatch, last_id: str) -> str:
    """Refuse clips that are repeated or out of order; return the last clip id."""
    ids = batch.column("clip_id").to_pylist()
    if any(later <= earlier for earlier, later in zip([last_id, *ids], ids, strict=False)):
        raise StoreError(str(path), "clip_id", "clips are repeated or not sorted", "sort the clips by clip id")
    return str(ids[-1])
