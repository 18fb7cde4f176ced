"""A stored provenance gives back the extractor that made the features, or says why not."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from rendered_media import moving_square, tone, write_mp4, write_wav

from vavl.errors import StoreError
from vavl.extractors.descriptor import VideoExtractor
from vavl.extractors.extractor import audio_extractor, audio_info, extract_audio, extractor_of, video_info
from vavl.extractors.settings import (
    AudioFeatureSettings,
    AudioSettings,
    FunctionalSettings,
    OpensmileSettings,
    VideoFeatureSettings,
)


def test_sound_is_read_with_the_settings_of_the_store(tmp_path):
    settings = AudioFeatureSettings(hop_ms=10, mel_bands=40)
    path = write_wav(tmp_path / "a.wav", tone(440, 0.3))
    found = extractor_of(asdict(audio_info(settings)), "audio")(path)
    np.testing.assert_array_equal(found.values, extract_audio(path, settings).values)


def assert_comes_back(folder: Path, settings: AudioSettings) -> None:
    """Hold an extractor to its stored provenance, as JSON, as stores and models keep it.

    Networks have a test of their own.
    """
    path = write_wav(folder / "a.wav", tone(220, 0.5, amplitude=0.3))
    stored = json.loads(json.dumps(asdict(audio_info(settings))))
    found = extractor_of(stored, "audio")(path)
    np.testing.assert_array_equal(found.values, audio_extractor(settings)(path).values)


def test_functionals_come_back_from_what_a_store_says(tmp_path):
    assert_comes_back(tmp_path, FunctionalSettings(cepstral_coefficients=13))


@pytest.mark.parametrize(
    "settings", [{"level": "descriptors"}, {"feature_set": "ComParE_2016", "channels": "mfcc.*"}]
)
def test_opensmile_comes_back_from_what_a_store_says(tmp_path, settings):
    pytest.importorskip("opensmile", reason="openSMILE is not installed: pip install .[opensmile]")
    assert_comes_back(tmp_path, OpensmileSettings(**settings))


def test_pictures_are_read_with_the_settings_of_the_store(tmp_path):
    settings = VideoFeatureSettings(frame_rate_hz=10)
    path = write_mp4(tmp_path / "a.mp4", moving_square(10))
    found = extractor_of(asdict(video_info(settings)), "video")(path)
    np.testing.assert_array_equal(found.values, VideoExtractor(settings).extract(path).values)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"extractor": "table:abc"}, "a table of ready features"),
        ({"extractor": "wav2vec"}, "come from `wav2vec`"),
        ({"version": "99"}, "log_mel 99, here is"),
        ({"settings": {"hop": 10}}, "not known to log_mel"),
    ],
)
def test_features_that_cannot_be_made_here_are_refused(change, problem):
    with pytest.raises(StoreError, match=problem):
        extractor_of({**asdict(audio_info(AudioFeatureSettings())), **change}, "audio")
