"""Descriptors of a voice by frame: spectrum, cepstrum, level, pitch and the shape of the spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dct

from vavl.extractors import log_mel
from vavl.extractors.audio_settings import FunctionalSettings
from vavl.extractors.pitch import track_pitch

Numbers = NDArray[np.float64]

REFERENCE_HZ = 100.0
"""Pitch is counted in semitones above this frequency."""

SHAPE = ("centroid", "spread", "rolloff", "median", "flatness", "tilt", "alpha_ratio", "hammarberg")
"""Channels of ``VoiceDescriptors.shape``: kHz, kHz, kHz, kHz, dB, dB per kHz below 500 Hz, dB, dB."""

_ASSUMED_SEMITONES = 7.0  # 150 Hz, where a clip has no voiced frame
_LEAST_VOICED = 5  # frames; fewer give no pitch statistics
_TINY = 1e-10


@dataclass(frozen=True)
class VoiceDescriptors:
    """Descriptors of one clip by frame; silence before and after the sound is left out.

    Attributes:
        times: (time,), seconds.
        seconds_per_frame: distance of the frames.
        spectra: (time, band), dB.
        cepstra: (time, coefficient), cosine transform of the spectrum in nepers.
        level: (time,), dB, power over all bands.
        pitch: (time,), semitones above 100 Hz, straight lines between voiced frames.
        is_voiced: (time,).
        periodicity: (time,), autocorrelation at the period.
        shape: (time, channel) in the order of ``SHAPE``.
    """

    times: NDArray[np.float32]
    seconds_per_frame: float
    spectra: Numbers
    cepstra: Numbers
    level: Numbers
    pitch: Numbers
    is_voiced: NDArray[np.bool_]
    periodicity: Numbers
    shape: Numbers

    @classmethod
    def of(cls, waveform: NDArray[np.float32], settings: FunctionalSettings) -> Self:
        """Describe a waveform (sample,) in -1..1."""
        spectral = settings.spectra
        powers = log_mel.log_mel(torch.from_numpy(waveform), spectral)
        times = log_mel.frame_times(len(powers), spectral)
        track = track_pitch(waveform, times, spectral.sample_rate_hz, settings.pitch)
        kept = slice(0, len(powers))
        if spectral.trim_silence_db is not None:
            kept = log_mel.sounding_frames(powers, spectral.trim_silence_db)
        spectra = powers[kept].double().numpy()
        frequency = track.frequency_hz[kept]
        pitch, is_voiced = _semitones(frequency)
        cepstra = dct(spectra * np.log(10) / 10, axis=1, norm="ortho")[:, : settings.cepstral_coefficients]
        return cls(
            times=times[kept],
            seconds_per_frame=spectral.hop_ms / 1000,
            spectra=spectra,
            cepstra=cepstra,
            level=10 * np.log10((10 ** (spectra / 10)).sum(axis=1)),
            pitch=pitch,
            is_voiced=is_voiced,
            periodicity=track.periodicity[kept],
            shape=_shape(spectra, log_mel.band_edges_hz(spectral)[1:-1].numpy()),
        )


def _semitones(frequency_hz: Numbers) -> tuple[Numbers, NDArray[np.bool_]]:
    """Return pitch in semitones without gaps, and which frames are voiced.

    A clip with hardly a voiced frame reads as voiced throughout at one assumed pitch: its statistics
    stay finite and say "flat".
    """
    is_voiced = frequency_hz > 0
    if is_voiced.sum() < _LEAST_VOICED:
        return np.full(len(frequency_hz), _ASSUMED_SEMITONES), np.ones(len(frequency_hz), dtype=np.bool_)
    place = np.arange(len(frequency_hz))
    voiced = 12 * np.log2(frequency_hz[is_voiced] / REFERENCE_HZ)
    return np.interp(place, place[is_voiced], voiced), is_voiced


def _shape(spectra: Numbers, centre_hz: Numbers) -> Numbers:
    """Describe how power lies over frequency, by frame, from mel bands."""
    power = 10 ** (spectra / 10) + _TINY
    share = power / power.sum(axis=1, keepdims=True)
    khz = centre_hz / 1000
    centroid = share @ khz
    spread = np.sqrt((share * (khz - centroid[:, None]) ** 2).sum(axis=1))
    reached = np.cumsum(share, axis=1)
    rolloff, median = (khz[np.minimum((reached < part).sum(axis=1), len(khz) - 1)] for part in (0.85, 0.5))
    flatness = 10 * (np.log10(power).mean(axis=1) - np.log10(power.mean(axis=1)))
    low, middle, high = khz < 1, khz < 2, (khz >= 2) & (khz < 5)
    between = (khz >= 1) & (khz < 5)
    alpha = _power_db(power, low) - _power_db(power, between)
    hammarberg = _peak_db(spectra, middle) - _peak_db(spectra, high)
    return np.column_stack(
        (centroid, spread, rolloff, median, flatness, _slope(spectra, khz, khz < 0.5), alpha, hammarberg)
    )


def _power_db(power: Numbers, bands: NDArray[np.bool_]) -> Numbers:
    decibels: Numbers = 10 * np.log10(power[:, bands].sum(axis=1) + _TINY)
    return decibels


def _peak_db(spectra: Numbers, bands: NDArray[np.bool_]) -> Numbers:
    peak: Numbers = spectra[:, bands].max(axis=1, initial=-100.0)
    return peak


def _slope(spectra: Numbers, khz: Numbers, bands: NDArray[np.bool_]) -> Numbers:
    """Fit a line through some bands of each frame; its slope in dB per kHz, 0 where there is one band."""
    around = khz[bands] - khz[bands].mean() if bands.any() else khz[bands]
    slope: Numbers = spectra[:, bands] @ around / max(float(around @ around), _TINY)
    return slope
