"""The table of training clips by partition, class and speaker."""

from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pytest

from vavl.corpora.manifest import TRAIN
from vavl.data.collection import open_collection
from vavl.data.partition_table import PartitionTable, partition_table
from vavl.data.partitions import Partition, PartitionSettings, partition_clips
from vavl.data.protocol import apply_partitions
from vavl.data.settings import DataSettings


@pytest.fixture
def opened(small_store, small_corpus):
    corpus = small_corpus(without_audio=(0, 4), without_video=(1, 4), without_label=(2,))
    collection = open_collection(DataSettings(store=small_store(corpus)))
    return collection, np.flatnonzero(collection.manifest.split(0) == TRAIN)


def counted(collection, rows) -> PartitionTable:
    has = (collection.has("audio"), collection.has("video"), collection.is_labelled)
    return partition_table(collection, partition_clips(rows, *has))


def by(table: PartitionTable, place: int) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for key, count in table.clips.items():
        counts[key[place]] += count
    return dict(counts)


def test_every_clip_with_a_side_is_counted_once(opened):
    collection, rows = opened
    table = counted(collection, rows)
    assert table.total == 36  # number 4 of every speaker has neither side
    assert by(table, 0) == {
        "paired_labelled": 24, "paired_unlabelled": 4, "audio_only_labelled": 4, "video_only_labelled": 4,
    }  # fmt: skip
    assert by(table, 2) == {f"s{number}": 9 for number in range(4)}
    assert by(table, 1)["-"] == 4
    assert min(table.clips.values()) > 0


def test_hidden_labels_count_under_their_class(opened):
    collection, rows = opened
    before = counted(collection, rows)
    after = counted(
        apply_partitions(collection, rows, PartitionSettings(labelled_fraction=0.5, audio_only_share=0.5)), rows
    )
    assert by(before, 1) == by(after, 1)
    assert by(before, 2) == by(after, 2)
    assert by(after, 0) != by(before, 0)
    unlabelled = {name for partition, name, _ in after.clips if not partition.is_labelled}
    assert unlabelled == {"calm", "glad", "mad", "-"}


def test_the_file_holds_the_counts(opened, tmp_path):
    table = counted(*opened)
    with table.write_csv(tmp_path / "partitions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["partition", "class", "speaker", "clips"]
    found = {(Partition(row["partition"]), row["class"], row["speaker"]): int(row["clips"]) for row in rows}
    assert found == table.clips


def test_the_lines_are_short_and_say_it_all():
    labelled, unlabelled = Partition.PAIRED_LABELLED, Partition.VIDEO_ONLY_UNLABELLED
    table = PartitionTable(
        {(labelled, "calm", "f1"): 2, (labelled, "mad", "f1"): 1, (labelled, "mad", "m1"): 1,
         (unlabelled, "-", "f1"): 4}
    )  # fmt: skip
    assert table.lines() == [
        "8 training clips of 2 speakers by partition:",
        "  paired_labelled        4 clips (50.0%): calm 2, mad 2; 1 to 3 of a speaker",
        "  video_only_unlabelled  4 clips (50.0%): - 4; 0 to 4 of a speaker",
    ]
    rows = {labelled: 12, unlabelled: 4}
    assert [line.partition(" clips")[0] for line in table.lines(rows)[1:]] == [
        "  paired_labelled         12 rows/step  4",
        "  video_only_unlabelled    4 rows/step  4",
    ]
    assert list(table.summary()) == ["paired_labelled", "video_only_unlabelled"]
