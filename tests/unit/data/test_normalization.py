"""Normalization of features: common, and per speaker."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from vavl.data.collection import open_collection
from vavl.data.loader import collate
from vavl.data.normalization import NORMALIZED_BY, Normaliser, normalisers, order_of_clips
from vavl.data.settings import DataSettings, FeatureUse
from vavl.errors import StoreError
from vavl.features import CausalMean, ChannelSums, Normalisation


@pytest.fixture
def open_(small_store, small_corpus):
    def make(**corpus):
        return open_collection(DataSettings(store=small_store(small_corpus(**corpus)), max_frames=6))

    return make


def use(kind: str, order: str = "file") -> FeatureUse:
    return FeatureUse(speaker_normalisation=kind, speaker_order=order)


def test_a_speaker_without_own_sums_gets_the_common_ones():
    one, two = (ChannelSums.of(np.random.default_rng(seed).normal(size=(9, 2)).astype(np.float32)) for seed in (0, 1))
    normaliser = Normaliser(Normalisation.from_sums(one), {3: Normalisation.from_sums(two)})
    values = np.ones((4, 2), np.float32)
    assert np.array_equal(normaliser.of(3, 0).apply(values), normaliser.by_speaker[3].apply(values))
    assert np.array_equal(normaliser.of(2, 0).apply(values), normaliser.common.apply(values))


def test_a_mean_of_earlier_clips_weighs_the_training_mean_as_eight_clips():
    mean = CausalMean(np.array([1.0, 2.0], np.float32))
    assert mean.mean.tolist() == [1, 2]
    mean.add(np.array([[8.0, 0.0], [12.0, 0.0], [10.0, 0.0]], np.float32))
    mean.add(np.array([[-10.0, 4.0]], np.float32))
    np.testing.assert_allclose(mean.mean, [(8 + 10 - 10) / 10, (16 + 4) / 10])


def test_by_earlier_clips_alone_a_clip_loses_their_mean(open_):
    collection = open_()
    training = np.flatnonzero(collection.manifest.split(0) == 0)
    normaliser = normalisers(collection, training, use("causal_mean"))["audio"]
    common = normalisers(collection, training)["audio"].common
    speaker = next(code for code in range(8) if code not in collection.speaker[training])
    own = np.flatnonzero(collection.speaker == speaker)
    expected = CausalMean(common.mean)
    for row in own.tolist():
        frames = collection.frames("audio", row)
        found = normaliser.of(speaker, row).apply(frames)
        np.testing.assert_allclose(found, (frames - expected.mean) / common.std, atol=1e-5)
        expected.add(frames)
    assert expected.clips == len(own) == 10
    # What comes later changes nothing: without the last clips the first are the same.
    fewer = collection.without({"audio": own[5:]})
    again = normalisers(fewer, training, use("causal_mean"))["audio"]
    np.testing.assert_allclose(again.by_row[own[:5]], normaliser.by_row[own[:5]], atol=1e-6)
    assert not normaliser.speaker_means


def test_by_default_a_drawn_order_says_which_clips_are_earlier(open_):
    collection = open_()
    training = np.flatnonzero(collection.manifest.split(0) == 0)
    found = {
        order: normalisers(collection, training, use("causal_mean", order))["audio"] for order in ("file", "shuffled")
    }
    assert FeatureUse().speaker_order == "shuffled"
    first = {}
    for order, normaliser in found.items():
        shift = np.abs(normaliser.by_row - normaliser.common.mean).max(axis=1)
        first[order] = np.flatnonzero(shift < 1e-6).tolist()
        assert len(first[order]) == len(collection.speakers)
    assert first["file"] == [10 * speaker for speaker in range(len(collection.speakers))] != first["shuffled"]


def test_the_drawn_order_of_two_clips_does_not_depend_on_others():
    names = [f"clip{number}" for number in range(50)]
    order = order_of_clips(names, "shuffled")
    assert sorted(order) == order_of_clips(names, "file") == list(range(50))
    some = names[::3]
    kept = [names[place] for place in order if names[place] in some]
    assert [some[place] for place in order_of_clips(some, "shuffled")] == kept != some


def test_by_their_mean_speakers_keep_the_common_deviation(open_):
    collection = open_()
    training = np.flatnonzero(collection.manifest.split(0) == 0)
    normaliser = normalisers(collection, training, use("mean"))
    common = normalisers(collection, training)["audio"].common
    for code, own in normaliser["audio"].by_speaker.items():
        np.testing.assert_array_equal(own.std, common.std)
        rows = np.flatnonzero(collection.speaker == code)
        batch = collate(collection, rows, normaliser)
        whole = np.concatenate([collection.store.features("audio", collection.store_row["audio"][row]) for row in rows])
        np.testing.assert_allclose(own.mean, whole.mean(axis=0), atol=1e-4)
        assert batch.audio.values.abs().max() > 0


@pytest.mark.parametrize("kind", ["mean", "full"])
def test_a_speaker_with_a_single_clip_is_refused_where_it_would_become_zeros(open_, kind):
    collection = open_()
    own = np.flatnonzero(collection.speaker == 2)
    alone = collection.without({"video": own[1:]})
    training = np.flatnonzero(collection.manifest.split(0) == 0)
    problem = (
        rf"speaker_normalisation={kind}: 1 of 8 speakers have fewer than two clips with video, e.g. {alone.speakers[2]}"
    )
    with pytest.raises(StoreError, match=rf"(?s){problem}.*use causal_mean or none"):
        normalisers(alone, training, use(kind))
    assert normalisers(alone, training, use("causal_mean"))["video"].by_row is not None


def test_what_earlier_configurations_say_is_understood_and_anything_else_is_refused():
    assert [FeatureUse(speaker_normalisation=value).speaker_normalisation for value in (False, True)] == [
        "none",
        "full",
    ]
    assert set(NORMALIZED_BY) == {"none", "mean", "causal_mean", "full"}
    with pytest.raises(ValidationError, match="causal_mean"):
        FeatureUse(speaker_normalisation="causal")
