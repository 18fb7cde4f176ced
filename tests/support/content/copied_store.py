"""Stores of a test's own: copies that are whole as after an extraction, with other labels if wanted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.compute as pc

from vavl.config.files import sha256_of_file
from vavl.corpora.manifest import MANIFEST_FILES, Manifest


def copy_store(store: Path, folder: Path) -> Path:
    """Copy a store; its store.json states the hash of the manifest."""
    return mark_manifest(Path(shutil.copytree(store, folder)))


def relabelled_copy(store: Path, folder: Path, clip: int = 0) -> Path:
    """Copy a store and take the label off one clip."""
    shutil.copytree(store, folder)
    table = Manifest.read(store).table
    labels = pc.if_else(pc.equal(table["clip_id"], table["clip_id"][clip]), None, table["label"])
    Manifest(table.set_column(table.schema.get_field_index("label"), "label", labels)).write(folder)
    return mark_manifest(folder)


def mark_manifest(folder: Path) -> Path:
    """State the hash of the manifest in store.json, as an extraction does."""
    content = json.loads((folder / "store.json").read_text())
    for name in MANIFEST_FILES:
        path = folder / name
        content["files"][name] = {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
    (folder / "store.json").write_text(json.dumps(content))
    return folder
