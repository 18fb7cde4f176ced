"""The feature store: one row per clip and modality, mapped in place.

A store is a folder:

    store.json                 provenance, counts, hash; written last, so a directory without it is incomplete
    audio.arrow, video.arrow   Arrow IPC streams with ``ROW_SCHEMA``, sorted by clip id, mapped to train
    *_sums.arrow               per speaker: count, sum and sum of squares of each channel, float64
    manifest.arrow, .parquet   labels, speakers and splits (vavl.corpora.manifest)
    facts.arrow                the files behind the rows: hash, length, ... (vavl.store.clip_facts)
    parts/*.parquet            the same rows to exchange, and what an interrupted extraction continues from
    quarantine.jsonl           clips that could not be read

Features are raw; a run normalizes them with the sums of its training speakers.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vavl.config.files import read_json, sha256_of_file, sha256_of_json
from vavl.errors import InputError, StoreError
from vavl.features import MODALITIES, ChannelSums, ModalityInfo

FORMAT_VERSION = 1
ROW_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("corpus", pa.string()),
        ("speaker", pa.string()),
        ("frames", pa.int32()),
        ("width", pa.int32()),
        ("dtype", pa.string()),
        ("values", pa.list_(pa.float32())),  # flat, frame after frame
        ("frame_times", pa.list_(pa.float32())),  # seconds, centre of each frame
    ]
)
SUMS_SCHEMA = pa.schema(
    [
        ("speaker", pa.string()),
        ("count", pa.int64()),
        ("sum", pa.list_(pa.float64())),
        ("sum_of_squares", pa.list_(pa.float64())),
    ]
)
MAKE_AGAIN = "make the store again: python jobs/prepare_corpus.py CONFIG"


@dataclass(frozen=True)
class _Chunk:
    """Views into one mapped record batch; a few objects per batch, none per clip."""

    clip_ids: pa.Array
    frames: NDArray[np.int32]
    values: NDArray[np.float32]
    value_offsets: NDArray[np.int32]
    times: NDArray[np.float32]
    time_offsets: NDArray[np.int32]

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> Self:
        values, times = batch.column("values"), batch.column("frame_times")
        return cls(
            batch.column("clip_id"),
            batch.column("frames").to_numpy(),
            values.values.to_numpy(),
            values.offsets.to_numpy(),
            times.values.to_numpy(),
            times.offsets.to_numpy(),
        )


class FeatureStore:
    """Read access to a store; opening it reads no features, reading a clip copies none.

    Args:
        folder: of the store.
        content: of its store.json.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any]) -> None:
        self.folder = folder
        self.content = content
        self.info: dict[str, ModalityInfo] = {
            name: ModalityInfo.from_entry(entry) for name, entry in content["modalities"].items()
        }
        self._chunks: dict[str, list[_Chunk]] = {}
        self._first_row: dict[str, list[int]] = {}
        for name, info in self.info.items():
            chunks = [_Chunk.of(batch) for batch in map_batches(folder / f"{name}.arrow", ROW_SCHEMA)]
            ends = np.cumsum([0, *(len(chunk.frames) for chunk in chunks)])
            if ends[-1] != info.clips:
                problem = f"has {ends[-1]} clips, store.json says {info.clips}"
                raise StoreError(str(folder / f"{name}.arrow"), "", problem, MAKE_AGAIN)
            self._chunks[name], self._first_row[name] = chunks, ends.tolist()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the store in ``folder``.

        Raises:
            StoreError: there is no complete store, its format is unknown, or a file of it is missing or cut.
        """
        content = read_content(folder)
        for name, entry in content["modalities"].items():
            _check_size(folder / f"{name}.arrow", entry["bytes"])
        return cls(folder, content)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the files itself; copying the store would copy every feature.
        return FeatureStore.open, (self.folder.absolute(),)

    @property
    def corpus(self) -> str:
        """Name of the corpus."""
        return str(self.content["corpus"])

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits over features and provenance; equal for equal content."""
        return str(self.content["store_hash"])

    def rows(self, modality: str, clip_ids: pa.ChunkedArray) -> NDArray[np.int32]:
        """Return the store row of each clip id, -1 where the modality is absent."""
        found = np.full(len(clip_ids), -1, dtype=np.int32)
        # One index over all ids would take private memory for every clip; sorted ids need one at a time.
        is_sorted = _is_sorted(clip_ids)
        for chunk, first_row in zip(self._chunks[modality], self._first_row[modality], strict=False):
            start, end = _range_of(clip_ids, chunk.clip_ids) if is_sorted else (0, len(clip_ids))
            places = pc.index_in(clip_ids.slice(start, end - start), value_set=chunk.clip_ids)
            local = pc.fill_null(places, -1).to_numpy()
            found[start:end] = np.where(local >= 0, local + first_row, found[start:end])
        return found

    def clip_ids(self, modality: str) -> pa.ChunkedArray:
        """Return the clip ids of the rows, in their order."""
        return pa.chunked_array([chunk.clip_ids for chunk in self._chunks[modality]], pa.string())

    def lengths(self, modality: str) -> NDArray[np.int32]:
        """Return the frames of every row."""
        return self._lengths[modality]

    def features(self, modality: str, row: int) -> NDArray[np.float32]:
        """Return the raw features (time, channel) of a row: a read-only view of the mapped file."""
        chunk, place = self._place(modality, row)
        first, end = chunk.value_offsets[place], chunk.value_offsets[place + 1]
        return chunk.values[first:end].reshape(-1, self.info[modality].width)

    def frame_times(self, modality: str, row: int) -> NDArray[np.float32]:
        """Return the centre of each frame of a row in seconds: a read-only view of the mapped file."""
        chunk, place = self._place(modality, row)
        return chunk.times[chunk.time_offsets[place] : chunk.time_offsets[place + 1]]

    def speaker_sums(self, modality: str) -> dict[str, ChannelSums]:
        """Return the sums over each speaker's frames, by speaker.

        Raises:
            StoreError: the file of the sums is missing or broken.
        """
        sums: dict[str, ChannelSums] = {}
        for batch in map_batches(self.folder / f"{modality}_sums.arrow", SUMS_SCHEMA):
            width = self.info[modality].width
            total = batch.column("sum").values.to_numpy().reshape(-1, width)
            squares = batch.column("sum_of_squares").values.to_numpy().reshape(-1, width)
            counts = batch.column("count").to_pylist()
            for row, speaker in enumerate(batch.column("speaker").to_pylist()):
                sums[speaker] = ChannelSums(counts[row], total[row], squares[row])
        return sums

    def verify(self) -> None:
        """Read everything and compare it with store.json: for a store from elsewhere.

        Raises:
            StoreError: a file was changed, a value is not finite, or frames and values do not fit.
        """
        for name, entry in self.content["modalities"].items():
            for chunk in self._chunks[name]:
                _check_chunk(self.folder / f"{name}.arrow", chunk, self.info[name].width)
            for file, key in ((f"{name}.arrow", "sha256"), (f"{name}_sums.arrow", "sums_sha256")):
                if sha256_of_file(self.folder / file) != entry[key]:
                    raise StoreError(str(self.folder / file), key, "the file was changed", MAKE_AGAIN)
        for file, mark in self.content.get("files", {}).items():
            _check_hash(self.folder / file, mark, "sha256")
        if content_hash(self.content) != self.hash:
            raise StoreError(
                str(self.folder / "store.json"), "store_hash", "the file was changed", MAKE_AGAIN
            )

    @cached_property
    def _lengths(self) -> dict[str, NDArray[np.int32]]:
        return {
            name: np.concatenate([chunk.frames for chunk in chunks]) for name, chunks in self._chunks.items()
        }

    def _place(self, modality: str, row: int) -> tuple[_Chunk, int]:
        first_rows = self._first_row[modality]
        if not 0 <= row < first_rows[-1]:
            problem = f"there is no row {row} among {first_rows[-1]}"
            fix = "ask rows() first"
            raise StoreError(str(self.folder), modality, problem, fix)
        number = bisect_right(first_rows, row) - 1
        return self._chunks[modality][number], row - first_rows[number]


def read_content(folder: Path) -> dict[str, Any]:
    """Read what the store in ``folder`` says about itself; no features.

    Raises:
        StoreError: there is no complete store, or its format is unknown.
    """
    path = folder / "store.json"
    if not path.exists():
        interrupted = "the store is incomplete: its preparation was interrupted"
        state = interrupted if (folder / "parts").exists() else "there is no feature store"
        raise StoreError(str(folder), "store.json", state, f"run: {MAKE_AGAIN.partition(': ')[2]}")
    try:
        content = read_json(path)
    except InputError as error:
        raise StoreError(str(path), "", error.problem, MAKE_AGAIN) from None
    return checked_content(content, str(path))


def checked_content(content: Any, source: str) -> dict[str, Any]:
    """Return the content of a store.json, if this code can read such a store.

    Raises:
        StoreError: its format is unknown, or it names a modality that there is not.
    """
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise StoreError(
            source, "format_version", f"format {version} is unknown, {FORMAT_VERSION} is read", MAKE_AGAIN
        )
    strange = sorted(set(content.get("modalities") or ()) - set(MODALITIES), key=str)
    if strange:  # the names become file names
        raise StoreError(source, "modalities", f"{strange} are not of {list(MODALITIES)}", MAKE_AGAIN)
    try:
        _ = [content[key] for key in ("corpus", "card_hash", "store_hash")]
        for entry in content["modalities"].values():
            ModalityInfo.from_entry(entry)
            _ = [entry[key] for key in ("bytes", "sha256", "sums_sha256")]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(source, "", f"the file was damaged: {error!r}", MAKE_AGAIN) from None
    known: dict[str, Any] = content
    return known


def map_batches(path: Path, schema: pa.Schema) -> list[pa.RecordBatch]:
    """Map an Arrow IPC stream file in place.

    Raises:
        StoreError: the file is missing, broken or has other columns.
    """
    try:
        with pa.ipc.open_stream(pa.memory_map(str(path))) as reader:
            if not reader.schema.equals(schema):
                raise StoreError(str(path), "schema", "has other columns than a store's file", MAKE_AGAIN)
            return list(reader)
    except FileNotFoundError:
        raise StoreError(str(path), "", "the file of the store is missing", MAKE_AGAIN) from None
    except (pa.ArrowException, ValueError, OSError) as error:
        raise StoreError(str(path), "", f"not a readable Arrow file: {error}", MAKE_AGAIN) from None


def content_hash(content: Mapping[str, Any]) -> str:
    """Return the hash of a store from its store.json; file names and counts of quarantine do not count."""
    parts = {key: content[key] for key in ("format_version", "corpus", "card_hash", "modalities")}
    return sha256_of_json(parts)[:16]


def _is_sorted(clip_ids: pa.ChunkedArray) -> bool:
    if len(clip_ids) < 2:
        return True
    return bool(pc.all(pc.less_equal(clip_ids.slice(0, len(clip_ids) - 1), clip_ids.slice(1))).as_py())


def _range_of(clip_ids: pa.ChunkedArray, chunk_ids: pa.Array) -> tuple[int, int]:
    """Return start and end of the part of sorted ``clip_ids`` that can be in sorted ``chunk_ids``."""

    def clip_id(place: int) -> str:
        return str(clip_ids[place].as_py())

    places = range(len(clip_ids))
    start = bisect_left(places, chunk_ids[0].as_py(), key=clip_id)
    return start, bisect_right(places, chunk_ids[-1].as_py(), lo=start, key=clip_id)


def _check_size(path: Path, expected: int) -> None:
    if not path.exists():
        raise StoreError(str(path), "", "the file of the store is missing", MAKE_AGAIN)
    size = path.stat().st_size
    if size != expected:
        raise StoreError(str(path), "", f"has {size} bytes, store.json says {expected}", MAKE_AGAIN)


def _check_hash(path: Path, entry: Mapping[str, Any], key: str) -> None:
    if not path.exists():
        raise StoreError(str(path), "", "the file of the store is missing", MAKE_AGAIN)
    if sha256_of_file(path) != entry[key]:
        raise StoreError(str(path), key, "the file was changed", MAKE_AGAIN)


def _check_chunk(path: Path, chunk: _Chunk, width: int) -> None:
    """Refuse values that are not finite and rows whose sizes do not fit together."""
    lengths = np.diff(chunk.value_offsets)
    wrong = (lengths != chunk.frames * width) | (np.diff(chunk.time_offsets) != chunk.frames) | (lengths == 0)
    if wrong.any():
        clip = chunk.clip_ids[int(np.argmax(wrong))]
        raise StoreError(str(path), str(clip), f"frames and values do not fit at width {width}", MAKE_AGAIN)
    is_bad = ~np.isfinite(chunk.values)
    if is_bad.any():
        place = int(np.searchsorted(chunk.value_offsets, int(np.argmax(is_bad)), side="right")) - 1
        problem = "features hold NaN or infinite values"
        fix = "find out which extractor wrote them; " + MAKE_AGAIN
        raise StoreError(str(path), str(chunk.clip_ids[place]), problem, fix)
