"""Partitions of the training clips, and the composition of a global batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vavl.config.load import validate
from vavl.data.partitions import CompositionSettings, Partition, PartitionedClips, compose_batch, partition_clips
from vavl.errors import ConfigError


def partitioned(**counts: int) -> PartitionedClips:
    return PartitionedClips({Partition(name): np.arange(count) for name, count in counts.items()})


def composed(clips: PartitionedClips, **settings) -> dict[str, int]:
    return {str(name): rows for name, rows in compose_batch(clips, CompositionSettings(**settings)).items()}


def test_clips_are_sorted_by_modality_and_label():
    # Manifest rows:       0  1  2  3  4  5  6  7  8
    has_audio = np.array([1, 1, 1, 1, 0, 0, 0, 0, 1], dtype=bool)
    has_video = np.array([1, 1, 0, 0, 1, 1, 0, 0, 1], dtype=bool)
    is_labelled = np.array([1, 0, 1, 0, 1, 0, 1, 0, 1], dtype=bool)
    found = partition_clips(np.array([7, 6, 5, 4, 3, 2, 1, 0]), has_audio, has_video, is_labelled)
    assert {str(name): rows.tolist() for name, rows in found.clips.items()} == {
        "paired_labelled": [0],
        "paired_unlabelled": [1],
        "audio_only_labelled": [2],
        "audio_only_unlabelled": [3],
        "video_only_labelled": [4],
        "video_only_unlabelled": [5],
    }
    assert found.count == 6  # 6 and 7 have no modality, 8 is no training clip


def test_partitions_without_clips_are_left_out_and_rows_ascend():
    everything = np.ones(10, dtype=bool)
    found = partition_clips(np.array([5, 2, 9]), everything, everything, everything)
    assert list(found.clips) == [Partition.PAIRED_LABELLED]
    assert found.clips[Partition.PAIRED_LABELLED].tolist() == [2, 5, 9]


@pytest.mark.parametrize("name", list(Partition))
def test_a_partition_knows_whether_it_has_labels(name):
    assert name.is_labelled == (not name.value.endswith("unlabelled"))


@pytest.mark.parametrize(
    ("name", "modalities"),
    [("paired_labelled", {"audio", "video"}), ("audio_only_unlabelled", {"audio"}), ("video_only_labelled", {"video"})],
)
def test_a_partition_knows_its_modalities(name, modalities):
    assert Partition(name).modalities == modalities


def test_clips_tell_what_they_feed():
    clips = partitioned(paired_unlabelled=3, audio_only_labelled=3)
    assert clips.feed("audio")
    assert clips.feed("audio", "video")
    assert clips.feed("audio", with_label=True)
    assert not clips.feed("video", with_label=True)
    assert not clips.feed("audio", "video", with_label=True)
    assert list(clips.only([Partition.AUDIO_ONLY_LABELLED]).clips) == ["audio_only_labelled"]


def test_rows_follow_the_number_of_clips():
    clips = partitioned(paired_labelled=100, audio_only_labelled=50, video_only_labelled=10)
    assert composed(clips, batch_size=32) == {
        "paired_labelled": 19, "audio_only_labelled": 10, "video_only_labelled": 3,
    }  # fmt: skip


counts = st.dictionaries(st.sampled_from(list(Partition)), st.integers(1, 5000), min_size=1)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(counts, st.integers(6, 128), st.floats(0, 1))
def test_a_composition_fills_the_batch_with_at_least_a_row_of_each(counts, batch_size, floor):
    clips = PartitionedClips({name: np.arange(count) for name, count in counts.items()})
    composition = compose_batch(clips, CompositionSettings(batch_size=batch_size, labelled_floor=floor))
    assert sum(composition.values()) == batch_size
    assert composition.keys() == counts.keys()
    assert min(composition.values()) >= 1
    labelled = [name for name in counts if name.is_labelled]
    unlabelled = len(counts) - len(labelled)
    if labelled and unlabelled:
        rows = sum(composition[name] for name in labelled)
        # Each unlabeled partition keeps its one row even if the floor asks for everything.
        assert rows >= min(round(floor * batch_size), batch_size - unlabelled)


def test_the_labelled_floor_lifts_few_labels_and_leaves_many_alone():
    few = partitioned(paired_labelled=10, paired_unlabelled=990)
    assert composed(few, batch_size=32) == {"paired_labelled": 16, "paired_unlabelled": 16}
    assert composed(few, batch_size=32, labelled_floor=0) == {"paired_labelled": 1, "paired_unlabelled": 31}
    assert composed(few, batch_size=32, labelled_floor=1) == {"paired_labelled": 31, "paired_unlabelled": 1}
    many = partitioned(paired_labelled=900, paired_unlabelled=100)
    assert composed(many, batch_size=32) == {"paired_labelled": 29, "paired_unlabelled": 3}


def test_rows_that_are_given_are_taken_as_they_are():
    clips = partitioned(paired_labelled=100, audio_only_labelled=50)
    rows = {"paired_labelled": 3, "audio_only_labelled": 70}
    assert composed(clips, rows_per_step=rows, batch_size=5) == rows
    assert composed(clips, rows_per_step={"paired_labelled": 3, "video_only_labelled": 0}) == {"paired_labelled": 3}


def test_rows_of_a_partition_without_clips_are_refused():
    clips = partitioned(paired_labelled=100, audio_only_labelled=50)
    message = r"video_only_labelled: this partition has no clips\n.*paired_labelled, audio_only_labelled"
    with pytest.raises(ConfigError, match=message):
        composed(clips, rows_per_step={"paired_labelled": 3, "video_only_labelled": 1})


def test_no_rows_at_all_are_refused():
    with pytest.raises(ConfigError, match="asks for no rows at all"):
        composed(partitioned(paired_labelled=100), rows_per_step={"paired_labelled": 0})
    with pytest.raises(ConfigError, match="no training clips at all"):
        composed(PartitionedClips({}))


def test_a_batch_too_small_for_the_partitions_is_refused():
    clips = partitioned(paired_labelled=100, audio_only_labelled=50, video_only_labelled=10)
    with pytest.raises(ConfigError, match=r"2 rows cannot hold one of each of 3 partitions\n.*at least 3"):
        composed(clips, batch_size=2)


def test_an_unknown_partition_is_refused_with_the_known_names():
    with pytest.raises(ConfigError, match=r"rows_per_step.*paired_labelled"):
        validate(CompositionSettings, {"rows_per_step": {"pared_labelled": 3}}, "here")
