"""Features for a prediction come from the extractor that the model was trained with, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from vavl.errors import StoreError
from vavl.features.audio import audio_info, extract_audio
from vavl.features.from_provenance import extractor_of
from vavl.features.settings import AudioFeatureSettings


def _audio_provenance(**changes: Any) -> dict[str, Any]:
    info = audio_info(AudioFeatureSettings(mel_bands=20))
    return {"extractor": info.extractor, "version": info.version, "settings": dict(info.settings), **changes}


def test_the_same_settings_give_the_same_features(tmp_path: Path) -> None:
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, np.random.default_rng(0).normal(scale=0.1, size=4000), 16000)
    found = extractor_of(_audio_provenance(), "audio")(sound).values
    np.testing.assert_array_equal(found, extract_audio(sound, AudioFeatureSettings(mel_bands=20)).values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "0"}, "log_mel 0, here is"),
        ({"extractor": "table:abc"}, "table of ready features"),
        ({"extractor": "other"}, "come from `other`"),
        ({"settings": {"mel_band": 3}}, "mel_band"),
    ],
)
def test_other_features_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        extractor_of(_audio_provenance(**changes), "audio")
