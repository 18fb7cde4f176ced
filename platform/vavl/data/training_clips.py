"""The clips that a run trains, validates and tests on, in arrays that processes share; their table."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vavl.config.files import written_beside
from vavl.corpora.manifest import TEST, TRAIN, VALIDATION, Manifest
from vavl.data.collection import ClipCollection, open_collection, state_of
from vavl.data.partitions import Partition, PartitionedClips, partition_clips
from vavl.data.protocol import apply_partitions, clip_classes
from vavl.data.settings import DataSettings
from vavl.store.arrays import ArrayWriter, pieces, shared_arrays

NO_CLASS = "-"
COLUMNS = ("partition", "class", "speaker", "clips")
_SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


@dataclass(frozen=True)
class PartitionTable:
    """Clips by partition, class and speaker; a clip whose label is hidden counts under its class."""

    clips: Mapping[tuple[Partition, str, str], int]  # counts above 0, by partition, class and speaker in sorted order.

    @property
    def total(self) -> int:
        """Clips of all partitions."""
        return sum(self.clips.values())

    def summary(self) -> dict[str, str]:
        """Return one line per partition: clips, clips per class, fewest and most of a speaker.

        Speakers without a clip in the partition count as 0.
        """
        speakers = {speaker for _, _, speaker in self.clips}
        return {
            name.value: self._line(name, speakers)
            for name in Partition
            if any(name == found for found, _, _ in self.clips)
        }

    def lines(self, rows_per_step: Mapping[Partition, int] | None = None) -> list[str]:
        """Return the summary as text for log and screen, with the rows that a partition gives to a global batch."""
        rows = {name.value: f"{count:>3} rows/step  " for name, count in (rows_per_step or {}).items()}
        summary = {name: rows.get(name, "") + line for name, line in self.summary().items()}
        width = max((len(name) for name in summary), default=0)
        speakers = len({speaker for _, _, speaker in self.clips})
        return [
            f"{self.total} training clips of {speakers} speakers by partition:",
            *(f"  {name:<{width}}  {line}" for name, line in summary.items()),
        ]

    def write_csv(self, path: Path) -> Path:
        """Write one row per partition, class and speaker that has clips."""
        with written_beside(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(
                (name.value, class_name, speaker, count) for (name, class_name, speaker), count in self.clips.items()
            )
        return path

    def _line(self, partition: Partition, speakers: set[str]) -> str:
        by_class: Counter[str] = Counter()
        by_speaker = Counter(dict.fromkeys(speakers, 0))
        for (name, class_name, speaker), count in self.clips.items():
            if name == partition:
                by_class[class_name] += count
                by_speaker[speaker] += count
        total, few, many = by_class.total(), min(by_speaker.values()), max(by_speaker.values())
        classes = ", ".join(f"{name} {count}" for name, count in by_class.items())
        share = f"{total / self.total:.1%}"
        return f"{total} clips ({share}): {classes}; {few} to {many} of a speaker"


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


def partition_table(collection: ClipCollection, partitioned: PartitionedClips) -> PartitionTable:
    """Count partitioned clips of a collection."""
    names, speakers = (NO_CLASS, *collection.manifest.classes), collection.speakers  # code -1 comes first
    classes = clip_classes(collection.manifest)
    counts: dict[tuple[Partition, str, str], int] = {}
    for partition, clips in partitioned.clips.items():
        found = np.zeros(len(names) * len(speakers), np.int64)
        for piece in pieces(clips):
            code = (classes[piece] + np.int64(1)) * len(speakers) + collection.speaker[piece]
            found += np.bincount(code, minlength=len(found))
        for code in np.flatnonzero(found).tolist():
            name, speaker = divmod(code, len(speakers))
            counts[partition, names[name], speakers[speaker]] = int(found[code])
    return PartitionTable(counts)
