"""Micro-batches of a rank and evaluation batches, read ahead."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from vavl.data.augmentation import AugmentationSettings, ViewSettings
from vavl.data.collection import normalisers, open_collection
from vavl.data.loader import RankPlace, StepLoader, evaluation_batches, read_ahead
from vavl.data.manifest import TRAIN
from vavl.data.partitions import CompositionSettings, compose_batch, partition_clips
from vavl.data.sampler import Sampler
from vavl.data.settings import DataSettings


@pytest.fixture
def collection(small_store, small_corpus):
    corpus = small_corpus(without_audio=(0,), without_video=(1,), without_label=(2,))
    return open_collection(DataSettings(store=small_store(corpus)))


@pytest.fixture
def loader(collection):
    rows = np.flatnonzero(collection.manifest.split(0) == TRAIN)
    clips = partition_clips(rows, collection.has("audio"), collection.has("video"), collection.is_labelled)
    composition = compose_batch(clips, CompositionSettings(batch_size=10))
    sampler = Sampler(clips.clips, composition, collection.lengths(), seed=3)
    normaliser = normalisers(collection, rows, per_speaker=False)
    views = AugmentationSettings(audio=ViewSettings(noise=0.5, tempo=0.2), video=ViewSettings(frame_masks=1))

    def make(rank: int = 0, world_size: int = 1, micro_batches: int = 1) -> StepLoader:
        return StepLoader(collection, sampler, normaliser, RankPlace(rank, world_size, micro_batches), views)

    return make


def clips_of(batches) -> dict[int, dict[str, torch.Tensor]]:
    """Every clip of several batches: what the network sees of it, without padding."""
    found: dict[int, dict[str, torch.Tensor]] = {}
    for batch in batches:
        for place, row in enumerate(batch.index.tolist()):
            if row >= 0:
                assert row not in found
                found[row] = {"target": batch.target[place], "is_labelled": batch.is_labelled[place]}
        for name, side in (("audio", batch.audio), ("video", batch.video)):
            for place, clip in enumerate(side.clip.tolist()):
                if side.weight[place] > 0:
                    found[int(batch.index[clip])][name] = side.values[place][side.is_real[place]]
    return found


@pytest.mark.parametrize(("world_size", "micro_batches"), [(1, 2), (2, 1), (2, 2), (3, 1), (1, 4)])
def test_ranks_and_micro_batches_share_the_same_clips_with_the_same_views(loader, world_size, micro_batches):
    for step in (0, 4):
        alone = clips_of(loader().load(step))
        ranks = [loader(rank, world_size, micro_batches).load(step) for rank in range(world_size)]
        assert {len(batches) for batches in ranks} == {micro_batches}
        assert len({batch.clips for batches in ranks for batch in batches}) == 1
        together = clips_of(batch for batches in ranks for batch in batches)
        assert together.keys() == alone.keys()
        for row, expected in alone.items():
            assert together[row].keys() == expected.keys()
            for name, value in expected.items():
                assert torch.equal(together[row][name], value), (row, name)


def test_steps_come_in_order_from_any_start(loader):
    some = loader()
    everything = [batches[0].index.tolist() for batches in some.steps(0, 8)]
    assert everything == [some.sampler.global_batch(step).tolist() for step in range(8)]
    assert [batches[0].index.tolist() for batches in some.steps(5, 8)] == everything[5:]
    assert list(some.steps(8, 8)) == []


def test_another_pass_sees_other_views_of_a_clip(loader):
    seen: dict[int, list[torch.Tensor]] = {}
    for step in range(12):
        for row, clip in clips_of(loader().load(step)).items():
            seen.setdefault(row, []).append(clip.get("audio", torch.zeros(1)))
    again = [views for views in seen.values() if len(views) > 1 and len(views[0]) > 1]
    assert again
    assert not any(torch.equal(views[0], views[1]) for views in again)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_an_evaluation_sees_every_clip_once_over_all_ranks(collection, loader, world_size, batch_size):
    rows = np.array([3, 1, 22, 40, 17, 9, 5, 33, 60, 61, 79])
    shares = [
        list(
            evaluation_batches(collection, rows, loader().normaliser, batch_size, RankPlace(rank, world_size))
        )
        for rank in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    assert {batch.clips for share in shares for batch in share} == {batch_size}
    assert sorted(clips_of(batch for share in shares for batch in share)) == sorted(rows.tolist())


def test_an_evaluation_sees_clips_as_they_are(collection, loader):
    rows = np.arange(20)
    first, second = (
        clips_of(evaluation_batches(collection, rows, loader().normaliser, 8, RankPlace())) for _ in range(2)
    )
    raw = collection.store.features("audio", collection.store_row["audio"][5])
    expected = loader().normaliser["audio"].common.apply(raw)
    np.testing.assert_array_equal(first[5]["audio"].numpy(), expected)
    assert torch.equal(first[5]["audio"], second[5]["audio"])


def test_an_evaluation_of_no_clips_has_no_batches(collection, loader):
    assert (
        list(evaluation_batches(collection, np.zeros(0, np.int64), loader().normaliser, 8, RankPlace())) == []
    )


def test_reading_ahead_keeps_the_order_and_stays_a_few_items_ahead():
    made: list[int] = []

    def make(item: int) -> int:
        made.append(item)
        return -item

    reader = read_ahead(make, range(100))
    assert [next(reader) for _ in range(10)] == [-item for item in range(10)]
    time.sleep(0.1)
    assert len(made) < 20
    assert list(reader) == [-item for item in range(10, 100)]


def test_a_fault_while_reading_reaches_the_reader():
    def make(item: int) -> int:
        if item == 5:
            raise OSError("torn file")
        return item

    seen: list[int] = []
    with pytest.raises(OSError, match="torn file"):
        seen.extend(read_ahead(make, range(10)))
    assert "read-ahead" not in " ".join(thread.name for thread in threading.enumerate())


def test_a_reader_that_is_left_ends_its_thread():
    reader = read_ahead(lambda item: item, range(1000))
    next(reader)
    reader.close()
    assert "read-ahead" not in " ".join(thread.name for thread in threading.enumerate())
