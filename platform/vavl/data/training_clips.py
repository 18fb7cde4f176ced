"""The clips that a run trains, validates and tests on, in arrays that all processes of a machine map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vavl.corpora.manifest import TEST, TRAIN, VALIDATION, Manifest
from vavl.data.collection import ClipCollection, open_collection, state_of
from vavl.data.partition_table import PartitionTable, partition_table
from vavl.data.partitions import Partition, PartitionedClips, partition_clips
from vavl.data.protocol import apply_partitions
from vavl.data.settings import DataSettings
from vavl.store.index import ArrayWriter, shared_arrays

_SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


class TrainingClips(NamedTuple):
    """The clips of a run by split and partition."""

    collection: ClipCollection  # all clips of the store, as far as the partition protocol lets the run see them.
    # manifest rows by split; validation and test rows as they are in the manifest.
    rows: Mapping[str, NDArray[np.int64]]
    partitioned: PartitionedClips  # the training clips that have a modality.
    table: PartitionTable  # their counts.


def open_training_clips(settings: DataSettings, *, refit: bool = False) -> TrainingClips:
    """Open the store of a run and apply its fold and its partition protocol; see ``open_collection``.

    With ``refit`` the validation clips are training clips.

    Raises:
        StoreError, ConfigError: the store or the partitions cannot be used.
        CorpusError: there is no such fold.
    """
    collection = open_collection(settings)
    named = settings.model_dump(mode="json", include={"labels", "target", "attributes", "fold", "partitions"})
    purpose = ["training", str(collection.store.directory.absolute()), named, refit]
    mapped = shared_arrays(
        purpose, state_of(collection.store), lambda writer: _write(writer, collection, settings, refit)
    )
    rows = {name: mapped[f"rows.{name}"] for name in _SPLITS}
    clips = {name: mapped[f"clips.{name}"] for name in Partition if f"clips.{name}" in mapped.arrays}
    table = {(Partition(name), *others): count for name, *others, count in mapped.facts}
    return TrainingClips(collection.with_arrays(mapped), rows, PartitionedClips(clips), PartitionTable(table))


def rows_by_split(manifest: Manifest, fold: int, *, refit: bool = False) -> dict[str, NDArray[np.int64]]:
    """Return the manifest rows of each split, ascending; with ``refit`` those of validation are among those of train.

    Raises:
        CorpusError: there is no such fold.
    """
    split = manifest.split(fold)
    if refit:
        split = np.where(split == VALIDATION, TRAIN, split)
    return {name: np.flatnonzero(split == code) for name, code in _SPLITS.items()}


def _write(writer: ArrayWriter, collection: ClipCollection, settings: DataSettings, refit: bool) -> list[Any]:
    """Write rows by split and partition and what the protocol hides, and return the lines of the table."""
    rows = rows_by_split(collection.manifest, settings.fold, refit=refit)
    for name, found in rows.items():
        writer.append(f"rows.{name}", found)
    before, collection = collection.arrays(), apply_partitions(collection, rows["train"], settings.partitions)
    for name, array in collection.arrays().items():
        if array is not before.get(name):
            writer.append(name, array)
    partitioned = partition_clips(
        rows["train"], collection.has("audio"), collection.has("video"), collection.is_labelled
    )
    for partition, clips in partitioned.clips.items():
        writer.append(f"clips.{partition}", clips.astype(np.int32))
    return [[*key, count] for key, count in partition_table(collection, partitioned).clips.items()]
