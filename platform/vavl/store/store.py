"""The feature store: one row per clip and modality.

A store is a directory:

    store.json                 provenance, counts, hashes; written last, so a directory without it is incomplete
    audio/, video/, manifest/  data sets of Hugging Face: ``datasets.load_from_disk`` opens them
        *.arrow                shards of at most 256 MB with the columns of ``shards.shard_schema``, sorted by clip id
    *_index.bin, *_ids.arrow   where each clip lies, its frames and a checksum, which its first reading is compared with
    *_sums.arrow               per speaker: count, sum and sum of squares of each channel, float64
    facts.arrow                the files behind the rows: hash, length, ... (vavl.store.clip_facts)
    parts/                     what an extraction knows of its work, so that it continues where it was interrupted
    quarantine.jsonl           clips that could not be read

Features are raw; a run normalizes them with the sums of its training speakers.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import pyarrow as pa
from filelock import Timeout
from numpy.typing import NDArray

from vavl.config.files import read_json, sha256_of_json
from vavl.corpora.manifest import CONVERT, MANIFEST_FILE
from vavl.errors import InputError, StoreError
from vavl.features import MODALITIES, ChannelSums, ModalityInfo
from vavl.store.arrays import mapped_file
from vavl.store.checked_files import MAKE_AGAIN, REPAIR, CopiedFiles, StoreFile, check_hash
from vavl.store.rows import ModalityRows, ids_file, index_file, shard_files
from vavl.store.shards import Dtype
from vavl.store.speaker_sums import read_sums

FIRST_FORMAT, FORMAT_VERSION = 1, 2
_log = logging.getLogger(__name__)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_FILE_NAME = re.compile(rf"(audio/|video/|manifest/)?{_PLAIN_NAME.pattern}")
# Larger numbers in a store.json would end in an error of the memory.
_MOST = {"width": 2**20, "clips": 2**31 - 1, "frames": 2**53, "bytes": 2**53}


class FeatureStore:
    """Read access to a store; opening it reads no features.

    Raises:
        StoreError: a file is broken, or is not the one that store.json was written for.
    """

    def __init__(self, directory: Path, content: Mapping[str, Any]) -> None:
        self.directory = directory
        self.content = content
        self._copied = CopiedFiles.at(directory)
        self._rows = {name: ModalityRows(directory, name, content, self._copied) for name in content["modalities"]}
        self.info: dict[str, ModalityInfo] = {name: rows.info for name, rows in self._rows.items()}
        mapped = [MANIFEST_FILE, *(file(name) for name in self._rows for file in (index_file, ids_file))]
        self._mapped = {name: mapped_file(directory / name) for name in mapped if (directory / name).exists()}

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open the store in ``directory``.

        Raises:
            StoreError: there is no complete store, its format is unknown, or a file of it is missing or cut.
        """
        return cls(directory, read_content(directory))

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the files itself; copying the store would copy every feature.
        return FeatureStore.open, (self.directory.absolute(),)

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
        return self._rows[modality].places_of(clip_ids)

    def clip_ids(self, modality: str) -> pa.ChunkedArray:
        """Return the clip ids of the rows, in their order."""
        return self._rows[modality].clip_ids

    def lengths(self, modality: str) -> NDArray[np.int32]:
        """Return the frames of every row."""
        return self._rows[modality].lengths

    def features(self, modality: str, row: int, *, as_stored: bool = False) -> NDArray[Any]:
        """Return the raw features (time, channel) of a row, read-only: float32, or ``as_stored`` in their ``dtype``.

        Raises:
            StoreError: there is no such row, or the file was cut or damaged.
        """
        return self._rows[modality].features(row, as_stored=as_stored)

    def frame_times(self, modality: str, row: int) -> NDArray[np.float32]:
        """Return the center of each frame of a row in seconds, read-only; raises like ``features``."""
        return self._rows[modality].frame_times(row)

    def batches(self, modality: str) -> Iterator[pa.RecordBatch]:
        """Yield all rows of a modality (``row_schema``), one record batch in memory at a time."""
        return self._rows[modality].batches()

    @contextlib.contextmanager
    def copied_ahead(self, rows: Iterable[Mapping[str, NDArray[np.integer]]]) -> Iterator[None]:
        """While the block reads, copy the shards that a store at an address has not on this machine yet.

        One process of the machine does, in the background. Whoever reads a shard that is not here waits for it anyway.

        Args:
            rows: by modality, -1 is none; shards come in their order, then the rest.

        Raises:
            InputError: the disk has no room for them.
        """
        copied = self._copied
        missing = {file for file in shard_files(self.content) if copied.lacks(file)} if copied is not None else set()
        if copied is None or not missing:
            yield
            return
        copied.check_space(missing)
        stop = threading.Event()
        with ThreadPoolExecutor(1, "copy-ahead") as thread:
            thread.submit(self._copy_ahead, copied, missing, rows, stop)
            try:
                yield
            finally:
                stop.set()

    def _copy_ahead(
        self,
        copied: CopiedFiles,
        missing: set[StoreFile],
        rows: Iterable[Mapping[str, NDArray[np.integer]]],
        stop: threading.Event,
    ) -> None:
        order: dict[StoreFile, None] = {}
        try:
            with copied.lock("ahead").acquire(blocking=False):
                for places in rows:
                    for name, found in places.items():
                        order |= dict.fromkeys(self._rows[name].shards_of(found))
                    if stop.is_set() or order.keys() >= missing:
                        break
                copied.fetch([*order, *(missing - order.keys())], stop)
        except Timeout:
            pass  # another process does
        except Exception as error:  # noqa: BLE001  who reads a shard that is not here asks again, and meets the error
            is_known = isinstance(error, InputError)
            _log.warning("%s; each shard is asked for again when it is read", error, exc_info=not is_known)

    def dtype(self, modality: str) -> Dtype:
        """Return how the features lie on disk."""
        return self._rows[modality].dtype

    def speaker_sums(self, modality: str) -> dict[str, ChannelSums]:
        """Return the sums over each speaker's frames, by speaker.

        Raises:
            StoreError: the file of the sums is missing or damaged.
        """
        path = self.directory / f"{modality}_sums.arrow"
        check_hash(path, self.content["modalities"][modality]["sums_sha256"], "sums_sha256")
        return read_sums(path, self.info[modality].width)

    def check_uncut(self) -> None:
        """Refuse a mapped file that was cut since the store was opened: the next look at it would be a bus error.

        Raises:
            StoreError: the manifest, an index or its clip ids were.
        """
        for name, mapped in self._mapped.items():
            if mapped.size() < len(mapped):
                problem = f"has {mapped.size()} of {len(mapped)} bytes: it was cut while it was in use"
                raise StoreError(str(self.directory / name), "", problem, REPAIR)

    def verify(self) -> None:
        """Read everything and compare it with store.json: for a store from elsewhere.

        Raises:
            StoreError: a file was changed, a value is not finite, or frames and values do not fit.
        """
        for name, entry in self.content["modalities"].items():
            self._rows[name].verify()
            check_hash(self.directory / f"{name}_sums.arrow", entry["sums_sha256"], "sums_sha256")
        for file in self.content["files"]:
            self.check_file(file)
        if content_hash(self.content) != self.hash:
            raise StoreError(str(self.directory / "store.json"), "store_hash", "the file was changed", REPAIR)

    def check_file(self, name: str) -> None:
        """Compare a small file with its hash, if store.json states one: the manifest, the facts.

        Raises:
            StoreError: it is missing, or it was changed.
        """
        stated = self.content["files"].get(name)
        if stated is not None:
            check_hash(self.directory / name, stated["sha256"])


def small_files(content: Mapping[str, Any]) -> list[StoreFile]:
    """Return all files of a store but store.json and the shards, from its store.json."""
    return [StoreFile(name, known["bytes"], known["sha256"]) for name, known in content["files"].items()]


def read_content(directory: Path) -> dict[str, Any]:
    """Read what the store in ``directory`` says about itself; no features.

    Raises:
        StoreError: there is no complete store, or its format is unknown.
    """
    path = directory / "store.json"
    if not path.exists():
        interrupted = "the store is incomplete: its preparation was interrupted"
        state = interrupted if (directory / "parts").exists() else "there is no feature store"
        raise StoreError(str(directory), "store.json", state, f"run: {MAKE_AGAIN.partition(': ')[2]}")
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
    if version == FIRST_FORMAT:
        raise StoreError(source, "format_version", "the store is of an earlier version (format 1)", CONVERT)
    if version != FORMAT_VERSION:
        raise StoreError(source, "format_version", f"format {version} is unknown, {FORMAT_VERSION} is read", MAKE_AGAIN)
    try:
        strange = sorted(set(content["modalities"]) - set(MODALITIES), key=str)
        if strange:  # the names become file names
            raise StoreError(source, "modalities", f"{strange} are not of {list(MODALITIES)}", MAKE_AGAIN)
        _ = [content[key] for key in ("card_hash", "store_hash")]
        # These become names of files and directories, too.
        _check_name(source, "corpus", content["corpus"])
        for name, stated in content["files"].items():
            _check_name(source, f"files.{name}", name, _FILE_NAME)
            _check_number(source, f"files.{name}.bytes", stated["bytes"], _MOST["bytes"])
            _ = stated["sha256"]
        for modality in content["modalities"]:
            _check_modality(content, source, modality)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(source, "", f"the file was damaged: {error!r}", REPAIR) from None
    known: dict[str, Any] = content
    return known


def _check_modality(content: Mapping[str, Any], source: str, modality: str) -> None:
    entry = content["modalities"][modality]
    for key, most in _MOST.items():
        _check_number(source, f"modalities.{modality}.{key}", entry[key], most)
    ModalityInfo.from_entry(entry)
    _ = [entry[key] for key in ("sha256", "sums_sha256")]
    _ = [content["files"][file(modality)] for file in (index_file, ids_file)]
    if entry.get("dtype", "float32") not in get_args(Dtype):
        raise StoreError(source, f"modalities.{modality}.dtype", f"is {entry['dtype']!r}", REPAIR)
    for shard in entry["shards"]:
        _check_name(source, f"modalities.{modality}.shards", shard["name"])
        _check_number(source, f"modalities.{modality}.shards.bytes", shard["bytes"], _MOST["bytes"])
        _ = shard["sha256"]


def _check_name(source: str, field: str, name: Any, allowed: re.Pattern[str] = _PLAIN_NAME) -> None:
    if not isinstance(name, str) or not allowed.fullmatch(name):
        problem = f"{name!r} is not the name of a file or directory: letters, digits, `_`, `-`, `.`"
        raise StoreError(source, field, problem, REPAIR)


def _check_number(source: str, field: str, value: Any, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise StoreError(source, field, f"is {value!r}, expected a whole number from 1 to {most}", REPAIR)


def content_hash(content: Mapping[str, Any]) -> str:
    """Return the hash of a store from its store.json; where its shards end, file names and counts do not count.

    It is over what format 1 said of the same content, so that a converted store keeps its hash.
    """
    modalities = {
        name: {key: value for key, value in entry.items() if key != "shards"}
        for name, entry in content["modalities"].items()
    }
    parts = {key: content[key] for key in ("corpus", "card_hash")}
    return sha256_of_json(parts | {"format_version": FIRST_FORMAT, "modalities": modalities})[:16]
