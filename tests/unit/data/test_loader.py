"""Micro-batches of a rank and evaluation batches, read ahead."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from vavl.corpora.manifest import TRAIN
from vavl.data.augmentation import AugmentationSettings, ViewSettings
from vavl.data.batch import ClipBatch
from vavl.data.collection import open_collection
from vavl.data.loader import RankPlace, StepLoader, evaluation_batches, read_ahead
from vavl.data.normalization import normalisers
from vavl.data.partitions import CompositionSettings, compose_batch, partition_clips
from vavl.data.sampler import Sampler
from vavl.data.settings import DataSettings
from vavl.store.remote_files import RemoteDirectory


@pytest.fixture
def collection(small_store, small_corpus):
    corpus = small_corpus(without_audio=(0,), without_video=(1,), without_label=(2,))
    return open_collection(DataSettings(store=small_store(corpus)))


@pytest.fixture
def loader(collection):
    rows = np.flatnonzero(collection.manifest.split(0) == TRAIN)
    clips = partition_clips(rows, collection.has("audio"), collection.has("video"), collection.is_labelled)
    composition = compose_batch(clips, CompositionSettings(batch_size=10))
    sampler = Sampler(clips.clips, composition, collection.lengths, seed=3)
    normaliser = normalisers(collection, rows)
    views = AugmentationSettings(audio=ViewSettings(noise=0.5, tempo=0.2), video=ViewSettings(frame_masks=1))

    def make(rank: int = 0, world_size: int = 1, micro_batches: int = 1, **changes) -> StepLoader:
        place = RankPlace(rank, world_size, micro_batches)
        return replace(StepLoader(collection, sampler, normaliser, place, views), **changes)

    return make


@pytest.fixture
def at_an_address(small_store, small_corpus, tmp_path, monkeypatch):
    """A collection in many small shards, and the same one at an address, of which nothing was copied yet."""
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vavl.store.store_writer.SHARD_BYTES", 1000)
    monkeypatch.setattr("vavl.store.store_writer._ROWS_PER_BATCH", 5)
    origin = small_store(small_corpus(seed=7, clips_per_speaker=40))
    here, there = (open_collection(DataSettings(store=place)) for place in (origin, origin.as_uri()))
    assert not list(there.store.directory.glob("*o/data-*.arrow"))
    return here, there


@pytest.mark.parametrize("ahead", [True, False])
def test_batches_come_as_soon_as_their_shards_are_here(at_an_address, monkeypatch, ahead):
    here, there = at_an_address
    if not ahead:
        monkeypatch.setattr("vavl.store.store.FeatureStore._copy_ahead", lambda *_: None)
    rows = np.arange(len(here.manifest))
    normaliser = normalisers(here, rows)
    expected, found = (evaluation_batches(one, rows, normaliser, 4, RankPlace()) for one in (here, there))
    shards = len(list(here.store.directory.glob("*o/data-*.arrow")))
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        assert torch.equal(one.audio.values, other.audio.values)
        if not ahead and not number:
            assert 0 < len(list(there.store.directory.glob("*o/data-*.arrow"))) < shards
    assert len(list(there.store.directory.glob("*o/data-*.arrow"))) == shards


def test_shards_are_copied_in_the_order_of_the_steps_by_one_process(at_an_address, monkeypatch):
    here, there = at_an_address
    copied, chunks = [], RemoteDirectory.chunks

    def noted(remote, name):
        copied.append(name)
        return chunks(remote, name)

    monkeypatch.setattr(RemoteDirectory, "chunks", noted)
    monkeypatch.setattr("vavl.store.checked_files._AT_ONCE", 1)
    home = here.store.directory
    shards = sorted(path.relative_to(home).as_posix() for path in home.glob("*o/data-*"))
    audio, video = ([name for name in shards if name.startswith(kind)] for kind in ("audio", "video"))
    batches = [np.array([row]) for row in (len(there.manifest) - 1, 0)]
    with there.copied_ahead(batches), there.copied_ahead(batches):
        deadline = time.monotonic() + 60
        while len(copied) < len(shards):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert copied[:4] == [audio[-1], video[-1], audio[0], video[0]]
    assert sorted(copied) == shards


def test_what_stops_the_copying_ahead_is_told_and_batches_come_all_the_same(at_an_address, monkeypatch, caplog):
    here, there = at_an_address

    def fail(*_):
        raise TypeError("no such shard")

    monkeypatch.setattr("vavl.store.rows.ModalityRows.shards_of", fail)
    rows = np.arange(len(here.manifest))
    normaliser = normalisers(here, rows)
    expected, found = (list(evaluation_batches(one, rows, normaliser, 16, RankPlace())) for one in (here, there))
    assert all(torch.equal(one.video.values, other.video.values) for one, other in zip(expected, found, strict=True))
    assert "no such shard; each shard is asked for again when it is read" in caplog.text


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


NOISY = AugmentationSettings(audio=ViewSettings(noise=0.2), video=ViewSettings(noise=0.2, tempo=0.3))
DROPPING = AugmentationSettings(audio=ViewSettings(noise=0.5), modality_dropout=0.5)


def same(one: dict[int, dict[str, torch.Tensor]], other: dict[int, dict[str, torch.Tensor]]) -> None:
    assert one.keys() == other.keys()
    for row, expected in one.items():
        assert other[row].keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(other[row][name], value), (row, name)


@pytest.mark.parametrize("changes", [{}, {"augmentation": DROPPING, "weak_view": NOISY}])
@pytest.mark.parametrize(("world_size", "micro_batches"), [(1, 2), (2, 1), (2, 2), (3, 1), (1, 4)])
def test_ranks_and_micro_batches_share_the_same_clips_with_the_same_views(loader, world_size, micro_batches, changes):
    for step in (0, 4):
        alone = loader(**changes).load(step)
        ranks = [loader(rank, world_size, micro_batches, **changes).load(step) for rank in range(world_size)]
        assert {len(batches) for batches in ranks} == {micro_batches}
        together = [batch for batches in ranks for batch in batches]
        assert len({batch.clips for batch in together}) == 1
        same(clips_of(alone), clips_of(together))
        place = {int(row): int(at) for row, at in zip(alone[0].index, alone[0].place, strict=True)}
        for batch in together:
            for row, at in zip(batch.index.tolist(), batch.place.tolist(), strict=True):
                assert at == place.get(row, at)
        everywhere = [at for batch in together for at in batch.place.tolist()]
        assert sorted(everywhere) == list(range(len(everywhere)))
        if changes:
            same(clips_of(batch.weak.batch for batch in alone), clips_of(batch.weak.batch for batch in together))


def test_the_weak_view_holds_the_unlabelled_clips_whole(loader, collection):
    some = loader(augmentation=DROPPING, weak_view=NOISY)
    plain = loader(augmentation=AugmentationSettings(), weak_view=AugmentationSettings())
    seen = 0
    for step in range(6):
        batch, clean = some.load(step)[0], plain.load(step)[0]
        weak = batch.weak
        assert weak.clip.tolist() == torch.nonzero(batch.is_labelled == 0).flatten().tolist()
        assert torch.equal(weak.batch.index, batch.index[weak.clip])
        assert torch.equal(weak.batch.place, batch.place[weak.clip])
        assert not weak.batch.is_labelled.any()
        assert not weak.batch.target.any()
        rows = weak.batch.index.numpy()
        assert np.array_equal(weak.batch.has_audio.numpy(), collection.has("audio")[rows])
        assert np.array_equal(weak.batch.has_video.numpy(), collection.has("video")[rows])
        seen += len(rows)
        strong, mild, as_is = clips_of([batch]), clips_of([weak.batch]), clips_of([clean])
        for row, sides in mild.items():
            assert not torch.equal(sides["audio"], as_is[row]["audio"])
            assert "audio" not in strong[row] or not torch.equal(sides["audio"], strong[row]["audio"])
        for row, sides in clips_of([clean.weak.batch]).items():
            assert all(torch.equal(value, as_is[row][name]) for name, value in sides.items())
    assert seen == 6


def test_without_an_unlabelled_clip_one_filler_stands_in(loader):
    # Ten rows on eight ranks: some see labeled clips alone, or a filler next to one.
    shares = [loader(rank, 8, weak_view=NOISY).load(0)[0] for rank in range(8)]
    empty = [share for share in shares if not ((share.is_labelled == 0) & (share.index >= 0)).any()]
    assert empty
    assert len(empty) < len(shares)
    for share in empty:
        weak = share.weak
        assert weak.clip.tolist() == [0]
        assert weak.batch.index.tolist() == [-1]
        assert not torch.cat((weak.batch.has_audio, weak.batch.has_video, weak.batch.is_labelled)).any()
        for side in (weak.batch.audio, weak.batch.video):
            assert side.weight.tolist() == [0]
            assert side.is_real.all()
    moved = shares[0].to(torch.device("meta")).weak
    assert {moved.clip.device.type, moved.batch.place.device.type, moved.batch.audio.values.device.type} == {"meta"}


def test_without_a_weak_view_there_is_none(loader):
    assert loader().load(0)[0].weak is None


def test_a_pair_that_is_shown_with_one_side_carries_that_side_alone(loader, collection):
    batches = [loader(augmentation=DROPPING).load(step)[0] for step in range(10)]
    halved = 0
    for batch in batches:
        for side, has, name in ((batch.audio, batch.has_audio, "audio"), (batch.video, batch.has_video, "video")):
            there = torch.zeros(batch.clips)
            there[side.clip[side.weight > 0]] = 1
            assert torch.equal(there, has)
            halved += int((collection.has(name)[batch.index.numpy()] & (has.numpy() == 0)).sum())
        assert (batch.has_audio + batch.has_video).min() >= 1
    assert 15 < halved < 65


def test_a_weak_view_may_not_lose_a_side():
    with pytest.raises(ValidationError, match=r"weak_view\.modality_dropout must be 0"):
        DataSettings(store="anywhere", weak_view=DROPPING)


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
        list(evaluation_batches(collection, rows, loader().normaliser, batch_size, RankPlace(rank, world_size)))
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
    assert list(evaluation_batches(collection, np.zeros(0, np.int64), loader().normaliser, 8, RankPlace())) == []


def test_the_thread_that_loads_sends_batches_to_a_gpu_and_rounds_their_frames_up(loader, collection, monkeypatch):
    threads = []

    def stay(batch, *_):
        threads.append(threading.current_thread().name)
        return replace(batch)

    monkeypatch.setattr(ClipBatch, "sent", stay)
    monkeypatch.setattr(ClipBatch, "pinned", stay)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    changed = loader(micro_batches=2, device=torch.device("cuda"))
    loaded = [batch for batches in changed.steps(0, 3) for batch in batches]
    same(clips_of(loaded[:2]), clips_of(loader(micro_batches=2).load(0)))
    evaluated = list(evaluation_batches(collection, np.arange(9), changed.normaliser, 4, RankPlace(), pinned=True))
    assert len(threads) == len(loaded) + len(evaluated)
    assert all(name.startswith("read-ahead") for name in threads)
    padded = [side for one in (*loaded, *evaluated) for side in (one.audio, one.video) if side.is_padded]
    assert padded
    assert all(side.values.shape[1] % 32 == 0 == side.is_real.shape[1] % 32 for side in padded)
    assert any(one.audio.values.shape[1] % 32 for one in loader().load(0))


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
