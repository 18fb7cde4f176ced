"""The clips of a run: flags, targets, normalization and padding."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from damaged_store import state_anew
from synthetic_store import write_synthetic_store

from vavl.corpora.label_sets import LABEL_COLUMNS
from vavl.corpora.manifest import TRAIN, Manifest
from vavl.data.augmentation import AugmentationSettings, ViewMaker, ViewSettings
from vavl.data.batch import middle_frames, pad_clips
from vavl.data.collection import open_collection
from vavl.data.loader import collate
from vavl.data.normalization import normalisers
from vavl.data.sampler import FILLER
from vavl.data.settings import DataSettings, FeatureUse
from vavl.errors import ConfigError, StoreError


@pytest.fixture
def open_(small_store, small_corpus):
    def make(target="label", max_frames=1500, **corpus):
        return open_collection(
            DataSettings(store=small_store(small_corpus(**corpus)), target=target, max_frames=max_frames)
        )

    return make


MIXED = {"without_audio": (0,), "without_video": (1,), "without_label": (2, 3)}


def training_rows(collection) -> np.ndarray:
    return np.flatnonzero(collection.manifest.split(0) == TRAIN)


def numbers(collection) -> np.ndarray:
    """Running number of each clip within its speaker, from its name."""
    return np.array([int(str(name)[-4:]) % 10 for name in collection.manifest.table.column("clip_id")])


def test_flags_say_what_the_store_and_the_manifest_hold(open_):
    collection = open_(**MIXED)
    number = numbers(collection)
    assert np.array_equal(collection.has("audio"), number != 0)
    assert np.array_equal(collection.has("video"), number != 1)
    is_training = collection.manifest.split(0) == TRAIN
    assert np.array_equal(collection.is_labelled, ~(is_training & np.isin(number, (2, 3))))


def test_reading_a_clip_twice_gives_the_same_features_and_label(open_):
    """The published reader flips arousal in place at every read."""
    for target in ("label", "soft_label", "attributes"):
        collection = open_(target, **MIXED)
        normaliser = normalisers(collection, training_rows(collection))
        rows = np.array([3, 11, 40, 3])
        first, second = (collate(collection, rows, normaliser) for _ in range(2))
        for batch in (second, collate(open_(target, **MIXED), rows, normaliser)):
            assert torch.equal(batch.target, first.target)
            assert torch.equal(batch.audio.values, first.audio.values)
        assert torch.equal(first.target[0], first.target[3])


def test_features_cannot_be_changed_in_place(open_):
    collection = open_()
    with pytest.raises(ValueError, match="read-only"):
        collection.store.features("audio", 0)[0, 0] = 1


def test_speakers_of_the_splits_are_disjoint(open_):
    collection = open_()
    split = collection.manifest.split(0)
    speakers = [{collection.speakers[code] for code in collection.speaker[split == kind]} for kind in range(3)]
    assert [len(names) for names in speakers] == [4, 2, 2]
    assert len(set.union(*speakers)) == 8


def test_hard_labels_are_one_hot_and_unlabelled_clips_are_zeros(open_):
    collection = open_(**MIXED)
    assert np.array_equal(collection.target.sum(axis=1), collection.is_labelled.astype(np.float32))
    table = collection.manifest.table.column("label").to_pylist()
    for row, name in enumerate(table):
        if name is not None:
            assert collection.manifest.classes[collection.target[row].argmax()] == name


def test_soft_labels_and_attributes_come_as_they_are(open_):
    for target, read in (
        ("soft_label", lambda row: row["soft_label"]),
        ("attributes", lambda row: [row["arousal"], row["valence"], row["dominance"]]),
    ):
        collection = open_(target, **MIXED)
        for place, row in enumerate(collection.manifest.table.to_pylist()):
            expected = read(row) if row["label"] is not None else [0, 0, 0]
            np.testing.assert_allclose(collection.target[place], expected)
        assert np.array_equal(collection.is_labelled, open_(**MIXED).is_labelled)


def without_columns(store, folder, *names):
    """Copy a store with a manifest whose columns ``names`` are null."""
    copy = shutil.copytree(store, folder / "store")
    table = Manifest.read(copy).table
    for name in names:
        field = table.schema.field(name)
        table = table.set_column(table.column_names.index(name), field, pa.nulls(len(table), field.type))
    Manifest(table).write(copy)
    state_anew(copy)
    return copy


@pytest.mark.parametrize(
    ("missing", "chosen", "width"),
    [(("dominance",), None, 2), (("arousal", "dominance"), None, 1), ((), ("valence",), 1), ((), None, 3)],
)
def test_a_target_of_some_attributes_is_a_target(small_store, small_corpus, tmp_path, missing, chosen, width):
    store = without_columns(small_store(small_corpus()), tmp_path, *missing)
    collection = open_collection(DataSettings(store=store, target="attributes", attributes=chosen))
    assert collection.target.shape[1] == width
    known = collection.manifest.table["valence"].to_pylist()
    assert collection.is_labelled.tolist() == [value is not None for value in known]
    np.testing.assert_allclose(collection.target[:, 1 if width > 1 else 0], [value or 0 for value in known])


def test_a_missing_attribute_is_named(small_store, small_corpus, tmp_path):
    store = without_columns(small_store(small_corpus()), tmp_path, "dominance")
    with pytest.raises(StoreError, match=r"no clip has dominance(?s:.*)data.attributes=\[arousal, valence\]"):
        open_collection(DataSettings(store=store, target="attributes", attributes=("valence", "dominance")))


def test_attributes_that_no_clip_has_together_are_counted(small_store, small_corpus, tmp_path):
    store = without_columns(small_store(small_corpus()), tmp_path, "dominance")
    table = Manifest.read(store).table
    halves = [place % 2 == 0 for place in range(len(table))]
    for name, is_even in (("arousal", True), ("valence", False)):
        values = pa.array([0.5 if half == is_even else None for half in halves], pa.float32())
        table = table.set_column(table.column_names.index(name), name, values)
    Manifest(table).write(store)
    state_anew(store)
    with pytest.raises(StoreError, match=r"no clip has arousal and valence together; clips with each: arousal \d+"):
        open_collection(DataSettings(store=store, target="attributes"))


def test_a_target_that_no_clip_has_is_refused(small_store, small_corpus, tmp_path):
    store = without_columns(small_store(small_corpus()), tmp_path, "arousal", "valence", "dominance", "soft_label")
    open_collection(DataSettings(store=store))
    for target in ("soft_label", "attributes"):
        with pytest.raises(StoreError, match=f"data.target={target}: no clip has this target"):
            open_collection(DataSettings(store=store, target=target))


def test_another_set_of_labels_is_chosen_by_its_name(small_store, small_corpus, tmp_path):
    store = shutil.copytree(small_store(small_corpus()), tmp_path / "store")
    manifest = Manifest.read(store)
    table, first = manifest.table, manifest.table["label"][0].as_py()
    for name in LABEL_COLUMNS:
        values = pa.array([first] * len(table)) if name == "label" else table[name]
        table = table.append_column(f"{name}__alike", values)
    sets = {"drawn": {"target": "drawn class"}, "alike": {"target": "one for all"}}
    facts = {**manifest.metadata, "labels": sets, "label_set": "drawn"}
    Manifest(table.replace_schema_metadata({b"vavl": json.dumps(facts).encode()})).write(store)
    state_anew(store)
    chosen = open_collection(DataSettings(store=store, labels="alike"))
    assert (chosen.manifest.label_set, chosen.manifest.target) == ("alike", "one for all")
    assert set(chosen.manifest.table["label"].to_pylist()) == {first}
    assert (chosen.target == chosen.target[0]).all()
    by_default, by_name = (open_collection(DataSettings(store=store, labels=name)) for name in (None, "drawn"))
    assert np.array_equal(by_default.target, by_name.target)
    assert (by_default.target != by_default.target[0]).any()
    with pytest.raises(ConfigError, match=r"(?s)no set of labels `votes`.*drawn, alike"):
        open_collection(DataSettings(store=store, labels="votes"))


def test_a_store_without_any_clip_of_the_manifest_is_refused(small_store, small_corpus, tmp_path):
    store = shutil.copytree(small_store(small_corpus()), tmp_path / "store")
    table = Manifest.read(store).table
    renamed = pa.array([f"other_{number:05d}" for number in range(len(table))])
    Manifest(table.set_column(table.column_names.index("clip_id"), "clip_id", renamed)).write(store)
    state_anew(store)
    with pytest.raises(StoreError, match="no clip of the manifest has features"):
        open_collection(DataSettings(store=store))


def test_a_missing_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"prepare_corpus\.py"):
        open_collection(DataSettings(store=tmp_path))


def test_training_speakers_alone_give_the_normalisation(open_):
    collection = open_()
    rows = training_rows(collection)
    normaliser = normalisers(collection, rows)
    frames = np.concatenate([collection.store.features("audio", row) for row in collection.store_row["audio"][rows]])
    np.testing.assert_allclose(normaliser["audio"].common.mean, frames.mean(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(normaliser["audio"].common.std, frames.std(axis=0), rtol=1e-4)
    everyone = normalisers(collection, np.arange(len(collection.speaker)))
    assert np.abs(everyone["audio"].common.mean - frames.mean(axis=0)).max() > 0.01
    assert not normaliser["audio"].by_speaker


def test_normalised_training_frames_have_mean_0_and_deviation_1(open_):
    collection = open_(**MIXED)
    rows = training_rows(collection)
    batch = collate(collection, rows, normalisers(collection, rows))
    for side in (batch.audio, batch.video):
        frames = side.values[side.is_real]
        torch.testing.assert_close(frames.mean(0), torch.zeros(frames.shape[1]), atol=1e-4, rtol=0)
        torch.testing.assert_close(frames.std(0, correction=0), torch.ones(frames.shape[1]), atol=1e-4, rtol=0)


def test_normalised_per_speaker_each_speaker_has_mean_0(open_):
    collection = open_()
    normaliser = normalisers(collection, training_rows(collection), FeatureUse(speaker_normalisation="full"))
    for code in range(8):
        batch = collate(collection, np.flatnonzero(collection.speaker == code), normaliser)
        frames = batch.video.values[batch.video.is_real]
        torch.testing.assert_close(frames.mean(0), torch.zeros(frames.shape[1]), atol=1e-4, rtol=0)


def test_speaker_means_are_those_of_the_training_speakers_normalised(open_):
    collection = open_(**MIXED)
    rows = training_rows(collection)
    normaliser = normalisers(collection, rows)
    assert set(normaliser["audio"].speaker_means) == set(collection.speaker[rows].tolist())
    for code, mean in normaliser["video"].speaker_means.items():
        batch = collate(collection, np.flatnonzero(collection.speaker == code), normaliser)
        frames = batch.video.values[batch.video.is_real]
        torch.testing.assert_close(frames.mean(0), torch.from_numpy(mean), atol=1e-4, rtol=0)
    assert not normalisers(collection, rows, FeatureUse(speaker_normalisation="full"))["audio"].speaker_means


def test_exchanged_speakers_reach_the_batch(open_):
    collection = open_()
    rows = training_rows(collection)[:8]
    normaliser = normalisers(collection, training_rows(collection))
    views = ViewMaker(AugmentationSettings(speaker_exchange=1), 0, 0, np.arange(8))
    moved, plain = collate(collection, rows, normaliser, views), collate(collection, rows, normaliser)
    for side, before in ((moved.audio, plain.audio), (moved.video, plain.video)):
        shift = (side.values - before.values)[0][before.is_real[0]]
        assert shift.abs().max() > 0
        # One shift for all frames of a clip.
        torch.testing.assert_close(shift, shift[:1].expand_as(shift), atol=1e-5, rtol=0)


def test_a_batch_holds_each_clip_at_its_place(open_):
    collection = open_(**MIXED)
    normaliser = normalisers(collection, training_rows(collection))
    number = numbers(collection)
    rows = np.array([np.flatnonzero(number == n)[0] for n in (5, 0, 1, 2)] + [FILLER, FILLER])
    batch = collate(collection, rows, normaliser)
    assert batch.index.tolist() == rows.tolist()
    assert batch.clips == 6
    assert batch.has_audio.tolist() == [1, 0, 1, 1, 0, 0]
    assert batch.has_video.tolist() == [1, 1, 0, 1, 0, 0]
    assert batch.is_labelled.tolist() == [1, 1, 1, 0, 0, 0]
    assert batch.audio.clip.tolist() == [0, 2, 3]
    assert batch.video.clip.tolist() == [0, 1, 3]
    assert batch.audio.weight.tolist() == [1, 1, 1]
    for place, clip in enumerate(batch.audio.clip.tolist()):
        raw = collection.store.features("audio", collection.store_row["audio"][rows[clip]])
        real = batch.audio.is_real[place]
        assert int(real.sum()) == len(raw)
        assert real[: len(raw)].all()
        expected = normaliser["audio"].common.apply(raw)
        np.testing.assert_array_equal(batch.audio.values[place, : len(raw)].numpy(), expected)
        assert not batch.audio.values[place, len(raw) :].any()
    assert not batch.target[3:].any()


@pytest.mark.parametrize("kind", ["none", "mean", "causal_mean", "full"])
def test_halves_are_normalized_on_the_device_to_the_bit_as_they_were_before_they_were_padded(tmp_path, kind):
    store = write_synthetic_store(tmp_path / "store", 60, speakers=10, dtype="float16")
    collection = open_collection(DataSettings(store=store, max_frames=9))
    normaliser = normalisers(collection, training_rows(collection), FeatureUse(speaker_normalisation=kind))
    rows = np.array([7, 3, FILLER, 59, 20])
    hidden = collection.without({"video": np.array([3])})
    halves = collate(hidden, rows, normaliser, multiple=4)
    # A change that changes nothing: frames are widened and normalized when they are read.
    widened = collate(replace(hidden, change=lambda modality, row, raw: raw), rows, normaliser, multiple=4)
    assert halves.audio.values.dtype == halves.video.values.dtype == torch.float16
    assert widened.audio.values.dtype == torch.float32
    there, here = halves.to(torch.device("cpu")), widened.to(torch.device("cpu"))
    for one, other in ((there.audio, here.audio), (there.video, here.video)):
        assert one.is_padded
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("values", "is_real", "clip"))
    masks = AugmentationSettings(audio=ViewSettings(frame_masks=1), modality_dropout=0.1)
    seen = collate(collection, rows, normaliser, ViewMaker(masks, 0, 0, np.arange(5)))
    assert (seen.audio.values.dtype, seen.video.values.dtype) == (torch.float32, torch.float16)


def test_a_batch_of_fillers_alone_has_one_row_without_weight_per_modality(open_):
    collection = open_()
    normaliser = normalisers(collection, training_rows(collection))
    batch = collate(collection, np.array([FILLER, FILLER]), normaliser)
    for side, width in ((batch.audio, 6), (batch.video, 5)):
        assert side.values.shape == (1, 1, width)
        assert side.is_real.all()
        assert side.weight.tolist() == [0]
    assert not torch.cat((batch.is_labelled, batch.has_audio, batch.has_video)).any()


def test_a_store_without_one_modality_has_a_stand_in(open_):
    collection = open_(without_video=range(10))
    assert collection.width("video") == 1
    assert not collection.has("video").any()
    normaliser = normalisers(collection, training_rows(collection))
    batch = collate(collection, np.array([0, 1]), normaliser)
    assert batch.video.values.shape == (1, 1, 1)
    assert batch.video.weight.tolist() == [0]
    assert batch.audio.weight.tolist() == [1, 1]


def test_long_clips_are_cut_around_their_middle(open_):
    values = np.arange(10)[:, None].astype(np.float32)
    assert middle_frames(values, 4).ravel().tolist() == [3, 4, 5, 6]
    assert middle_frames(values, 10) is not None
    assert len(middle_frames(values, 99)) == 10
    collection = open_(max_frames=4)
    normaliser = normalisers(collection, training_rows(collection))
    batch = collate(collection, np.arange(8), normaliser)
    assert batch.audio.values.shape[1] == 4
    assert collection.lengths(np.arange(len(collection.speaker))).max() == 4


def test_the_length_of_a_clip_is_that_of_its_longer_modality(open_):
    collection = open_(**MIXED)
    for row in (0, 1, 5, 33):
        frames = [
            len(collection.store.features(modality, place))
            for modality in ("audio", "video")
            if (place := collection.store_row[modality][row]) >= 0
        ]
        assert collection.lengths(np.array([row])) == [max(frames)]


def test_clips_are_padded_to_the_longest():
    clips = [np.full((frames, 2), frames, np.float32) for frames in (3, 1, 2)]
    side = pad_clips(clips, [4, 0, 7], 2)
    assert side.values.shape == (3, 3, 2)
    assert side.is_real.sum(1).tolist() == [3, 1, 2]
    assert side.clip.tolist() == [4, 0, 7]
    assert side.values[1].tolist() == [[1, 1], [0, 0], [0, 0]]


def test_a_batch_moves_to_a_device_whole(open_):
    collection = open_()
    batch = collate(collection, np.arange(3), normalisers(collection, training_rows(collection)))
    moved = batch.to(torch.device("meta"))
    for place in (moved, moved.audio, moved.video):
        tensors = [value for value in vars(place).values() if isinstance(value, torch.Tensor)]
        assert tensors
        assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_views_change_the_frames_and_nothing_else(open_):
    collection = open_(**MIXED)
    normaliser = normalisers(collection, training_rows(collection))
    rows = np.arange(6)
    views = ViewMaker(AugmentationSettings(audio=ViewSettings(noise=0.5)), 0, 0, rows)
    plain, noisy = collate(collection, rows, normaliser), collate(collection, rows, normaliser, views)
    assert not torch.equal(plain.audio.values, noisy.audio.values)
    assert not noisy.audio.values[~noisy.audio.is_real].any()
    assert torch.equal(plain.video.values, noisy.video.values)
    assert torch.equal(plain.target, noisy.target)
