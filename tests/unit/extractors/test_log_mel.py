"""Log-mel spectra: right band, right time, right level; a clip does not depend on its batch; statistics of segments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rendered_media import tone, write_wav

from vavl.errors import ConfigError
from vavl.extractors.extractor import audio_info, extract_audio
from vavl.extractors.log_mel import (
    STATISTICS,
    band_edges_hz,
    frame_times,
    log_mel,
    mel_filters,
    segment_statistics,
    sounding_frames,
)
from vavl.extractors.settings import AudioFeatureSettings, SegmentSettings

SETTINGS = AudioFeatureSettings()


def spectrum(samples: np.ndarray, settings: AudioFeatureSettings = SETTINGS) -> torch.Tensor:
    return log_mel(torch.from_numpy(samples.astype(np.float32)), settings)


@pytest.mark.parametrize("band", [0, 10, 31, 50, 63])
def test_a_tone_peaks_in_the_band_of_its_frequency_at_its_level(band):
    frequency = float(band_edges_hz(SETTINGS)[band + 1])
    found = spectrum(tone(frequency, 0.5, amplitude=0.1))
    assert found.argmax(dim=1).unique().tolist() == [band]
    # A tenth of full scale is -20 dB; a narrow band loses what the window spreads to its neighbors.
    assert -26 < found.max() < -20
    if band > 40:
        assert found.max() == pytest.approx(-20, abs=1)


def test_bands_are_equally_wide_in_mel_and_cover_the_range():
    edges = band_edges_hz(SETTINGS)
    mel = 2595 * torch.log10(1 + edges / 700)
    assert edges[0].item() == pytest.approx(50)
    assert edges[-1].item() == pytest.approx(8000)
    assert torch.diff(mel).std() < 1e-9


@pytest.mark.parametrize(("hop_ms", "samples"), [(10, 160), (20, 320), (12.5, 200)])
def test_frames_are_a_hop_apart_and_their_times_are_their_centres(hop_ms, samples):
    settings = AudioFeatureSettings(hop_ms=hop_ms)
    found = spectrum(np.zeros(16_000), settings)
    times = frame_times(len(found), settings)
    assert len(found) == 1 + (16_000 - 400) // samples
    assert times[0] == pytest.approx(0.0125)
    np.testing.assert_allclose(np.diff(times), hop_ms / 1000, rtol=1e-4)
    assert times[-1] < 1 - 0.0125 + 1e-6


def test_a_click_is_seen_at_its_time():
    samples = np.zeros(16_000)
    samples[8000] = 1
    loudness = spectrum(samples).mean(dim=1)
    times = frame_times(len(loudness), SETTINGS)
    assert abs(times[int(loudness.argmax())] - 0.5) <= 0.01


def test_a_batch_gives_what_each_clip_gives_alone():
    samples = np.random.default_rng(0).normal(0, 0.1, size=(3, 5000))
    together = spectrum(samples)
    for row, alone in enumerate(samples):
        torch.testing.assert_close(together[row], spectrum(alone), rtol=1e-5, atol=1e-4)


def test_silence_is_at_the_floor_and_finite():
    found = spectrum(np.zeros(4000), AudioFeatureSettings(floor_db=-80))
    assert torch.all(found == -80)


def test_a_sound_shorter_than_the_window_is_one_frame():
    assert spectrum(np.ones(7)).shape == (1, 64)


def test_filters_peak_at_1_and_have_no_gap():
    filters = mel_filters(SETTINGS)
    assert filters.max() <= 1
    covered = filters.sum(dim=1) > 0
    inside = covered.nonzero().flatten()
    assert bool(covered[inside[0] : inside[-1]].all())


def test_too_many_bands_for_the_window_are_refused():
    with pytest.raises(ConfigError, match="narrower than the frequency resolution"):
        spectrum(np.zeros(4000), AudioFeatureSettings(mel_bands=512))


@pytest.mark.parametrize(
    ("change", "width"), [({"mel_bands": 40}, 40), ({"f_max_hz": 4000}, 64), ({"window_ms": 50}, 64)]
)
def test_every_setting_changes_the_features(change, width):
    samples = np.random.default_rng(1).normal(0, 0.1, size=8000)
    usual, other = spectrum(samples), spectrum(samples, AudioFeatureSettings(**change))
    assert other.shape[1] == width
    assert usual.shape != other.shape or not torch.allclose(usual, other)


def test_silence_around_the_sound_is_left_out_and_times_stay_true():
    silence = np.zeros(16_000)
    samples = np.concatenate([silence, tone(440, 0.3), 0 * silence[:4800], tone(440, 0.2), silence])
    spectra = spectrum(samples)
    found = sounding_frames(spectra, below_db=40)
    times = frame_times(len(spectra), SETTINGS)[found]
    assert times[0] == pytest.approx(1.0, abs=0.03)
    assert times[-1] == pytest.approx(1.8, abs=0.03)  # the pause between the two tones stays
    assert sounding_frames(spectrum(silence), below_db=40) == slice(0, len(spectrum(silence)))


FRAMES = np.random.default_rng(0).normal(size=(47, 3)).astype(np.float32)
TIMES = (np.arange(47, dtype=np.float32) + 0.5) * 0.01
SEGMENTS = SegmentSettings(length_ms=100, hop_ms=50)


def test_each_segment_holds_the_statistics_of_its_frames_at_its_time():
    values, times = segment_statistics(FRAMES, TIMES, SEGMENTS, hop_ms=10)
    assert values.shape == (9, 3 * len(STATISTICS))
    second = FRAMES[5:15]
    np.testing.assert_allclose(values[1, :3], second.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(values[1, 3:6], second.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(values[1, 6:9], np.abs(np.diff(FRAMES[4:15], axis=0)).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(values[1, 9:], np.quantile(second, 0.9, axis=0), rtol=1e-5)
    np.testing.assert_allclose(times[:3], [0.05, 0.10, 0.15], atol=1e-6)
    # The last segment ends with the clip: no frame is left out.
    np.testing.assert_allclose(values[-1, :3], FRAMES[-10:].mean(axis=0), rtol=1e-5)


def test_a_clip_shorter_than_a_segment_is_one_segment():
    values, times = segment_statistics(FRAMES[:4], TIMES[:4], SEGMENTS, hop_ms=10)
    assert values.shape == (1, 12)
    np.testing.assert_allclose(times, [TIMES[:4].mean()])
    single, _ = segment_statistics(FRAMES[:1], TIMES[:1], SEGMENTS, hop_ms=10)
    np.testing.assert_array_equal(single[0, 3:9], 0)


def test_a_file_gives_segments_of_the_stated_width_and_rate(tmp_path):
    settings = AudioFeatureSettings(hop_ms=10, segments=SegmentSettings(length_ms=300, hop_ms=100))
    extracted = extract_audio(write_wav(tmp_path / "a.wav", tone(440, 1.0), 16_000), settings)
    assert extracted.values.shape[1] == audio_info(settings).width == 4 * settings.mel_bands
    assert settings.frame_rate_hz == 10
    np.testing.assert_allclose(np.diff(extracted.frame_times)[:-1], 0.1, rtol=1e-4)
