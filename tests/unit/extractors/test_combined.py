"""Statistics of frames, and several extractors of one modality whose channels are joined."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from rendered_media import moving_square, tone, write_mp4, write_wav
from talking_face import talking_face
from tiny_speech import WIDTH, save_tiny_whisper

from vavl.config.load import validate
from vavl.config.places import portable
from vavl.config.plugins import missing_plugin
from vavl.errors import ConfigError, StoreError
from vavl.extraction.settings import FeatureSettings
from vavl.extractors.combined import sounding_interval
from vavl.extractors.extracted import Extracted
from vavl.extractors.extractor import (
    audio_extractor,
    audio_info,
    check_features,
    extractor_of,
    extractor_settings,
    video_extractor,
    video_info,
)
from vavl.extractors.settings import AudioFeatureSettings, FunctionalSettings, VideoFeatureSettings
from vavl.features import changed_settings

LOG_MEL = {"extractor": "log_mel", "mel_bands": 8}
POOLED = {**LOG_MEL, "pooling": "statistics"}


def audio(*parts) -> tuple:
    return validate(FeatureSettings, {"audio": list(parts)}, "test").audio


@pytest.fixture
def late(tmp_path):
    """Return a file that sounds from 0.5 to 1.0 s of 2 s."""
    samples = np.zeros(32_000, np.float32)
    samples[8_000:16_000] = tone(300, 0.5, amplitude=0.3)
    return write_wav(tmp_path / "late.wav", samples)


def test_audio_is_pooled_over_its_sounding_frames(late):
    frames = audio_extractor(AudioFeatureSettings(mel_bands=8))(late)
    found = audio_extractor(AudioFeatureSettings(**POOLED))(late)
    start, end = sounding_interval(late)
    assert (start, end) == (pytest.approx(0.5, abs=0.03), pytest.approx(1.0, abs=0.03))
    sounding = frames.values[(frames.frame_times >= start) & (frames.frame_times <= end)]
    np.testing.assert_allclose(found.values[0, :8], sounding.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.values[0, 8:], sounding.std(axis=0), rtol=1e-4)
    assert found.frame_times == pytest.approx([0.75], abs=0.03)
    assert found.facts == frames.facts


def test_a_sound_between_two_frames_counts_by_the_nearest_one(tmp_path):
    click = np.zeros(32_000, np.float32)
    click[15_000:15_100] = 0.5
    path = write_wav(tmp_path / "click.wav", click)
    slow = {"hop_ms": 400, "window_ms": 50}
    frames = audio_extractor(AudioFeatureSettings(**slow))(path)
    found = audio_extractor(AudioFeatureSettings(**slow, pooling="statistics"))(path)
    nearest = np.abs(frames.frame_times - 15_050 / 16_000).argmin()
    np.testing.assert_allclose(found.values[0, :64], frames.values[nearest], rtol=1e-6)
    assert not found.values[0, 64:].any()


def test_pooled_channels_have_names_and_no_frame_rate():
    info = audio_info(AudioFeatureSettings(**POOLED))
    assert (info.frame_rate_hz, info.width) == (None, 16)
    assert (info.channels[0], info.channels[-1]) == ("0.mean", "7.deviation")
    names = video_info(VideoFeatureSettings(pooling="statistics")).channels
    assert (names[-1], len(names)) == ("face_found.deviation", 2 * video_info(VideoFeatureSettings()).width)


def test_video_is_pooled_over_the_frames_with_a_face(tmp_path):
    face = talking_face(10)
    path = write_mp4(tmp_path / "a.mp4", np.concatenate([face, np.full_like(face[:5], 128)]))
    settings = VideoFeatureSettings(faces={"longest_gap_s": 5})
    frames = video_extractor(settings)(path)
    assert len(frames.values) == 15
    assert 0 < frames.has_face.sum() <= 11
    found = video_extractor(settings.model_copy(update={"pooling": "statistics"}))(path)
    np.testing.assert_allclose(found.values[0, :186], frames.values[frames.has_face].mean(axis=0), atol=1e-5)


def test_a_clip_without_a_face_is_pooled_over_its_fixed_crop(tmp_path):
    path = write_mp4(tmp_path / "a.mp4", moving_square(8))
    frames = video_extractor(VideoFeatureSettings())(path)
    found = video_extractor(VideoFeatureSettings(pooling="statistics"))(path)
    np.testing.assert_allclose(found.values[0, :186], frames.values.mean(axis=0), atol=1e-5)
    assert found.note == frames.note is not None


def test_a_setting_that_is_not_used_leaves_the_provenance_of_earlier_stores():
    assert "pooling" not in audio_info(AudioFeatureSettings()).settings
    assert audio_info(AudioFeatureSettings()).provenance != audio_info(AudioFeatureSettings(**POOLED)).provenance


def test_functionals_and_a_pooled_network_are_one_vector(tmp_path, late):
    backbone = {"folder": str(save_tiny_whisper(tmp_path / "whisper")), "device": "cpu"}
    whisper = {"extractor": "speech_transformer", "backbone": backbone, "layers": [2, 2], "overlap_s": 0.4}
    settings = audio("functionals", {**whisper, "pooling": "statistics"})
    check_features(settings, "audio")
    info = audio_info(settings)
    assert (info.extractor, info.frame_rate_hz) == ("functionals+speech_transformer", None)
    assert info.width == len(info.channels) == 417 + 2 * WIDTH
    found = audio_extractor(settings)(late)
    parts = [audio_extractor(one)(late).values for one in settings]
    np.testing.assert_array_equal(found.values, np.concatenate(parts, axis=1))
    # As stores and models keep it.
    stored = json.loads(json.dumps(asdict(info), sort_keys=True))
    np.testing.assert_array_equal(extractor_of(stored, "audio")(late).values, found.values)
    assert extractor_settings(stored, "audio")[0] == FunctionalSettings()
    assert missing_plugin(stored) is None


def test_other_weights_of_a_part_are_refused_and_another_place_of_them_is_not(tmp_path):
    def info_of(folder):
        backbone = {"folder": str(folder), "device": "cpu"}
        return audio_info(
            audio(POOLED, {"extractor": "speech_transformer", "backbone": backbone, "layers": [1, 1],
                           "overlap_s": 0.4, "pooling": "statistics"})
        )  # fmt: skip

    one, same = (info_of(save_tiny_whisper(tmp_path / name)) for name in ("one", "same"))
    other = save_tiny_whisper(tmp_path / "other", seed=1)
    assert one.provenance == same.provenance != info_of(other).provenance
    stored = asdict(one)
    stored["settings"]["parts"][1]["settings"]["backbone"]["folder"] = str(other)
    with pytest.raises(StoreError, match=r"made with other files .*model\.safetensors"):
        extractor_of(stored, "audio")


def test_frames_at_one_rate_are_joined_where_all_extractors_have_them(tmp_path, late):
    settings = audio(LOG_MEL, {**LOG_MEL, "window_ms": 200})
    found = audio_extractor(settings)(late)
    short, long = (audio_extractor(one)(late) for one in settings)
    # The long window has its first center 87.5 ms later: nearest to the frame 4 of the short one.
    assert len(found.values) == len(long.values) < len(short.values)
    np.testing.assert_array_equal(found.values[:, :8], short.values[4 : 4 + len(long.values)])
    np.testing.assert_array_equal(found.values[:, 8:], long.values)
    np.testing.assert_array_equal(found.frame_times, short.frame_times[4 : 4 + len(long.values)])


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        (["functionals", LOG_MEL], r"functionals: one frame per clip, log_mel: 50 frames a second.*\n.*pooling: stat"),
        ([LOG_MEL, {**LOG_MEL, "hop_ms": 10}], "log_mel: 50 frames a second, log_mel: 100 frames a second"),
    ],
)
def test_frames_that_do_not_agree_are_refused_before_a_file_is_read(parts, problem):
    with pytest.raises(ConfigError, match=rf"(?s)features\.audio: .*do not agree.*{problem}"):
        check_features(audio(*parts), "audio")


def test_video_extractors_are_checked_together():
    video = validate(FeatureSettings, {"video": [{"pooling": "statistics"}, {"frame_rate_hz": 10}]}, "test").video
    with pytest.raises(ConfigError, match=r"face_descriptor: one frame per clip, face_descriptor: 10 frames"):
        check_features(video, "video")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], "audio: Value error, names no extractor"),
        (["functionals", {"extractor": "log_mel", "mel_band": 8}], r"mel_band: unknown key; did you mean `mel_bands`"),
        (["whisper"], "`whisper` is not known"),
        ([{"extractor": "functionals", "spectra": {"pooling": "statistics"}}], "functionals summarize the whole clip"),
        ([{"extractor": "opensmile", "pooling": "statistics"}], "functionals are one frame per clip already"),
        ([{"pooling": "mean"}], "Input should be 'statistics'"),
    ],
)
def test_settings_that_name_no_extractor_are_refused(content, problem):
    with pytest.raises(ConfigError, match=problem):
        validate(FeatureSettings, {"audio": content}, "test")


def test_paths_of_several_extractors_are_recorded_relative(tmp_path):
    whisper = {"extractor": "speech_transformer", "backbone": {"folder": f"{tmp_path}/a"}, "layers": [1, 1]}
    kept = portable(validate(FeatureSettings, {"audio": ["functionals", whisper]}, "test"), tmp_path)
    assert str(kept.audio[1].backbone.folder) == "a"


def test_changes_of_a_part_are_named_by_it():
    one, other = (asdict(audio_info(audio("functionals", {**POOLED, "hop_ms": hop}))) for hop in (20, 10))
    assert changed_settings(one, other) == "log_mel.hop_ms 20.0 -> 10.0"


def test_a_plug_ins_settings_may_inherit_pooling(monkeypatch, late):
    from vavl.extractors import extractor, settings
    from vavl.extractors.extracted import ExtractorPlugin
    from vavl.extractors.settings import FrameSettings
    from vavl.features import ModalityInfo

    class OwnSettings(FrameSettings):
        extractor: str = "own"

    frames = Extracted(np.arange(6, dtype="f4").reshape(3, 2), np.array([0.6, 0.8, 1.9], "f4"))
    plugin = ExtractorPlugin(
        "audio", OwnSettings, lambda _: ModalityInfo("own", "1", {}, 5.0, 2), lambda _: lambda _path: frames
    )
    monkeypatch.setattr(extractor, "extractor_plugin", lambda *_: plugin)
    monkeypatch.setattr(settings, "extractor_plugin", lambda *_: plugin)
    monkeypatch.setattr(extractor, "plugin_distribution", lambda *_: "own-plugin")
    own = OwnSettings(pooling="statistics")
    np.testing.assert_allclose(audio_extractor(own)(late).values, [[1, 2, 1, 1]])
    assert audio_info(own).width == 4
