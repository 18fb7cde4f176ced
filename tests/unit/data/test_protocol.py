"""Hidden labels and hidden sides: how many, which, and that nothing reads them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from vavl.corpora.manifest import TEST, TRAIN, VALIDATION, Manifest
from vavl.data.collection import open_collection
from vavl.data.loader import collate
from vavl.data.normalization import normalisers
from vavl.data.partitions import PartitionSettings
from vavl.data.protocol import apply_partitions, clip_classes, stratified_draw
from vavl.data.settings import DataSettings, FeatureUse
from vavl.errors import ConfigError
from vavl.store.store import FeatureStore

FRACTIONS = (0.05, 0.1, 0.2, 0.25, 0.5, 0.75, 0.9, 1.0)


@pytest.fixture
def open_(small_store, small_corpus):
    def make(target="label", clips_per_speaker=30, **corpus):
        store = small_store(small_corpus(clips_per_speaker=clips_per_speaker, **corpus))
        return open_collection(DataSettings(store=store, target=target))

    return make


def training_rows(collection) -> np.ndarray:
    return np.flatnonzero(collection.manifest.split(0) == TRAIN)


def applied(collection, **settings):
    return apply_partitions(collection, training_rows(collection), PartitionSettings(**settings))


def labelled(collection) -> set[int]:
    rows = training_rows(collection)
    return set(rows[collection.is_labelled[rows]].tolist())


def one_sided(collection) -> tuple[set[int], set[int]]:
    """Training clips with audio alone and with video alone."""
    rows = training_rows(collection)
    audio, video = collection.has("audio")[rows], collection.has("video")[rows]
    return set(rows[audio & ~video].tolist()), set(rows[video & ~audio].tolist())


@pytest.mark.parametrize("stratify", ["over_all", "per_speaker"])
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_every_stratum_keeps_its_share_of_labels(open_, stratify, fraction):
    before = open_()
    after = applied(before, labelled_fraction=fraction, stratify=stratify)
    rows = training_rows(before)
    kept, classes = after.is_labelled[rows], clip_classes(before.manifest)[rows]
    assert abs(kept.sum() - fraction * len(rows)) <= 0.5
    speakers = before.speaker[rows] if stratify == "per_speaker" else np.zeros(len(rows))
    strata = set(zip(classes.tolist(), speakers.tolist(), strict=True))
    assert len(strata) == (12 if stratify == "per_speaker" else 3)
    for name, speaker in strata:
        inside = (classes == name) & (speakers == speaker)
        assert abs(kept[inside].sum() - fraction * inside.sum()) <= 1


def test_a_balanced_corpus_gives_every_class_and_speaker_its_share():
    """RAVDESS: four or eight clips of a class and speaker, where a tenth is less than one clip."""
    classes, speakers = (codes.ravel() for codes in np.meshgrid(np.repeat(np.arange(8), [4] + [8] * 7), np.arange(16)))
    for seed in range(10):
        drawn = stratified_draw(classes, speakers, np.random.default_rng(seed))
        for fraction in FRACTIONS:
            kept = drawn < fraction
            assert abs(kept.sum() - fraction * len(drawn)) <= 0.5
            for codes in (classes, speakers):
                share = np.bincount(codes[kept], minlength=codes.max() + 1) - fraction * np.bincount(codes)
                assert np.abs(share).max() < 3
            inside = np.bincount(classes[kept] * 16 + speakers[kept], minlength=128)
            assert np.abs(inside - fraction * np.bincount(classes * 16 + speakers)).max() <= 1


def test_a_larger_fraction_holds_the_clips_of_a_smaller_one(open_):
    collection = open_()
    kept = [labelled(applied(collection, labelled_fraction=fraction, seed=3)) for fraction in FRACTIONS]
    assert all(small < large for small, large in pairwise(kept))
    assert kept[-1] == labelled(collection)


def test_larger_shares_hold_the_clips_of_smaller_ones(open_):
    collection = open_()
    shares = [one_sided(applied(collection, audio_only_share=s, video_only_share=s)) for s in (0.1, 0.3, 0.5)]
    for small, large in pairwise(shares):
        assert small[0] < large[0]
        assert small[1] < large[1]
    alone = one_sided(applied(collection, audio_only_share=0.3))
    assert alone == (shares[1][0], set())


@pytest.mark.parametrize("stratify", ["over_all", "per_speaker"])
def test_every_class_gives_its_share_of_pairs(open_, stratify):
    before = open_()
    after = applied(before, audio_only_share=0.3, video_only_share=0.2, stratify=stratify)
    rows = training_rows(before)
    classes, (audio_only, video_only) = clip_classes(before.manifest), one_sided(after)
    assert (len(audio_only), len(video_only)) == (round(0.3 * len(rows)), round(0.2 * len(rows)))
    assert not audio_only & video_only
    for code in range(3):
        inside = set(rows[classes[rows] == code].tolist())
        for found, share in ((audio_only, 0.3), (video_only, 0.2)):
            assert abs(len(found & inside) - share * len(inside)) <= 2


def test_shares_of_one_leave_no_pair(open_):
    collection = open_()
    audio_only, video_only = one_sided(applied(collection, audio_only_share=0.7, video_only_share=0.3))
    assert audio_only | video_only == set(training_rows(collection).tolist())
    assert one_sided(applied(collection, video_only_share=1)) == (set(), set(training_rows(collection).tolist()))


def test_the_seed_decides(open_):
    collection = open_()
    settings = {"labelled_fraction": 0.3, "audio_only_share": 0.3}
    first, again, other = (applied(collection, seed=seed, **settings) for seed in (0, 0, 1))
    assert labelled(first) == labelled(again)
    assert one_sided(first) == one_sided(again)
    assert labelled(first) != labelled(other)
    assert one_sided(first) != one_sided(other)


def test_labels_and_pairs_are_drawn_apart(open_):
    collection = open_(clips_per_speaker=200)
    fewer = applied(collection, labelled_fraction=0.2, audio_only_share=0.5)
    assert labelled(fewer) == labelled(applied(collection, labelled_fraction=0.2))
    assert one_sided(fewer) == one_sided(applied(collection, audio_only_share=0.5))
    # 160 of 800 clips have a label; if pairing were independent of it, 80 +- 5.7 of them are audio-only.
    assert 60 <= len(labelled(fewer) & one_sided(fewer)[0]) <= 100


def test_validation_and_test_stay_as_they_are(open_):
    before = open_(without_audio=(0,), without_video=(1,))
    after = applied(before, labelled_fraction=0.3, audio_only_share=0.5, video_only_share=0.5)
    rest = np.isin(before.manifest.split(0), (VALIDATION, TEST))
    for name in ("target", "is_labelled", "speaker"):
        assert np.array_equal(getattr(before, name)[rest], getattr(after, name)[rest])
    for modality in ("audio", "video"):
        assert np.array_equal(before.store_row[modality][rest], after.store_row[modality][rest])
    assert labelled(before) > labelled(after)


def test_what_the_corpus_lacks_stays_lacking(open_):
    before = open_(without_audio=(0,), without_video=(1,), without_label=(2, 3))
    after = applied(before, labelled_fraction=0.5, audio_only_share=0.25)
    assert labelled(after) < labelled(before)
    assert len(labelled(after)) == round(0.5 * len(labelled(before)))
    gained = one_sided(after)[0] - one_sided(before)[0]
    assert one_sided(before)[0] < one_sided(after)[0]
    assert one_sided(before)[1] == one_sided(after)[1]
    assert len(gained) == round(0.25 * 120 * 0.8)


def test_a_clip_without_any_side_takes_no_label_from_the_others(open_):
    before = open_(without_audio=(0, 1), without_video=(0,))
    rows = training_rows(before)
    usable = before.has("audio") | before.has("video")
    kept = labelled(applied(before, labelled_fraction=0.5)) & set(rows[usable[rows]].tolist())
    assert len(kept) == round(0.5 * usable[rows].sum())


def test_the_defaults_change_nothing(open_):
    collection = open_()
    assert applied(collection) is collection


def test_hidden_labels_leave_no_target(open_):
    for target in ("label", "soft_label", "attributes"):
        after = applied(open_(target), labelled_fraction=0.25)
        rows = training_rows(after)
        assert not after.target[rows[~after.is_labelled[rows]]].any()
        assert after.is_labelled[rows].sum() == 30


def test_the_corpus_itself_is_not_changed(open_):
    before = open_()
    target, rows = before.target.copy(), before.store_row["audio"].copy()
    applied(before, labelled_fraction=0.2, video_only_share=0.5)
    assert np.array_equal(before.target, target)
    assert np.array_equal(before.store_row["audio"], rows)


@pytest.mark.parametrize("kind", ["none", "mean", "causal_mean", "full"])
def test_hidden_sides_are_never_read(open_, monkeypatch, kind):
    before = open_()
    after = applied(before, audio_only_share=0.4, video_only_share=0.4)
    rows = training_rows(before)
    hidden = {
        modality: set(before.store_row[modality][rows[~after.has(modality)[rows]]].tolist())
        for modality in ("audio", "video")
    }
    assert {modality: len(places) for modality, places in hidden.items()} == {"audio": 48, "video": 48}
    read = FeatureStore.features

    def guarded(store, modality, row, **words):
        assert row not in hidden[modality], (modality, row)
        return read(store, modality, row, **words)

    monkeypatch.setattr(FeatureStore, "features", guarded)
    normaliser = normalisers(after, rows, FeatureUse(speaker_normalisation=kind))
    batch = collate(after, rows, normaliser)
    assert batch.audio.clip.tolist() == np.flatnonzero(after.has("audio")[rows]).tolist()
    assert batch.has_video.sum() == 72
    assert after.lengths(rows).max() <= 12


@pytest.mark.parametrize("kind", ["none", "mean", "causal_mean", "full"])
def test_statistics_are_those_of_the_visible_clips(open_, kind):
    after = applied(open_(), audio_only_share=0.4, video_only_share=0.4)
    rows = training_rows(after)
    normaliser = normalisers(after, rows, FeatureUse(speaker_normalisation=kind))

    def frames(modality, chosen):
        places = after.store_row[modality][chosen]
        return np.concatenate([after.store.features(modality, row) for row in places[places >= 0]])

    for modality in ("audio", "video"):
        seen = frames(modality, rows)
        found = normaliser[modality].common
        np.testing.assert_allclose(found.mean, seen.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.std, seen.std(0), rtol=1e-4)
        for speaker, own in normaliser[modality].by_speaker.items():
            mine = frames(modality, np.flatnonzero(after.speaker == speaker))
            np.testing.assert_allclose(own.mean, mine.mean(0), rtol=1e-4, atol=1e-4)
        assert len(normaliser[modality].by_speaker) == (8 if kind in ("mean", "full") else 0)


def test_a_modality_that_is_hidden_whole_has_no_statistics(open_):
    after = applied(open_(), audio_only_share=1)
    normaliser = normalisers(after, training_rows(after), FeatureUse(speaker_normalisation="full"))
    assert normaliser["video"].common.mean.tolist() == [0] * 5
    assert normaliser["video"].common.std.tolist() == [1] * 5
    assert not normaliser["video"].by_speaker


def test_clips_without_a_class_form_a_stratum_of_their_own(open_, monkeypatch):
    collection = open_("attributes")
    monkeypatch.setattr("vavl.data.protocol.clip_classes", lambda manifest: np.full(len(manifest), -1, np.int16))
    for stratify, strata in (("over_all", 1), ("per_speaker", 4)):
        after = applied(collection, labelled_fraction=0.25, stratify=stratify)
        rows = training_rows(after)
        counts = np.bincount(after.speaker[rows[after.is_labelled[rows]]])
        assert counts.sum() == 30
        assert strata == 1 or set(counts.tolist()) <= {7, 8}


def test_a_fraction_that_leaves_a_class_without_labels_is_refused_with_one_that_works(open_):
    collection = open_()
    message = r"partitions\.labelled_fraction: 0\.01 of 120 labeled training clips leaves no label for: \w+"
    with pytest.raises(ConfigError, match=message) as caught:
        applied(collection, labelled_fraction=0.01)
    least = float(caught.value.fix.split()[-1])
    after = applied(collection, labelled_fraction=least)
    rows = training_rows(after)
    assert set(clip_classes(after.manifest)[rows[after.is_labelled[rows]]].tolist()) == {0, 1, 2}
    with pytest.raises(ConfigError, match=f"at least {least:g}"):
        applied(collection, labelled_fraction=least - 2e-4)


@pytest.mark.parametrize("name", ["audio_only_share", "video_only_share"])
def test_a_share_of_no_pairs_is_refused(open_, name):
    collection = open_(without_audio=range(5), without_video=range(5, 10))
    with pytest.raises(ConfigError, match=f"partitions.{name}: is 0.25, but no training clip has both audio and video"):
        applied(collection, **{name: 0.25})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labelled_fraction": 0}, "greater than 0"),
        ({"labelled_fraction": 1.1}, "less than or equal to 1"),
        ({"audio_only_share": 0.6, "video_only_share": 0.5}, "together are more than all pairs"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        PartitionSettings(**settings)


def test_the_most_voted_class_stands_in_for_a_label():
    table = pa.table(
        {
            "label": pa.array(["mad", None, None], pa.string()),
            "soft_label": pa.array([[1.0, 0.0], [0.4, 0.6], None], pa.list_(pa.float32())),
        }
    ).replace_schema_metadata({b"vavl": b'{"classes": ["calm", "mad"]}'})
    assert clip_classes(Manifest(table)).tolist() == [1, 1, -1]
    assert clip_classes(Manifest(table.drop_columns("soft_label"))).tolist() == [1, -1, -1]
