"""From a sound file to audio features; the same function serves extraction and prediction."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from vavl.extractors import functionals, log_mel, opensmile_features, speech_transformer
from vavl.extractors.audio_settings import (
    AudioFeatureSettings,
    AudioSettings,
    FunctionalSettings,
    OpensmileSettings,
    SpeechTransformerSettings,
)
from vavl.extractors.extracted import Extracted, Extractor
from vavl.extractors.segments import STATISTICS, segment_statistics
from vavl.extractors.speech_model import find_speech_model
from vavl.extractors.voice_descriptors import VoiceDescriptors
from vavl.features import ModalityInfo
from vavl.media.sound import Samples, read_sound


def audio_extractor(settings: AudioSettings) -> Extractor:
    """Return the extractor of these settings.

    Raises:
        ConfigError: the bands do not fit the window, or what the extractor needs is not installed.
    """
    match settings:
        case OpensmileSettings():
            return opensmile_features.OpensmileExtractor(settings).extract
        case SpeechTransformerSettings():
            return speech_transformer.SpeechTransformerExtractor(settings).extract
        case AudioFeatureSettings() | FunctionalSettings():
            check_audio(settings)
            return partial(extract_audio, settings=settings)


def extract_audio(path: Path, settings: AudioFeatureSettings | FunctionalSettings) -> Extracted:
    """Return the audio features of a file that need no model.

    Raises:
        ClipError: the sound cannot be read (see ``vavl.media.sound.read_sound``).
        ConfigError: the bands do not fit the window.
    """
    spectral = settings.spectra if isinstance(settings, FunctionalSettings) else settings
    sound = read_sound(path, spectral.sample_rate_hz, spectral.longest_clip_s)
    match settings:
        case AudioFeatureSettings():
            values, times = _spectra(sound.waveform, settings)
        case FunctionalSettings():
            values, times = _functionals(sound.waveform, settings)
    return Extracted(values, times, note=sound.note, facts=sound.facts)


def audio_info(settings: AudioSettings) -> ModalityInfo:
    """Return the provenance of audio features.

    Raises:
        ConfigError: as ``audio_extractor``.
    """
    recorded = settings.model_dump(mode="json")
    match settings:
        case AudioFeatureSettings():
            width = settings.mel_bands * (len(STATISTICS) if settings.segments else 1)
            return ModalityInfo(log_mel.NAME, log_mel.VERSION, recorded, settings.frame_rate_hz, width)
        case FunctionalSettings():
            names = functionals.channel_names(settings)
            return ModalityInfo(functionals.NAME, functionals.VERSION, recorded, None, len(names), names)
        case OpensmileSettings():
            names = opensmile_features.channel_names(settings)
            rate = None if settings.level == "functionals" else 1 / opensmile_features.HOP_S
            name, version = opensmile_features.NAME, opensmile_features.VERSION
            return ModalityInfo(name, version, recorded, rate, len(names), names)
        case SpeechTransformerSettings():
            return speech_transformer.speech_transformer_info(settings)


def check_audio(settings: AudioSettings) -> None:
    """Raise before any file is read what would fail at each.

    Raises:
        ConfigError: as ``audio_extractor``.
    """
    match settings:
        case AudioFeatureSettings():
            log_mel.mel_filters(settings)
        case FunctionalSettings():
            log_mel.mel_filters(settings.spectra)
        case OpensmileSettings():
            opensmile_features.channel_names(settings)
        case SpeechTransformerSettings():
            find_speech_model(settings)


def _spectra(waveform: Samples, settings: AudioFeatureSettings) -> tuple[Samples, Samples]:
    """Return frames (time, channel) and their times."""
    spectra = log_mel.log_mel(torch.from_numpy(waveform), settings)
    times = log_mel.frame_times(len(spectra), settings)
    if settings.trim_silence_db is not None:
        sounding = log_mel.sounding_frames(spectra, settings.trim_silence_db)
        spectra, times = spectra[sounding].contiguous(), times[sounding]
    if settings.segments is not None:
        return segment_statistics(spectra.numpy(), times, settings.segments, settings.hop_ms)
    return spectra.numpy(), times


def _functionals(waveform: Samples, settings: FunctionalSettings) -> tuple[Samples, Samples]:
    """Return one frame, at the middle of the sounding part of the clip."""
    voice = VoiceDescriptors.of(waveform, settings)
    values = np.array([list(functionals.functionals(voice, settings).values())], dtype=np.float32)
    return values, np.array([voice.times.mean()], dtype=np.float32)
