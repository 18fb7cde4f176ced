"""openSMILE: the published feature sets with their names, true frame times, and what it cannot do."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from rendered_media import tone, write_wav

from vavl.errors import ClipError, ConfigError
from vavl.extractors.extracted import read_modality
from vavl.extractors.extractor import audio_extractor, audio_info
from vavl.extractors.settings import OpensmileSettings

pytest.importorskip("opensmile", reason="openSMILE is not installed: pip install .[opensmile], research license")


def extracted(path, **settings):
    return audio_extractor(OpensmileSettings(**settings))(path)


@pytest.mark.parametrize(
    ("feature_set", "level", "width"),
    [
        ("eGeMAPSv02", "functionals", 88),
        ("eGeMAPSv02", "descriptors", 25),
        ("ComParE_2016", "functionals", 6373),
        ("ComParE_2016", "descriptors", 65),
    ],
)
def test_the_published_sets_have_their_size_and_names(tmp_path, feature_set, level, width):
    settings = OpensmileSettings(feature_set=feature_set, level=level)
    info = audio_info(settings)
    path = write_wav(tmp_path / "a.wav", tone(220, 1.0, 44_100, 0.3), 44_100)
    found = read_modality(audio_extractor(settings), path, "a.wav", "audio")
    assert info.width == len(set(info.channels)) == found.values.shape[1] == width
    assert found.values.dtype == found.frame_times.dtype == np.float32
    assert (len(found.values) == 1) == (level == "functionals") == (info.frame_rate_hz is None)
    assert found.facts["sample_rate_hz"] == 44_100


def test_the_pitch_of_a_tone_is_found(tmp_path):
    name = "F0semitoneFrom27.5Hz_sma3nz"
    path = write_wav(tmp_path / "a.wav", sum(tone(220 * n, 1.0, amplitude=0.2 / n) for n in range(1, 8)))
    found = extracted(path, level="descriptors", channels=name.replace(".", r"\."))
    assert audio_info(OpensmileSettings(level="descriptors", channels="F0.*")).channels == (name,)
    assert found.values[10:-10] == pytest.approx(36, abs=0.2)  # three octaves above 27.5 Hz


@pytest.mark.parametrize(
    ("feature_set", "channel"), [("eGeMAPSv02", "Loudness.*"), ("ComParE_2016", "pcm_RMSenergy_sma")]
)
def test_descriptors_are_at_the_time_of_the_sound(tmp_path, feature_set, channel):
    samples = np.zeros(32_000)
    samples[16_000:16_160] = np.random.default_rng(0).normal(0, 0.3, 160)
    found = extracted(
        write_wav(tmp_path / "a.wav", samples),
        feature_set=feature_set, level="descriptors", channels=channel,
    )  # fmt: skip
    loudness = found.values[:, 0] - found.values[:, 0].min()
    assert float(found.frame_times @ loudness / loudness.sum()) == pytest.approx(1.005, abs=0.002)
    np.testing.assert_allclose(np.diff(found.frame_times), 0.01, atol=1e-5)


def test_functionals_are_in_the_middle_of_the_clip(tmp_path):
    found = extracted(write_wav(tmp_path / "a.wav", tone(220, 1.0, amplitude=0.3)))
    assert found.frame_times == pytest.approx([0.5])


def test_a_full_scale_sample_does_not_turn_over(tmp_path):
    samples = np.sign(tone(100, 0.5))
    paths = [write_wav(tmp_path / f"{name}.wav", samples * level) for name, level in (("a", 1), ("b", 0.999))]
    loud, softer = (extracted(path, level="descriptors", channels="Loudness.*").values for path in paths)
    np.testing.assert_allclose(loud, softer, rtol=0.01)


def test_silence_after_a_click_gives_finite_values(tmp_path):
    path = write_wav(tmp_path / "a.wav", np.r_[0.01, np.zeros(15_999)])
    for feature_set in ("eGeMAPSv02", "ComParE_2016"):
        for level in ("descriptors", "functionals"):
            found = extracted(path, feature_set=feature_set, level=level)
            assert len(read_modality(lambda _, found=found: found, path, "a.wav", "audio").values) > 0


def test_cepstrum_alone_can_be_kept(tmp_path):
    info = audio_info(OpensmileSettings(feature_set="ComParE_2016", level="descriptors", channels="mfcc.*"))
    assert info.channels == tuple(f"mfcc_sma[{number}]" for number in range(1, 15))
    path = write_wav(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000))
    every = extracted(path, feature_set="ComParE_2016", level="descriptors")
    names = audio_info(OpensmileSettings(feature_set="ComParE_2016", level="descriptors")).channels
    some = extracted(path, feature_set="ComParE_2016", level="descriptors", channels="mfcc.*")
    columns = [names.index(name) for name in info.channels]
    np.testing.assert_array_equal(some.values, every.values[:, columns])


def test_a_clip_is_not_changed_by_the_one_before(tmp_path):
    extract = audio_extractor(OpensmileSettings())
    path = write_wav(tmp_path / "a.wav", tone(220, 0.5, amplitude=0.3))
    first = extract(path).values
    extract(write_wav(tmp_path / "b.wav", tone(330, 2.0, amplitude=0.9)))
    np.testing.assert_array_equal(extract(path).values, first)


def test_what_cannot_be_done_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ClipError, match=r"0\.050 s are too short for openSMILE"):
        extracted(write_wav(tmp_path / "a.wav", tone(220, 0.05, amplitude=0.3)))
    with pytest.raises(ConfigError, match="`mfccc` matches none of the 88 channels"):
        audio_extractor(OpensmileSettings(channels="mfccc"))


def test_a_missing_package_is_named(monkeypatch):
    from vavl.extractors import opensmile_features

    opensmile_features._smile.cache_clear()
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(ConfigError, match=r"(?s)opensmile is not installed.*\[opensmile\]"):
        audio_info(OpensmileSettings())
