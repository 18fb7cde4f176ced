"""From a sound file to audio features; the same function serves extraction and prediction."""

from __future__ import annotations

from pathlib import Path

import torch

from vavl.data.statistics import ModalityInfo
from vavl.features import log_mel
from vavl.features.extracted import Extracted
from vavl.features.media import read_audio
from vavl.features.segments import STATISTICS, segment_statistics
from vavl.features.settings import AudioFeatureSettings


def extract_audio(path: Path, settings: AudioFeatureSettings) -> Extracted:
    """Return the audio features of a file.

    Raises:
        ClipError: the sound cannot be read (see ``vavl.features.media.read_audio``).
        ConfigError: the bands do not fit the window.
    """
    waveform = read_audio(path, settings.sample_rate_hz, settings.longest_clip_s)
    spectra = log_mel.log_mel(torch.from_numpy(waveform), settings)
    times = log_mel.frame_times(len(spectra), settings)
    if settings.trim_silence_db is not None:
        sounding = log_mel.sounding_frames(spectra, settings.trim_silence_db)
        spectra, times = spectra[sounding].contiguous(), times[sounding]
    values = spectra.numpy()
    if settings.segments is not None:
        values, times = segment_statistics(values, times, settings.segments, settings.hop_ms)
    return Extracted(values, times)


def audio_info(settings: AudioFeatureSettings) -> ModalityInfo:
    """Return the provenance of audio features."""
    return ModalityInfo(
        extractor=log_mel.NAME,
        version=log_mel.VERSION,
        settings=settings.model_dump(mode="json"),
        frame_rate_hz=settings.frame_rate_hz,
        width=settings.mel_bands * (len(STATISTICS) if settings.segments else 1),
    )
