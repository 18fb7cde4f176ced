"""The clips of a run come mapped, as they would be computed, and are computed once for a store and its settings."""

from __future__ import annotations

import csv
import mmap
import shutil
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from damaged_store import state_anew

from vavl.corpora.manifest import TEST, TRAIN, VALIDATION, Manifest
from vavl.data import collection as collection_module
from vavl.data import training_clips as training_clips_module
from vavl.data.collection import open_collection
from vavl.data.normalization import normalisers
from vavl.data.partitions import Partition, PartitionSettings, partition_clips
from vavl.data.protocol import apply_partitions
from vavl.data.settings import DataSettings
from vavl.data.training_clips import PartitionTable, open_training_clips, partition_table
from vavl.errors import ConfigError, CorpusError, StoreError

MIXED = {"without_audio": (0,), "without_video": (1,), "without_label": (2, 3)}
PROTOCOLS = [
    {},
    {"labelled_fraction": 0.5},
    {"audio_only_share": 0.3, "video_only_share": 0.2},
    {"labelled_fraction": 0.4, "video_only_share": 0.5, "seed": 3},
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def store(small_store, small_corpus, tmp_path):
    return shutil.copytree(small_store(small_corpus(**MIXED)), tmp_path / "store")


@pytest.fixture
def builds(monkeypatch) -> list[str]:
    """What was built, in order."""
    found: list[str] = []
    for module, name in ((collection_module, "_write_clips"), (training_clips_module, "_write")):
        whole = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *of, whole=whole, name=name: (found.append(name), whole(*of))[1])
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_they_are_what_the_protocol_gives(store, protocol):
    settings = DataSettings.model_validate({"store": store, "partitions": protocol})
    opened, split = open_training_clips(settings), open_collection(settings).manifest.split(0)
    assert {name: rows.tolist() for name, rows in opened.rows.items()} == {
        name: np.flatnonzero(split == code).tolist()
        for name, code in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST))
    }
    rows = np.flatnonzero(split == TRAIN)
    expected = apply_partitions(open_collection(settings), rows, settings.partitions)
    for name, array in expected.arrays().items():
        np.testing.assert_array_equal(opened.collection.arrays()[name], array, err_msg=name)
    assert opened.collection.arrays().keys() == expected.arrays().keys()
    partitioned = partition_clips(rows, expected.has("audio"), expected.has("video"), expected.is_labelled)
    assert list(opened.partitioned.clips) == list(partitioned.clips)
    for name, clips in partitioned.clips.items():
        assert opened.partitioned.clips[name].tolist() == clips.tolist()
    assert list(opened.table.clips.items()) == list(partition_table(expected, partitioned).clips.items())
    both = [normalisers(one, rows) for one in (opened.collection, expected)]
    for modality in ("audio", "video"):
        assert np.array_equal(both[0][modality].common.mean, both[1][modality].common.mean)


def test_no_array_of_all_clips_is_private(store):
    opened = open_training_clips(DataSettings.model_validate({"store": store, "partitions": PROTOCOLS[3]}))
    lengths = {name: opened.collection.store.lengths(name) for name in opened.collection.store.info}
    every = {**opened.collection.arrays(), **opened.rows, **opened.partitioned.clips, **lengths}
    assert len(every) > 12
    for name, array in every.items():
        base = array
        while isinstance(base, np.ndarray):
            assert not base.flags.writeable
            assert not base.flags.owndata, name
            base = base.base
        assert isinstance(base, memoryview | mmap.mmap), name


def test_they_are_computed_once_for_a_store_and_its_settings(store, builds):
    settings = DataSettings(store=store)
    for _ in range(2):
        open_training_clips(settings)
        open_training_clips(settings.model_copy(update={"max_frames": 4, "waive_audit": ("any",)}))
        open_collection(settings)
    assert builds == ["_write_clips", "_write"]
    open_training_clips(DataSettings.model_validate({"store": store, "partitions": PROTOCOLS[1]}))
    assert builds == ["_write_clips", "_write", "_write"]
    open_training_clips(DataSettings(store=store, target="soft_label"))
    assert builds[3:] == ["_write_clips", "_write"]


def test_a_store_that_was_written_anew_is_computed_anew(store, builds):
    before = open_training_clips(DataSettings(store=store))
    manifest = Manifest.read(store)
    splits = pa.array(["train", "test", "validation", "train"] * (len(manifest) // 4))
    place = manifest.table.column_names.index("split_0")
    Manifest(manifest.table.set_column(place, "split_0", splits)).write(store)
    state_anew(store)
    after = open_training_clips(DataSettings(store=store))
    assert after.rows["train"].tolist() == [row for row in range(len(manifest)) if row % 4 in (0, 3)]
    assert before.rows["train"].tolist() == np.flatnonzero(before.collection.manifest.split(0) == TRAIN).tolist()
    assert builds == ["_write_clips", "_write"] * 2


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"fold": 7}, CorpusError, "no fold 7"),
        ({"partitions": {"labelled_fraction": 0.001}}, ConfigError, "leaves no label for"),
        ({"labels": "votes"}, ConfigError, "no set of labels `votes`"),
    ],
)
def test_what_cannot_be_computed_leaves_nothing_behind(store, changes, error, message, tmp_path):
    for _ in range(2):
        with pytest.raises(error, match=message):
            open_training_clips(DataSettings.model_validate({"store": store, **changes}))
    assert not list((tmp_path / "cache").glob("arrays/.*.partial"))


def test_an_array_that_is_cut_under_a_run_is_an_error(store, tmp_path):
    collection = open_training_clips(DataSettings(store=store)).collection
    collection.check_uncut()
    for file in (tmp_path / "cache").glob("arrays/*/target.npy"):
        with file.open("r+b") as opened:
            opened.truncate(8)
    with pytest.raises(StoreError, match="was cut while it was in use"):
        collection.check_uncut()


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
