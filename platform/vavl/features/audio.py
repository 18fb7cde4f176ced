"""From a sound file to audio features; the same function serves extraction and prediction."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vavl.data.statistics import ModalityInfo
from vavl.features import functionals, log_mel
from vavl.features.audio_settings import AudioFeatureSettings, FunctionalSettings
from vavl.features.extracted import Extracted, Extractor
from vavl.features.media import read_audio
from vavl.features.segments import STATISTICS, segment_statistics
from vavl.features.voice_descriptors import VoiceDescriptors


def audio_extractor(settings: AudioFeatureSettings | FunctionalSettings) -> Extractor:
    """Return the extractor of these settings.

    Raises:
        ConfigError: the bands do not fit the window.
    """
    check_bands(settings)
    return partial(extract_audio, settings=settings)


def extract_audio(path: Path, settings: AudioFeatureSettings | FunctionalSettings) -> Extracted:
    """Return the audio features of a file.

    Raises:
        ClipError: the sound cannot be read (see ``vavl.features.media.read_audio``).
        ConfigError: the bands do not fit the window.
    """
    match settings:
        case AudioFeatureSettings():
            waveform = read_audio(path, settings.sample_rate_hz, settings.longest_clip_s)
            return _spectra(waveform, settings)
        case FunctionalSettings():
            spectral = settings.spectra
            waveform = read_audio(path, spectral.sample_rate_hz, spectral.longest_clip_s)
            return _functionals(waveform, settings)


def audio_info(settings: AudioFeatureSettings | FunctionalSettings) -> ModalityInfo:
    """Return the provenance of audio features."""
    match settings:
        case AudioFeatureSettings():
            return ModalityInfo(
                extractor=log_mel.NAME,
                version=log_mel.VERSION,
                settings=settings.model_dump(mode="json"),
                frame_rate_hz=settings.frame_rate_hz,
                width=settings.mel_bands * (len(STATISTICS) if settings.segments else 1),
            )
        case FunctionalSettings():
            channels = functionals.channel_names(settings)
            return ModalityInfo(
                extractor=functionals.NAME,
                version=functionals.VERSION,
                settings=settings.model_dump(mode="json"),
                frame_rate_hz=None,
                width=len(channels),
                channels=channels,
            )


def check_bands(settings: AudioFeatureSettings | FunctionalSettings) -> None:
    """Raise before any file is read what would fail at each.

    Raises:
        ConfigError: the bands do not fit the window.
    """
    log_mel.mel_filters(settings.spectra if isinstance(settings, FunctionalSettings) else settings)


def _spectra(waveform: NDArray[np.float32], settings: AudioFeatureSettings) -> Extracted:
    spectra = log_mel.log_mel(torch.from_numpy(waveform), settings)
    times = log_mel.frame_times(len(spectra), settings)
    if settings.trim_silence_db is not None:
        sounding = log_mel.sounding_frames(spectra, settings.trim_silence_db)
        spectra, times = spectra[sounding].contiguous(), times[sounding]
    values = spectra.numpy()
    if settings.segments is not None:
        values, times = segment_statistics(values, times, settings.segments, settings.hop_ms)
    return Extracted(values, times)


def _functionals(waveform: NDArray[np.float32], settings: FunctionalSettings) -> Extracted:
    """Return one frame, at the middle of the sounding part of the clip."""
    voice = VoiceDescriptors.of(waveform, settings)
    values = np.array([list(functionals.functionals(voice, settings).values())], dtype=np.float32)
    return Extracted(values, np.array([voice.times.mean()], dtype=np.float32))
