"""Stores that were damaged without a change of size, and stores as earlier versions wrote them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from vavl.config.files import sha256_of_file, write_json
from vavl.store.rows import CHECKS_SCHEMA, ROW_SCHEMA, checks_file, checks_of, map_batches
from vavl.store.store import FeatureStore, content_hash


def overwrite(path: Path, old: bytes, new: bytes) -> None:
    """Replace the first ``old`` in a file by as many bytes; the inode stays."""
    assert len(old) == len(new)
    place = path.read_bytes().index(old)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(new)


def set_value(folder: Path, modality: str, row: int, value: float) -> None:
    """Overwrite the first value of a row."""
    first = FeatureStore.open(folder).features(modality, row).tobytes()[:64]
    overwrite(folder / f"{modality}.arrow", first, np.float32(value).tobytes() + first[4:])


def state_anew(folder: Path) -> Path:
    """State hashes and checksums of the features as they are: as if an extractor had written these values."""
    content = json.loads((folder / "store.json").read_text())
    for modality, entry in content["modalities"].items():
        path, checks = folder / f"{modality}.arrow", folder / checks_file(modality)
        entry["sha256"] = sha256_of_file(path)
        if checks.name in content.get("files", {}):
            with pa.ipc.new_stream(str(checks), CHECKS_SCHEMA) as writer:
                for batch in map_batches(path, ROW_SCHEMA):
                    writer.write_batch(checks_of(batch))
            content["files"][checks.name] = {"bytes": checks.stat().st_size, "sha256": sha256_of_file(checks)}
    write_json(folder / "store.json", content | {"store_hash": content_hash(content)})
    return folder


def without_checks(folder: Path) -> Path:
    """Make a store what an earlier version of this project wrote: no checksums of its rows."""
    content = json.loads((folder / "store.json").read_text())
    for modality in content["modalities"]:
        (folder / checks_file(modality)).unlink(missing_ok=True)
        content.get("files", {}).pop(checks_file(modality), None)
    write_json(folder / "store.json", content)
    return folder
