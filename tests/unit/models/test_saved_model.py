"""A model as files: what comes back is what was saved, and bad input is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from vavl.data.batch import middle_frames
from vavl.errors import InputError, StoreError
from vavl.features import ChannelSums, FeatureStatistics, ModalityInfo
from vavl.models.clips import CenteredClip
from vavl.models.saved_model import (
    ClipFeatures,
    ModalityDescription,
    ModelDescription,
    build_network,
    load_model,
    save_model,
)
from vavl.models.settings import AttributeTask, ClassTask

CLASSES = ("calm", "glad", "mad")


@pytest.fixture
def describe(tiny_settings, batches):
    def side(modality: str, width: int, trained: bool) -> ModalityDescription:
        sums = ChannelSums.of(np.random.default_rng(0).normal(2, 3, size=(50, width)).astype(np.float32))
        info = ModalityInfo("synthetic", "1", {}, 10.0, width)
        statistics = FeatureStatistics.of("small", modality, info, sums).to_dict() if trained else {}
        return ModalityDescription(
            width=width, statistics=statistics, trained=trained, extractor={"extractor": "synthetic"}
        )

    def make(audio: bool = True, video: bool = True, **changes) -> ModelDescription:
        values = {
            "network": tiny_settings(),
            "task": ClassTask(classes=CLASSES),
            "audio": side("audio", batches.audio_width, audio),
            "video": side("video", batches.video_width, video),
            "fusion_trained": audio and video,
            "speaker_normalisation": False,
            "max_frames": 10,
            "provenance": {"corpus": "small"},
        }
        return ModelDescription(**{**values, **changes})

    return make


@pytest.fixture
def saved(tmp_path, describe, tiny_network):
    """Return a function that saves a model and gives its directory."""

    def make(**changes):
        folder = tmp_path / "model"
        save_model(folder, tiny_network().state_dict(), describe(**changes))
        return folder

    return make


@pytest.fixture
def features(batches):
    return [ClipFeatures(clip.audio, clip.video) for clip in batches.clips("av a v av a av v")]


@pytest.mark.parametrize("switch", [True, False])
def test_a_network_is_built_with_or_without_activation_checkpointing(describe, switch):
    network = build_network(describe(), activation_checkpointing=switch)
    for part in (network.audio_path, network.video_path, network.shared):
        assert part.blocks.activation_checkpointing is switch
    assert not build_network(describe()).shared.blocks.activation_checkpointing


def numbers(predictions) -> np.ndarray:
    return np.array([found.probabilities or tuple(found.attributes.values()) for found in predictions])


def test_a_loaded_model_predicts_what_the_saved_network_says(saved, describe, tiny_network, features, batches):
    model = load_model(saved())
    found = model.predict(features)
    conditions = ["audio_video", "audio", "video", "audio_video", "audio", "audio_video", "video"]
    assert [one.condition for one in found] == conditions

    def normalised(modality, values):
        if values is None:
            return None
        statistics = FeatureStatistics.from_dict(getattr(describe(), modality).statistics)
        start = max(0, (len(values) - 10) // 2)
        return statistics.normalisation.apply(values[start : start + 10])

    clips = [
        replace(clip, audio=normalised("audio", clip.audio), video=normalised("video", clip.video))
        for clip in batches.clips("av a v av a av v")
    ]
    batch = batches.of(clips)
    with torch.no_grad():
        output = tiny_network().eval()(batch)
    by_condition = {
        "audio_video": output.fusion_logits,
        "audio": dict(zip(batch.audio.clip.tolist(), output.audio.logits, strict=True)),
        "video": dict(zip(batch.video.clip.tolist(), output.video.logits, strict=True)),
    }
    logits = torch.stack([by_condition[one.condition][place] for place, one in enumerate(found)])
    np.testing.assert_allclose(numbers(found), torch.softmax(logits, -1).numpy(), atol=1e-6)
    assert [one.label for one in found] == [CLASSES[place] for place in logits.argmax(-1).tolist()]


def test_saving_again_gives_the_same_predictions(saved, tmp_path, features):
    model = load_model(saved())
    save_model(tmp_path / "copy", model.network.state_dict(), model.description)
    again = load_model(tmp_path / "copy")
    assert again.description == model.description
    assert again.predict(features) == model.predict(features)


def test_a_clip_alone_is_predicted_as_among_others(saved, features):
    model = load_model(saved())
    alone = [model.predict([clip])[0] for clip in features]
    np.testing.assert_allclose(numbers(alone), numbers(model.predict(features)), atol=1e-5)


def test_probabilities_add_up_and_no_clips_give_no_predictions(saved, features):
    model = load_model(saved())
    np.testing.assert_allclose(numbers(model.predict(features)).sum(axis=1), 1, atol=1e-6)
    assert model.classes == CLASSES
    assert model.predict([]) == []


def test_a_model_of_attributes_gives_values_by_name(saved, features):
    model = load_model(saved(task=AttributeTask()))
    found = model.predict(features)
    assert [tuple(one.attributes) for one in found] == [("arousal", "valence", "dominance")] * len(features)
    assert {(one.label, one.probabilities) for one in found} == {("", ())}
    assert model.classes == ()


def test_the_folder_holds_no_pickle(saved):
    files = sorted(saved().iterdir())
    assert [path.name for path in files] == ["model.json", "model.safetensors"]
    for path in files:
        content = path.read_bytes()
        assert not content.startswith((b"\x80", b"PK"))
        assert b"torch" not in content
    json.loads((files[0]).read_text())


def test_a_modality_that_was_not_trained_is_not_used(saved, features):
    model = load_model(saved(video=False))
    assert [one.condition for one in model.predict([features[0], features[1]])] == ["audio", "audio"]
    with pytest.raises(InputError, match="clip 0: audio, video: has no modality that the model was trained on"):
        model.predict([features[2]])


def test_without_trained_fusion_the_audio_side_is_used(saved, features):
    model = load_model(saved(fusion_trained=False))
    assert model.predict(features[:1])[0].condition == "audio"


def bad(**changes) -> ClipFeatures:
    return replace(ClipFeatures(np.zeros((4, 6), np.float32), np.zeros((4, 5), np.float32)), **changes)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (bad(audio=np.zeros((4, 7), np.float32)), r"clip 1: audio: has shape \(4, 7\), expected \(frames, 6\)"),
        (bad(video=np.zeros((0, 5), np.float32)), r"clip 1: video: has shape \(0, 5\)"),
        (bad(video=np.zeros(5, np.float32)), r"clip 1: video: has shape \(5,\)"),
        (bad(audio=np.full((4, 6), np.nan, np.float32)), "clip 1: audio: holds NaN or infinite"),
        (bad(video=np.full((4, 5), np.inf, np.float32)), "clip 1: video: holds NaN or infinite"),
        (ClipFeatures(), "clip 1: audio, video: has no modality"),
    ],
)
def test_bad_input_is_refused_with_the_clip_and_the_field(saved, features, clip, message):
    with pytest.raises(InputError, match=message):
        load_model(saved()).predict([features[0], clip])


@pytest.mark.parametrize("kind", [True, "mean", "full", "causal_mean"])
def test_a_model_of_speaker_statistics_refuses_single_clips(saved, features, kind):
    with pytest.raises(InputError, match="normalized per speaker"):
        load_model(saved(speaker_normalisation=kind)).predict(features)


def test_a_model_of_causal_means_predicts_clips_less_the_mean_of_earlier_ones(saved, features):
    plain = load_model(saved())
    model = load_model(saved(speaker_normalisation="causal_mean"))
    assert plain.speaker_means() is None
    means, clip = model.speaker_means(), features[0].by_modality
    first = model.predict([CenteredClip(**means.centered(clip, "anna"))])[0]
    assert first == plain.predict([features[0]])[0]
    other = {name: values + 3 for name, values in clip.items()}
    found = model.predict([CenteredClip(**means.centered(other, "anna"))])[0]
    statistics = {name: getattr(model.description, name).statistics for name in clip}
    shifted = {
        # One earlier clip against the weight of eight, cut to max_frames as for the prediction.
        name: values - (middle_frames(clip[name], 10).mean(axis=0) - np.asarray(statistics[name]["mean"], "f4")) / 9
        for name, values in other.items()
    }
    expected = plain.predict([ClipFeatures(**{name: values.astype("f4") for name, values in shifted.items()})])[0]
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    # Nobody else's clips count, nor do features that cannot be used.
    assert model.predict([CenteredClip(**means.centered(clip, "bert"))])[0] == first
    broken = {"audio": np.full((4, 6), np.nan, np.float32)}
    assert np.isnan(means.centered(broken, "carl")["audio"]).all()
    assert model.predict([CenteredClip(**means.centered(clip, "carl"))])[0] == first


def test_of_very_many_speakers_the_one_not_met_for_longest_is_forgotten(saved, features, monkeypatch):
    monkeypatch.setattr("vavl.models.clips.MOST_SPEAKERS", 2)
    means, clip = load_model(saved(speaker_normalisation="causal_mean")).speaker_means(), features[0].by_modality
    second = [means.centered(clip, "anna")["audio"] for _ in range(2)][1]
    for speaker in ("bert", "anna", "carl"):
        means.centered(clip, speaker)
    assert not np.array_equal(means.centered(clip, "anna")["audio"], second)
    # Bert was forgotten: the clip is his first again.
    np.testing.assert_array_equal(means.centered(clip, "bert")["audio"], clip["audio"])


def test_another_store_is_refused(saved, small_store, small_corpus):
    from vavl.store.store import FeatureStore

    model = load_model(saved())
    own, other = (FeatureStore.open(small_store(small_corpus(**name))) for name in ({}, {"name": "other"}))
    model.check_features(own.corpus, own.info)
    with pytest.raises(StoreError, match="another corpus"):
        model.check_features(other.corpus, other.info)


def damage_header(content: bytes) -> bytes:
    return content[:4] + b"\xff" * 8 + content[12:]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("model.safetensors", lambda content: content[:-20], "cannot be used"),
        ("model.safetensors", damage_header, "cannot be used"),
        ("model.safetensors", lambda content: b"", "cannot be used"),
        ("model.safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 1]), "cannot be used"),
        ("model.safetensors", None, "cannot be used"),
        ("model.json", None, "does not exist"),
        ("model.json", lambda content: content[:-20], "not valid JSON"),
        ("model.json", lambda content: content.replace(b'"width": 6', b'"width": 0'), "audio.width"),
        ("model.json", lambda content: content.replace(b'"width": 6', b'"width": 8'), "statistics|cannot be used"),
        ("model.json", lambda content: content.replace(b'"max_frames": 10', b'"most": 10'), "max_frames"),
        ("model.json", lambda content: content.replace(b'"format_version": 2', b'"format_version": 9, "new": 0'), "9"),
    ],
)  # fmt: skip
def test_a_damaged_model_is_refused(saved, file, change, message):
    path = saved() / file
    if change is None:
        path.unlink()
    else:
        before = path.read_bytes()
        path.write_bytes(change(before))
        assert path.read_bytes() != before
    with pytest.raises(InputError, match=message):
        load_model(path.parent)
