"""Stores of format 1, one Arrow file per modality: written anew as they are read today, with the hash that they had."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from vavl.config.files import read_json, write_dataset_state
from vavl.corpora.manifest import FIRST_FORMAT_MANIFEST, MANIFEST_FILE
from vavl.errors import InputError, StoreError
from vavl.features import MODALITIES, ModalityInfo
from vavl.store.checked_files import REPAIR, check_hash, replaced_directory
from vavl.store.shards import features_column, mapped_stream, row_schema
from vavl.store.speaker_sums import read_sums
from vavl.store.store import FIRST_FORMAT, FeatureStore
from vavl.store.store_writer import FIRST_FORMAT_FILES, FIRST_FORMAT_ROWS, StoreWriter

# Written anew; rows that an interrupted extraction left are extracted again.
_LEFT_BEHIND = {"store.json", "parts", *FIRST_FORMAT_FILES, *(f"{name}_sums.arrow" for name in MODALITIES)}
_log = logging.getLogger(__name__)


def convert_store(directory: Path) -> FeatureStore:
    """Write a store of format 1 anew next to its place and put it there; one of today's format stays as it is.

    Labels, features, sums and hash stay to the last bit, so runs, audits and models of the store stay its own.

    Raises:
        StoreError: there is no store, it was changed since it was written, or its hash would change.
        InputError: the directory cannot be written.
    """
    with replaced_directory(directory) as new:
        content = stated_content(directory)
        if content.get("format_version") != FIRST_FORMAT:
            return FeatureStore.open(directory)
        try:
            found = _write(directory, content, new)
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(str(directory / "store.json"), "", f"the file was damaged: {error!r}", REPAIR) from None
        if found != content["store_hash"]:
            problem = f"is {content['store_hash']}, the content has {found}: the store was changed since it was written"
            raise StoreError(str(directory / "store.json"), "store_hash", problem, REPAIR)
    return FeatureStore.open(directory)


def stated_content(directory: Path) -> dict[str, Any]:
    """Return the content of a store.json of any format.

    Raises:
        StoreError: there is none.
    """
    path = directory / "store.json"
    try:
        content = read_json(path)
    except InputError as error:
        raise StoreError(str(path), "", error.problem, "name the directory of a feature store") from None
    return content if isinstance(content, dict) else {}


def _write(directory: Path, content: Mapping[str, Any], new: Path) -> str:
    for name, stated in content.get("files", {}).items():
        check_hash(directory / name, stated["sha256"])
    writer = StoreWriter(new, content["corpus"], content["card_hash"])
    for path in directory.iterdir():
        if path.name not in _LEFT_BEHIND and not path.name.startswith("."):
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, new / path.name)
    if (directory / FIRST_FORMAT_MANIFEST).exists():
        manifest = new / MANIFEST_FILE
        manifest.parent.mkdir()
        shutil.copy2(directory / FIRST_FORMAT_MANIFEST, manifest)
        write_dataset_state(manifest.parent, [manifest.name])
    for modality in (name for name in MODALITIES if name in content["modalities"]):
        entry = content["modalities"][modality]
        info, sums = ModalityInfo.from_entry(entry), directory / f"{modality}_sums.arrow"
        _log.info("converting %s of %d clips", modality, info.clips)
        check_hash(directory / f"{modality}.arrow", entry["sha256"])
        check_hash(sums, entry["sums_sha256"])
        rows = _rows(directory / f"{modality}.arrow", info.width)
        writer.write_modality(modality, info, rows, read_sums(sums, info.width))
    return writer.finish(content["counts"], content.get("sources"))


def _rows(path: Path, width: int) -> Iterator[pa.RecordBatch]:
    with mapped_stream(path, FIRST_FORMAT_ROWS) as (_, reader):
        for batch in reader:
            values, frames = batch.column("values").flatten(), batch.column("frames").to_numpy()
            features = features_column(values.to_numpy(), frames, width)
            columns = (*(batch.column(name) for name in ("clip_id", "corpus", "speaker")), features)
            yield pa.RecordBatch.from_arrays([*columns, batch.column("frame_times")], schema=row_schema(width))
