"""Descriptors of a voice by frame: spectrum, cepstrum, level, pitch and the shape of the spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dct

from vavl.extractors import log_mel
from vavl.extractors.settings import FunctionalSettings, PitchSettings

Numbers = NDArray[np.float64]

_CANDIDATES = 8
_VOICED_STRENGTH = 0.45  # periodicity from which a loud frame counts as voiced
_QUIET_DB, _QUIET_SPAN_DB = 30.0, 20.0  # so far below the loudest frame it takes more: 1 more per span
_OCTAVE_COST = 0.01  # per octave of lag, against taking two periods for one
_JUMP_COST = 0.35  # per octave between neighboring frames
_SWITCH_COST = 0.14  # between voiced and unvoiced
_NEVER = -5.0
_TINY = 1e-10


class PitchTrack(NamedTuple):
    """Pitch by frame."""

    frequency_hz: Numbers
    """(time,); 0 where the frame is unvoiced."""
    periodicity: Numbers
    """(time,): normalized autocorrelation at the period, about 1 for a pure tone; its peak where unvoiced."""


def track_pitch(
    waveform: NDArray[np.float32], centres: NDArray[np.float32], sample_rate_hz: int, settings: PitchSettings
) -> PitchTrack:
    """Follow the fundamental frequency of a voice.

    ``waveform``: (sample,). ``centres``: (time,), seconds, middle of each frame.

    Returns:
        One value per frame.
    """
    shortest = int(sample_rate_hz / settings.highest_hz)
    longest = int(sample_rate_hz / settings.lowest_hz)
    energy, correlation = _autocorrelation(waveform, centres, sample_rate_hz, settings, longest + 2)
    strength, lag, height = _candidates(correlation, shortest, longest)
    level_db = 10 * np.log10(energy + _TINY)
    quiet_db = np.maximum(0, level_db.max() - level_db - _QUIET_DB)
    unvoiced = _VOICED_STRENGTH + quiet_db / _QUIET_SPAN_DB
    log_frequency = np.log2(sample_rate_hz / lag)
    path = _best_path(np.column_stack((strength, unvoiced)), log_frequency)
    is_voiced = path < lag.shape[1]
    chosen = np.minimum(path, lag.shape[1] - 1)[:, None]
    frequency = sample_rate_hz / np.take_along_axis(lag, chosen, axis=1)[:, 0]
    periodicity = np.take_along_axis(height, chosen, axis=1)[:, 0]
    return PitchTrack(np.where(is_voiced, frequency, 0.0), np.where(is_voiced, periodicity, height.max(axis=1)))


def _autocorrelation(
    waveform: NDArray[np.float32], centres: NDArray[np.float32], sample_rate_hz: int, settings: PitchSettings, lags: int
) -> tuple[Numbers, Numbers]:
    """Return the energy (time,) and the autocorrelation (time, lag) divided by that of the window."""
    length = round(settings.window_ms * sample_rate_hz / 1000)
    padded = np.pad(waveform.astype(np.float64), (length, 2 * length))
    starts = np.round(np.asarray(centres, np.float64) * sample_rate_hz).astype(int) + length - length // 2
    starts = np.minimum(starts, len(padded) - length)
    window = np.hanning(length)
    frames = padded[starts[:, None] + np.arange(length)]
    frames = (frames - frames.mean(axis=1, keepdims=True)) * window
    size = int(2 ** np.ceil(np.log2(2 * length)))
    of_window = np.fft.irfft(np.abs(np.fft.rfft(window, size)) ** 2)[:lags]
    found = np.fft.irfft(np.abs(np.fft.rfft(frames, size)) ** 2)[:, :lags]
    energy = np.maximum(found[:, 0], 0)
    return energy, found / np.maximum(energy, _TINY)[:, None] / (of_window / of_window[0])


def _candidates(correlation: Numbers, shortest: int, longest: int) -> tuple[Numbers, Numbers, Numbers]:
    """Return strength, lag in samples and height of the highest peaks, each (time, candidate)."""
    lags = np.arange(shortest, longest + 1)
    height = correlation[:, shortest : longest + 1]
    before, after = correlation[:, shortest - 1 : longest], correlation[:, shortest + 1 : longest + 2]
    is_peak = (height >= before) & (height > after) & (height > 0)
    strength = np.where(is_peak, height - _OCTAVE_COST * np.log2(lags / longest), _NEVER)
    order = np.argsort(-strength, axis=1, kind="stable")[:, :_CANDIDATES]
    left, middle, right = (np.take_along_axis(side, order, axis=1) for side in (before, height, after))
    # The top of the parabola through a peak and its neighbors, between samples.
    shift = np.clip((left - right) / 2 / np.minimum(left - 2 * middle + right, -1e-6), -0.5, 0.5)
    return np.take_along_axis(strength, order, axis=1), lags[order] + shift, middle


def _best_path(score: Numbers, log_frequency: Numbers) -> NDArray[np.int64]:
    """Return the path of the highest total score by frame; the last state is "unvoiced" (Viterbi)."""
    frames, states = score.shape
    came_from = np.zeros((frames, states), dtype=np.int64)
    total = score[0]
    for frame in range(1, frames):
        gain = np.full((states, states), -_SWITCH_COST)
        jump = np.abs(log_frequency[frame - 1][:, None] - log_frequency[frame][None])
        gain[:-1, :-1] = -_JUMP_COST * jump
        gain[-1, -1] = 0
        reached = total[:, None] + gain
        came_from[frame] = reached.argmax(axis=0)
        total = reached.max(axis=0) + score[frame]
    path = np.zeros(frames, dtype=np.int64)
    path[-1] = total.argmax()
    for frame in range(frames - 1, 0, -1):
        path[frame - 1] = came_from[frame, path[frame]]
    return path


REFERENCE_HZ = 100.0
"""Pitch is counted in semitones above this frequency."""

SHAPE = ("centroid", "spread", "rolloff", "median", "flatness", "tilt", "alpha_ratio", "hammarberg")
"""Channels of ``VoiceDescriptors.shape``: kHz, kHz, kHz, kHz, dB, dB per kHz below 500 Hz, dB, dB."""

_ASSUMED_SEMITONES = 7.0  # 150 Hz, where a clip has no voiced frame
_LEAST_VOICED = 5  # frames; fewer give no pitch statistics


@dataclass(frozen=True)
class VoiceDescriptors:
    """Descriptors of one clip by frame; silence before and after the sound is left out."""

    times: NDArray[np.float32]  # (time,), seconds
    seconds_per_frame: float  # distance of the frames
    spectra: Numbers  # (time, band), dB
    cepstra: Numbers  # (time, coefficient), cosine transform of the spectrum in nepers
    level: Numbers  # (time,), dB, power over all bands
    pitch: Numbers  # (time,), semitones above 100 Hz, straight lines between voiced frames
    is_voiced: NDArray[np.bool_]  # (time,)
    periodicity: Numbers  # (time,), autocorrelation at the period
    shape: Numbers  # (time, channel) in the order of ``SHAPE``

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
