"""Feature settings: bounds, and the command line knows them."""

from __future__ import annotations

import pytest

from vavl.config.load import validate
from vavl.errors import ConfigError
from vavl.extraction.settings import FeatureSettings


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"audio": {"f_max_hz": 9000}}, "above half the sample rate"),
        ({"audio": {"f_min_hz": 8000}}, "not below f_max_hz"),
        ({"audio": {"window_ms": 0.1}}, "window 16"),
        ({"audio": {"hop_mz": 10}}, "did you mean `hop_ms`"),
        ({"audio": {"mel_bands": "many"}}, r"audio\.log_mel\.mel_bands"),
        ({"audio": {"extractor": "opensmile", "channels": "mfcc("}}, "not a regular expression"),
        ({"audio": {"extractor": "opensmile", "feature_set": "eGeMAPS"}}, "eGeMAPSv02"),
        ({"audio": {"extractor": "opensmile", "sample_rate_hz": 4000}}, "greater than or equal to 8000"),
        ({"audio": {"extractor": "mel_log"}}, "log_mel"),
        ({"video": {"frame_rate_hz": 0}}, r"video\.face_descriptor\.frame_rate_hz"),
    ],
)
def test_settings_that_do_not_fit_are_refused(content, problem):
    with pytest.raises(ConfigError, match=problem):
        validate(FeatureSettings, content, "test")


def test_the_frame_rate_is_that_of_the_hop():
    settings = validate(FeatureSettings, {"audio": {"hop_ms": 12.5}}, "test")
    assert settings.audio.frame_rate_hz == 80
