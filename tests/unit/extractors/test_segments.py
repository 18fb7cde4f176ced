"""Statistics of segments."""

from __future__ import annotations

import numpy as np
from rendered_media import tone, write_wav

from vavl.extractors.extractor import audio_info, extract_audio
from vavl.extractors.log_mel import STATISTICS, segment_statistics
from vavl.extractors.settings import AudioFeatureSettings, SegmentSettings

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
