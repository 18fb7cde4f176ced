"""The table of a run's training clips: how many per partition, class and speaker."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vavl.config.files import written_beside
from vavl.data.collection import ClipCollection
from vavl.data.partitions import Partition, PartitionedClips
from vavl.data.protocol import clip_classes
from vavl.store.index import pieces

NO_CLASS = "-"
COLUMNS = ("partition", "class", "speaker", "clips")


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
