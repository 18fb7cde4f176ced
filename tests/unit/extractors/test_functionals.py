"""Statistics of a clip: named, finite for any sound, right where the right value is known."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
from rendered_media import RATE_HZ, tone, write_wav

from vavl.config.load import validate
from vavl.errors import ConfigError
from vavl.extraction.settings import FeatureSettings
from vavl.extractors.extractor import audio_info, extract_audio, extractor_of
from vavl.extractors.functionals import channel_names, functionals, stretched
from vavl.extractors.settings import FunctionalSettings
from vavl.extractors.voice_descriptors import VoiceDescriptors

SETTINGS = FunctionalSettings()


def found(samples: np.ndarray, settings: FunctionalSettings = SETTINGS) -> dict[str, float]:
    return functionals(VoiceDescriptors.of(samples.astype(np.float32), settings), settings)


def glide(first_hz: float, last_hz: float, seconds: float) -> np.ndarray:
    hertz = np.linspace(first_hz, last_hz, round(seconds * RATE_HZ))
    return 0.3 * np.sin(2 * np.pi * np.cumsum(hertz) / RATE_HZ)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(RATE_HZ),
        np.zeros(1),
        np.ones(300),
        tone(440, 0.02),
        tone(440, 0.05),
        np.random.default_rng(0).normal(size=RATE_HZ),
        np.r_[np.zeros(5000), 1.0, np.zeros(5000)],
        tone(150, 12.0),
    ],
    ids=["silence", "one sample", "constant", "one frame", "few frames", "noise", "click", "long"],
)
def test_any_sound_gives_the_same_finite_channels(samples):
    values = found(samples)
    assert tuple(values) == channel_names(SETTINGS)
    assert np.isfinite(list(values.values())).all()


def test_no_two_channels_share_a_name():
    names = channel_names(SETTINGS)
    assert len(set(names)) == len(names) == audio_info(SETTINGS).width


def test_the_course_of_the_pitch_is_measured():
    rising, steady = found(glide(100, 200, 2.0)), found(tone(150, 2.0, amplitude=0.3))
    # An octave in two seconds; the glide is straight in hertz, hence a little bent in semitones.
    assert rising["pitch.slope"] == pytest.approx(6, rel=0.1)
    assert rising["pitch.range"] == pytest.approx(12 * np.log2(195 / 105), rel=0.05)
    assert rising["pitch.end"] > 4
    assert rising["pitch.contour1"] < -1
    assert steady["pitch.mean"] == pytest.approx(12 * np.log2(1.5), abs=0.1)
    assert abs(steady["pitch.slope"]) < 0.1


def test_length_level_and_voicing_are_measured():
    voiced, noise = tone(200, 0.6, amplitude=0.3), np.random.default_rng(0).normal(scale=0.05, size=6400)
    values = found(np.concatenate((voiced, noise)))
    assert values["clip.seconds"] == pytest.approx(1.0, abs=0.03)
    assert values["voiced.share"] == pytest.approx(0.6, abs=0.05)
    assert values["voiced.longest_run"] == pytest.approx(0.6, abs=0.04)
    louder = found(2 * np.concatenate((voiced, noise)))
    assert louder["level.mean"] - values["level.mean"] == pytest.approx(6.02, abs=0.01)
    assert louder["level.range"] == pytest.approx(values["level.range"], abs=0.01)


def test_the_rate_of_swinging_is_told_apart():
    seconds = np.arange(3 * RATE_HZ) / RATE_HZ
    noise = np.random.default_rng(0).normal(scale=0.1, size=len(seconds))
    slow, fast = (found(noise * (1.1 + np.sin(2 * np.pi * rate * seconds))) for rate in (3, 9))
    assert slow["band4.swing2hz"] > fast["band4.swing2hz"] + 1
    assert fast["band4.swing7hz"] > slow["band4.swing7hz"] + 1


def test_silence_around_a_clip_changes_little():
    sound = glide(120, 180, 1.0)
    alone, padded = found(sound), found(np.concatenate((np.zeros(8000), sound, np.zeros(4000))))
    for name in ("pitch.mean", "pitch.slope", "level.quantile0.5", "mfcc1.quantile0.5"):
        assert padded[name] == pytest.approx(alone[name], abs=0.5)
    assert padded["clip.seconds"] == pytest.approx(alone["clip.seconds"], abs=0.06)


def test_stretching_keeps_the_mean_over_time():
    frames = np.random.default_rng(0).normal(size=(37, 2))
    for points in (5, 37, 64):
        np.testing.assert_allclose(stretched(frames, points).mean(axis=0), frames.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(stretched(frames, 37), frames, atol=1e-12)
    np.testing.assert_allclose(stretched(frames[:1], 4), np.repeat(frames[:1], 4, axis=0), atol=1e-12)


def test_a_file_gives_one_frame_in_the_middle_of_its_sound(tmp_path):
    samples = np.concatenate((np.zeros(RATE_HZ), tone(200, 1.0, amplitude=0.3)))
    path = write_wav(tmp_path / "a.wav", samples)
    extracted = extract_audio(path, SETTINGS)
    info = audio_info(SETTINGS)
    assert extracted.values.shape == (1, info.width)
    assert extracted.values.dtype == extracted.frame_times.dtype == np.float32
    assert extracted.frame_times == pytest.approx([1.5], abs=0.03)
    assert info.frame_rate_hz is None
    assert info.channels == channel_names(SETTINGS)


def test_a_model_reads_media_with_the_settings_of_its_store(tmp_path):
    settings = FunctionalSettings(cepstral_coefficients=15, contour_coefficients=3)
    path = write_wav(tmp_path / "a.wav", glide(100, 300, 0.5))
    again = extractor_of(asdict(audio_info(settings)), "audio")(path)
    np.testing.assert_array_equal(again.values, extract_audio(path, settings).values)
    assert audio_info(settings).provenance != audio_info(SETTINGS).provenance


def test_settings_choose_the_extractor():
    chosen = validate(FeatureSettings, {"audio": {"extractor": "functionals", "contoured": 5}}, "test")
    assert isinstance(chosen.audio, FunctionalSettings)
    assert validate(FeatureSettings, {"audio": {"hop_ms": 10}}, "test").audio.extractor == "log_mel"
    assert FeatureSettings(audio=SETTINGS).audio is not None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"contoured": 30}, "contoured 30 <= cepstral_coefficients 20"),
        ({"spectra": {"segments": {}}}, "segments and .pooling are for log_mel"),
        ({"pitch": {"highest_hz": 4000}}, "above an eighth of the sample rate"),
        ({"conturs": 3}, "unknown key"),
        ({"extractor": "wav2vec"}, "log_mel"),
    ],
)
def test_settings_that_do_not_fit_are_refused(content, problem):
    with pytest.raises(ConfigError, match=problem):
        validate(FeatureSettings, {"audio": {"extractor": "functionals", **content}}, "test")


def test_statistics_depend_on_the_clip_alone():
    voice = VoiceDescriptors.of(glide(100, 200, 1.0).astype(np.float32), SETTINGS)
    shifted = replace(voice, times=voice.times + 100)
    assert functionals(shifted, SETTINGS) == functionals(voice, SETTINGS)
