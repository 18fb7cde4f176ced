"""From a sound file to features, and what may not be written."""

from __future__ import annotations

import numpy as np
import pytest
from rendered_media import tone, write_wav
from sounding_media import write_clip

from vavl.errors import ClipError
from vavl.extractors.extracted import Extracted, read_modality
from vavl.extractors.extractor import audio_extractor, audio_info, extract_audio
from vavl.extractors.settings import AudioFeatureSettings, FunctionalSettings


def test_a_sound_file_becomes_frames_with_times(tmp_path):
    settings = AudioFeatureSettings()
    extracted = extract_audio(write_wav(tmp_path / "a.wav", tone(440, 0.5, 48_000), 48_000), settings)
    assert extracted.values.shape == (24, audio_info(settings).width)
    assert extracted.values.dtype == extracted.frame_times.dtype == np.float32
    np.testing.assert_allclose(np.diff(extracted.frame_times), 1 / settings.frame_rate_hz, rtol=1e-4)


@pytest.mark.parametrize("settings", [AudioFeatureSettings(), FunctionalSettings()])
def test_facts_of_the_file_and_what_was_filled_up_come_with_the_features(tmp_path, settings):
    late = write_clip(tmp_path / "a.mp4", tone(220, 1.0, amplitude=0.3), sound_at_s=0.5, seconds=1.5)
    extracted = audio_extractor(settings)(late)
    assert extracted.facts["seconds"] == pytest.approx(1.0, abs=0.1)
    assert extracted.facts["peak"] == pytest.approx(0.3, abs=0.05)
    assert "of silence before the audio" in str(extracted.note)


def test_values_that_are_not_finite_are_refused():
    values = np.zeros((3, 2), dtype=np.float32)
    good = Extracted(values, np.zeros(3, dtype=np.float32))
    assert read_modality(lambda _: good, None, "a.wav", "audio") is good
    values[1, 1] = np.nan
    with pytest.raises(ClipError, match=r"NaN or infinite values \(1 of 6\)"):
        read_modality(lambda _: good, None, "a.wav", "audio")


def test_another_width_is_refused():
    found = Extracted(np.zeros((3, 2), np.float32), np.zeros(3, np.float32))
    with pytest.raises(ClipError, match="2 channels instead of 4"):
        read_modality(lambda _: found, None, "a.wav", "audio", 4)


def test_features_without_a_frame_are_refused():
    empty = Extracted(np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
    with pytest.raises(ClipError, match="no frame"):
        read_modality(lambda _: empty, None, "a.wav", "audio")
