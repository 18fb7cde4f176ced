"""The table of a run's training clips: how many per partition, class and speaker."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vavl.config.files import written_beside
from vavl.data.collection import ClipCollection
from vavl.data.partitions import Partition, partition_clips
from vavl.data.protocol import clip_classes

NO_CLASS = "-"
COLUMNS = ("partition", "class", "speaker", "clips")


@dataclass(frozen=True)
class PartitionTable:
    """Clips by partition, class and speaker; a clip whose label is hidden counts under its class.

    Attributes:
        clips: counts above 0, by partition, class and speaker in sorted order.
    """

    clips: Mapping[tuple[Partition, str, str], int]

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


def partition_table(collection: ClipCollection, rows: NDArray[np.int64]) -> PartitionTable:
    """Count the clips of ``rows`` that have any side.

    Args:
        collection: after ``apply_partitions``.
        rows: manifest rows, of the training clips.
    """
    names = (*collection.manifest.classes, NO_CLASS)  # code -1 is the last one
    classes = clip_classes(collection.manifest)
    partitioned = partition_clips(rows, collection.has("audio"), collection.has("video"), collection.is_labelled)
    counts: Counter[tuple[Partition, str, str]] = Counter()
    for partition, clips in partitioned.clips.items():
        keys, found = np.unique(np.stack((classes[clips], collection.speaker[clips])), axis=1, return_counts=True)
        for (code, speaker), count in zip(keys.T.tolist(), found.tolist(), strict=True):
            counts[partition, names[code], collection.speakers[speaker]] = count
    return PartitionTable(dict(counts))
